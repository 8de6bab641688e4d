//! The part of the daemon that concludes: configuration, evidence, control loop, journal and
//! generations, and the traits of the data path that they write to and read.
//!
//! Nothing here needs a kernel, a network or the BPF tool chain.

pub mod config;
pub mod control;
pub mod dataplane;
pub mod digest;
pub mod domain;
pub mod durable;
pub mod generations;
pub mod journal;
mod omit;
