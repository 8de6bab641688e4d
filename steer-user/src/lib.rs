//! The daemon, the beacon and the command line of steer.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
mod digest;
pub mod domain;
mod durable;
pub mod explain;
pub mod generations;
pub mod journal;
pub mod otlp;
mod packet_words;
pub mod preflight;
