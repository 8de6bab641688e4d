//! The daemon and the command line of steer.

pub mod api;
pub mod cli;
pub mod daemon;
pub mod explain;
pub mod otlp;
mod packet_words;
pub mod preflight;
