//! A simulated fleet of inference engines.

pub mod engine;
