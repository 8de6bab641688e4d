//! Configurations.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use steer_core::config::Config;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text, Path::new("steer.toml")) {
        // Every refusal has a message.
        assert!(!error.to_string().is_empty());
    }
});
