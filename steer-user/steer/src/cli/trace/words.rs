//! A traced packet as text.

use std::time::{Duration, UNIX_EPOCH};

use humantime_serde::re::humantime::format_rfc3339_micros;

use crate::{api::TracedPacket, packet_words};

/// Default UDP port of encapsulated IP packets; another port shows as UDP.
const GUE: u16 = 6080;

/// Returns one line for a packet.
pub(super) fn packet(packet: &TracedPacket, before: &[u8], after: &[u8]) -> String {
    let time = format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(packet.time_ns)).to_string();
    let clock = time.get(11..26).unwrap_or(&time);
    let headers = packet_words::frame(before, Some(GUE));
    let mut text = format!(
        "{clock} {} {headers} {} bytes: {}",
        packet.interface,
        packet.len,
        verdict(packet)
    );
    if packet.sent_by.is_some() {
        text += &format!("; left as {}", packet_words::frame(after, Some(GUE)));
    }
    text
}

/// Returns the outcome of a packet and its reason.
pub(super) fn verdict(packet: &TracedPacket) -> String {
    let mut text = packet.verdict.clone();
    let mut add = |words: &str| text.push_str(words);
    match (packet.verdict.as_str(), &packet.backend, &packet.reason) {
        (_, _, Some(reason)) => add(&format!(" ({reason})")),
        ("sent", Some(backend), None) if packet.is_answer() => {
            add(&format!(" from {backend} back"))
        }
        ("sent", Some(backend), None) => add(&format!(" to {backend}")),
        _ => {}
    }
    if let Some(interface) = &packet.sent_by {
        add(&format!(" by {interface}"));
    }
    if let Some(service) = &packet.service {
        add(&format!(", service {service}"));
    }
    if let Some(class) = &packet.class {
        add(&format!(", class {class}"));
    }
    for step in &packet.steps {
        add(&format!(", {step}"));
    }
    text
}
