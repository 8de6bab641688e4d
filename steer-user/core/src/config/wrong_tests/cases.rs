//! Mistakes in the valid document.

mod addresses;
mod keys;
mod others;
mod types;
mod words;

use super::Wrong;

/// All of them, by kind.
pub(super) const ALL: [&[Wrong]; 5] = [
    keys::CASES,
    types::CASES,
    words::CASES,
    addresses::CASES,
    others::CASES,
];
