//! steer.

pub mod beacon;
pub mod pki;
pub mod probe;
