//! steer.

pub mod beacon;
pub mod dataplane;
pub mod pki;
pub mod probe;
