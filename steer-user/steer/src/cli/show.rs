//! Services and backends as text, one or all.

use std::fmt::Write as _;

use humantime_serde::re::humantime::format_rfc3339_seconds;
use steer_core::control::{BackendStatus, DrainStatus, ServiceStatus, Status};

use super::{paint, table};

pub(super) fn services(status: &Status) -> String {
    let mut text = format!(
        "{:<20}{:<9}{:<26}{:>9}{:>12}{:>14}{:>16}\n",
        "service", "protocol", "address", "members", "flows", "packets", "bytes"
    );
    for service in &status.services {
        let up = service.members.iter().filter(|m| m.state == "up").count();
        let members = format!("{up} of {}", service.members.len());
        let sum = |of: fn(&steer_core::control::MemberStatus) -> u64| -> u64 {
            service.members.iter().map(of).sum()
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:<20}{:<9}{:<26}{:>9}{:>12}{:>14}{:>16}",
            service.name,
            service.protocol,
            vip(service),
            members,
            sum(|m| m.flows),
            sum(|m| m.packets),
            sum(|m| m.bytes)
        );
    }
    text
}

fn vip(service: &ServiceStatus) -> String {
    match (service.port, service.address.contains(':')) {
        (0, _) => format!("{} any port", service.address),
        (port, true) => format!("[{}]:{port}", service.address),
        (port, false) => format!("{}:{port}", service.address),
    }
}

pub(super) fn service(service: &ServiceStatus) -> String {
    let mut text = String::new();
    table::service(&mut text, service);
    text.trim_start().to_owned()
}

pub(super) fn backends(status: &Status) -> String {
    let mut text = String::new();
    table::backends(&mut text, &status.backends);
    text.trim_start().to_owned()
}

pub(super) fn backend(backend: &BackendStatus, status: &Status) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<14}{value}");
    };
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    line("backend", backend.name.clone());
    line(
        "address",
        format!("{}, mode {}", backend.address, backend.mode),
    );
    line("health", paint::state(&backend.health, 0));
    if let Some(failure) = &backend.failure {
        line("last failure", failure.clone());
    }
    let measured = backend.measured_ms_ago.map(|ms| format!("{ms} ms ago"));
    line("measured", measured.unwrap_or_else(|| "never".to_owned()));
    let rtt = backend
        .rtt_us
        .map(|us| format!("{:.2} ms", us as f64 / 1e3));
    line("round trip", rtt.unwrap_or_else(|| "-".to_owned()));
    let ring = backend.ring.map(|ring| ring.to_string());
    line("ring", ring.unwrap_or_else(|| "-".to_owned()));
    let weight = if backend.weight_is_set {
        format!("{}, set by the operator", backend.weight)
    } else {
        backend.weight.to_string()
    };
    line("weight", weight);
    let drain = backend
        .drain
        .as_ref()
        .map_or_else(|| "no".to_owned(), drain);
    line("drained", drain);
    line("beacon drains", yes(backend.draining));
    line("resolved", yes(backend.resolved));
    let _ = writeln!(
        text,
        "\n{:<20}{:<12}{:<10}{:>7}{:>12}{:>14}{:>16}",
        "member of", "pool", "state", "share", "flows", "packets", "bytes"
    );
    for service in &status.services {
        for member in service.members.iter().filter(|m| m.backend == backend.name) {
            let _ = writeln!(
                text,
                "{:<20}{:<12}{}{:>5.1} %{:>12}{:>14}{:>16}",
                service.name,
                member.pool,
                paint::state(&member.state, 10),
                member.share * 100.0,
                member.flows,
                member.packets,
                member.bytes
            );
        }
    }
    text
}

/// Returns the progress of a drain.
pub(super) fn drain(drain: &DrainStatus) -> String {
    let left = match (drain.slots, drain.flows) {
        (0, 0) => String::new(),
        (slots, flows) => format!("; {slots} slots and {flows} flow-table entries are left"),
    };
    let until = drain.until.map_or_else(String::new, |until| {
        let until = format_rfc3339_seconds(until);
        match drain.state.as_str() {
            "gone" => format!(", since {until} at the latest"),
            _ => format!(", until {until}"),
        }
    });
    format!("{}{until}{left}", drain.state)
}
