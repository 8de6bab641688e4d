//! steer.

pub mod beacon;
pub mod dataplane;
pub mod domain;
pub mod pki;
pub mod probe;
