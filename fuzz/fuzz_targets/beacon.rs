//! Messages between node and beacon.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steer_probe::probe::{ Load, wire::{decode_ping, decode_reply, encode_ping}, };

fuzz_target!(|datagram: &[u8]| {
    if let Ok(sequence) = decode_ping(datagram) {
        assert_eq!(encode_ping(sequence), datagram);
    }
    if let Ok((_, report)) = decode_reply(datagram) {
        report.validate().expect("it was looked at");
        let load = Load::parse(&report);
        let _ = (load.has_signal(), report.failure(), report.draining());
        if let Some(budget) = report.probe_budget() {
            assert!(budget.is_finite() && budget >= 0.0, "{budget}");
        }
    }
});
