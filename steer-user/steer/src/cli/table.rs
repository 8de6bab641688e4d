//! The status as text and tables.

use std::{collections::BTreeMap, fmt::Write as _};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use steer_core::{
    config::FirstToken,
    control::{
        Attachment, BackendStatus, ClassStatus, LatencyStatus, MemberStatus, ServiceStatus, Status,
    },
    dataplane::AttachedMode,
};
use steer_dataplane::MapMemory;

use super::{paint, show};

/// Returns the status as text.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "node {}, {}", status.node, attached(&status.attached));
    for interface in &status.attached {
        if interface.mode == Some(AttachedMode::Generic) {
            let _ = writeln!(
                text,
                "warning: {} is attached in generic mode, as configured by `xdp_mode`: each \
                 packet costs several times as much as in native mode",
                interface.interface
            );
        }
        if let Some(failure) = &interface.failure {
            let _ = writeln!(
                text,
                "warning: {} is not attached, so its packets are not steered: {failure}",
                interface.interface
            );
        }
    }
    for unsaved in &status.unsaved {
        let _ = writeln!(text, "warning: {unsaved}");
    }
    if let Some(by) = &status.traced_by {
        let _ = writeln!(
            text,
            "a trace by {by} is running, which slows the data path down"
        );
    }
    if let Some(generation) = status.generation {
        let trial = status.confirm_by.map_or(String::new(), |until| {
            let until = format_rfc3339_seconds(until);
            format!(", reverted at {until} unless `steer config confirm` is run before")
        });
        let _ = writeln!(text, "configuration {generation}{trial}");
    }
    backends(&mut text, &status.backends);
    for entry in &status.services {
        service(&mut text, entry);
    }
    if !status.drops.is_empty() {
        let _ = writeln!(text, "\ndropped packets");
        for (reason, count) in &status.drops {
            let _ = writeln!(text, "  {reason:<24}{count:>12}");
        }
    }
    text
}

fn attached(interfaces: &[Attachment]) -> String {
    let attached = interfaces.iter().filter(|i| i.mode.is_some());
    let names: Vec<String> = attached
        .map(|i| match i.mode {
            Some(AttachedMode::Generic) => format!("{} (generic)", i.interface),
            _ => i.interface.clone(),
        })
        .collect();
    match names.len() {
        0 => "attached to nothing".to_owned(),
        _ => format!("attached to {}", names.join(", ")),
    }
}

/// Returns the memory of the maps as text.
pub(super) fn memory(maps: &[MapMemory]) -> String {
    let mut text = format!(
        "{:<16}{:<14}{:>10}{:>14}\n",
        "map", "kind", "entries", "locked KiB"
    );
    // Writing to a String does not fail.
    let mut line = |name: &str, kind: &str, entries: &str, bytes: u64| {
        let kib = bytes as f64 / 1024.0;
        let _ = writeln!(text, "{name:<16}{kind:<14}{entries:>10}{kib:>14.1}");
    };
    for map in maps {
        line(&map.name, &map.kind, &map.entries.to_string(), map.bytes);
    }
    line("all", "", "", maps.iter().map(|map| map.bytes).sum());
    text
}

pub(super) fn backends(text: &mut String, backends: &[BackendStatus]) {
    let _ = writeln!(
        text,
        "\n{:<20}{:<10}{:<26}{:<6}{:>12}{:>6}  note",
        "backend", "health", "address", "mode", "round trip", "ring"
    );
    for backend in backends {
        let rtt = backend
            .rtt_us
            .map_or("-".to_owned(), |us| format!("{:.2} ms", us as f64 / 1000.0));
        let ring = backend.ring.map_or("-".to_owned(), |ring| ring.to_string());
        let mut notes = Vec::new();
        if backend.drained {
            let far = backend
                .drain
                .as_ref()
                .map(|d| format!(": {}", show::drain(d)));
            notes.push(format!(
                "drained by the operator{}",
                far.unwrap_or_default()
            ));
        }
        if backend.weight_is_set {
            notes.push(format!("weight {} set by the operator", backend.weight));
        }
        if backend.draining {
            notes.push("its beacon reports that it drains".to_owned());
        }
        notes.extend(
            backend
                .used
                .map(|used| format!("uses {:.0} %", used * 100.0)),
        );
        if backend.hot {
            notes.push("hot: new flows try others".to_owned());
        }
        notes.extend(backend.degraded.iter().cloned());
        notes.extend(
            backend
                .ejected_for
                .as_ref()
                .map(|why| format!("takes no new flows: {why}")),
        );
        notes.extend(backend.hint.as_ref().map(|hint| format!("hint: {hint}")));
        if !backend.resolved {
            notes.push("its next hop is not resolved".to_owned());
        }
        notes.extend(backend.failure.clone());
        let _ = writeln!(
            text,
            "{:<20}{}{:<26}{:<6}{:>12}{:>6}  {}",
            backend.name,
            paint::state(&backend.health, 10),
            backend.address,
            backend.mode,
            rtt,
            ring,
            notes.join("; ")
        );
    }
}

pub(super) fn service(text: &mut String, service: &ServiceStatus) {
    let port = match service.port {
        0 => "any port".to_owned(),
        port => format!("port {port}"),
    };
    let _ = writeln!(
        text,
        "\nservice {}: {} {} {}, pools {}; {} slots, {} migrating",
        service.name,
        service.protocol,
        service.address,
        port,
        service.pools.join(" then "),
        service.slots,
        service.migrating
    );
    let _ = writeln!(
        text,
        "  {:<18}{:<12}{:<10}{:>7}{:>12}{:>14}{:>16}",
        "member", "pool", "state", "share", "flows", "packets", "bytes"
    );
    for member in &service.members {
        let _ = writeln!(
            text,
            "  {:<18}{:<12}{}{:>5.1} %{:>12}{:>14}{:>16}",
            member.backend,
            member.pool,
            paint::state(&member.state, 10),
            member.share * 100.0,
            member.flows,
            member.packets,
            member.bytes
        );
    }
    passive(text, &service.members);
    admission(text, "", service.shed, service.priority, &service.refused);
    for entry in &service.classes {
        class(text, entry);
    }
}

/// Writes the passive measurements of members, if there are any.
fn passive(text: &mut String, members: &[MemberStatus]) {
    let known = || {
        members
            .iter()
            .filter_map(|m| Some((m, m.passive.as_ref()?)))
    };
    if known().next().is_none() {
        return;
    }
    text.push_str(&passive_head());
    for (member, passive) in known() {
        let first_token = match passive.first_token {
            FirstToken::FirstByte => &passive.first_byte,
            FirstToken::SecondBurst => &passive.second_burst,
        };
        let _ = writeln!(
            text,
            "  {:<18}{:>20}{:>20}{:>20}{:>9}{:>8}{:>11}{:>9}{:>8}",
            member.backend,
            quantiles(&passive.connect),
            quantiles(first_token),
            quantiles(&passive.gap),
            passive.refused,
            passive.resets,
            passive.unanswered,
            passive.waiting,
            passive.silent
        );
    }
}

/// Returns the head of the table of passive measurements.
fn passive_head() -> String {
    format!(
        "  {:<18}{:>20}{:>20}{:>20}{:>9}{:>8}{:>11}{:>9}{:>8}\n",
        "p50 / p99 ms",
        "connect",
        "first token",
        "gap",
        "refused",
        "resets",
        "no answer",
        "waiting",
        "silent"
    )
}

fn quantiles(latency: &LatencyStatus) -> String {
    let ms = |us: Option<u64>| us.map(|us| us as f64 / 1000.0);
    match (ms(latency.p50_us), ms(latency.p99_us)) {
        (Some(p50), Some(p99)) => format!("{p50:.2} / {p99:.2}"),
        _ => "-".to_owned(),
    }
}

fn admission(
    text: &mut String,
    indent: &str,
    shed: bool,
    priority: u8,
    refused: &BTreeMap<String, u64>,
) {
    if shed {
        let _ = writeln!(
            text,
            "  {indent}new flows are shed: a pool is hot, and the priority is {priority}"
        );
    }
    if !refused.is_empty() {
        let count = |(reason, count): (&String, &u64)| format!("{count} {reason}");
        let counts: Vec<_> = refused.iter().map(count).collect();
        let _ = writeln!(text, "  {indent}refused packets: {}", counts.join(", "));
    }
}

fn class(text: &mut String, class: &ClassStatus) {
    let mut clients = Vec::new();
    if !class.sources.is_empty() {
        clients.push(format!("clients in {}", class.sources.join(", ")));
    }
    if !class.dscp.is_empty() {
        let dscp: Vec<_> = class.dscp.iter().map(u8::to_string).collect();
        clients.push(format!("DSCP {}", dscp.join(", ")));
    }
    let regions = match &class.regions {
        Some(regions) => format!(", from {} only", regions.join(", ")),
        None => String::new(),
    };
    let _ = writeln!(
        text,
        "  class {}: {}; pools {}{}; {} slots, {} migrating",
        class.name,
        clients.join(", "),
        class.pools.join(" then "),
        regions,
        class.slots,
        class.migrating
    );
    for (backend, share) in &class.shares {
        let _ = writeln!(text, "    {backend:<38}{:>5.1} %", share * 100.0);
    }
    admission(text, "  ", class.shed, class.priority, &class.refused);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_of_measurements_stand_apart() {
        let head = passive_head();
        let words = head.split("  ").map(str::trim).filter(|w| !w.is_empty());
        assert_eq!(words.count(), 9, "{head}");
    }
}
