//! steer.

pub mod pki;
