//! Transmission: what becomes of a packet once its verdict is known.

mod apply;
mod outcome;
mod send;

pub(crate) use apply::{apply, apply_and_store, apply_recorded};
pub use outcome::{Action, Outcome};
pub(crate) use send::{deliver, forward, reply};
