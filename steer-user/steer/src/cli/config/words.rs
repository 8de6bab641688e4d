//! Configurations and their changes as text.

use std::fmt::Write as _;

use humantime_serde::re::humantime::format_rfc3339_seconds;
use steer_core::{
    control::{Fate, ServicePreview, Shares},
    generations::{Entry, Generation, History},
};

use crate::daemon::{Applied, Diff};

/// Number of a service's backends up to which all are listed; beyond it, only those whose share
/// changes.
const LISTED: usize = 20;

/// Returns the keys that differ.
fn changes(from: Option<u64>, changes: &[String]) -> String {
    let since = from.map_or("the running configuration".to_owned(), |n| {
        format!("generation {n}")
    });
    if changes.is_empty() {
        return format!("nothing differs from {since}\n");
    }
    let mut text = format!("differs from {since}:\n");
    for change in changes {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {change}");
    }
    text
}

/// Returns the changes that a configuration would make.
pub(super) fn diff(diff: &Diff) -> String {
    let mut text = changes(diff.from, &diff.changes);
    for entry in &diff.preview.services {
        service(&mut text, entry);
    }
    if !diff.preview.assumed.is_empty() {
        let _ = writeln!(
            text,
            "\nnot measured yet, assumed as near as others in their region: {}",
            diff.preview.assumed.join(", ")
        );
    }
    if !diff.findings.is_empty() {
        text.push('\n');
    }
    for finding in &diff.findings {
        let _ = writeln!(text, "{}: {finding}", finding.severity);
    }
    text
}

fn service(text: &mut String, service: &ServicePreview) {
    let ServicePreview { name, vip, .. } = service;
    let fate = match service.fate {
        Fate::New => "is new".to_owned(),
        Fate::Goes if name.contains('/') => {
            "is removed: its clients get the service's policy".to_owned()
        }
        Fate::Goes => "is removed: its packets are no longer steered".to_owned(),
        Fate::Stays if service.moved == 0.0 => "is unchanged".to_owned(),
        Fate::Stays => format!(
            "{} of new flows move; open ones stay",
            percent(service.moved)
        ),
    };
    let kind = if name.contains('/') {
        "class"
    } else {
        "service"
    };
    let _ = writeln!(text, "\n{kind} {name} ({vip}) {fate}");
    let changed = |shares: &Shares| shares.now != shares.then;
    if service.fate == Fate::Stays && !service.shares.values().any(changed) {
        return;
    }
    let _ = writeln!(text, "  {:<24}{:>9}{:>12}", "backend", "now", "then");
    let all = service.shares.len() <= LISTED;
    let mut ejected_for = 0;
    for (backend, shares) in &service.shares {
        if !all && !changed(shares) {
            ejected_for += 1;
            continue;
        }
        let share = |share: Option<f64>| share.map_or("-".to_owned(), percent);
        let _ = writeln!(
            text,
            "  {backend:<24}{:>9}  ->{:>8}",
            share(shares.now),
            share(shares.then)
        );
    }
    if ejected_for > 0 {
        let _ = writeln!(text, "  {ejected_for} others keep their share");
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Returns what was applied, and the changes found before.
pub(super) fn applied(applied: &Applied, found: Option<&Diff>) -> String {
    let mut text = String::new();
    let number = applied
        .generation
        .map_or("the configuration".to_owned(), |n| {
            format!("generation {n}")
        });
    match found {
        _ if applied.unchanged => {
            let _ = writeln!(
                text,
                "{number} is the same already; its certificates were reloaded"
            );
        }
        Some(found) => text += &diff(found),
        None => {
            for change in &applied.changes {
                let _ = writeln!(text, "  {change}");
            }
        }
    }
    if !applied.unchanged {
        let _ = writeln!(text, "{number} is in use");
    }
    if let Some(until) = applied.until {
        let until = format_rfc3339_seconds(until);
        let _ = writeln!(
            text,
            "it is reverted at {until} unless `steer config confirm` is run before"
        );
    }
    if let Some(warning) = &applied.warning {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// Returns the stored generations.
pub(super) fn history(history: &History) -> String {
    let mut text = format!(
        "{:>12}  {:<22}{:<10}{:<24}{}\n",
        "generation", "made", "outcome", "by", "file"
    );
    for entry in &history.generations {
        let _ = writeln!(text, "{}", line(history, entry));
    }
    let trial = history.standing.as_ref().and_then(|s| s.pending.as_ref());
    if let Some(trial) = trial {
        let until = format_rfc3339_seconds(trial.until);
        let _ = writeln!(
            text,
            "generation {} is reverted at {until} unless `steer config confirm` is run before",
            trial.number
        );
    }
    text
}

fn line(history: &History, entry: &Entry) -> String {
    let number = entry.number;
    let standing = history.standing.as_ref();
    let mark = match standing {
        Some(standing) if standing.current() == number => "*",
        _ => "",
    };
    if let Some(damage) = &entry.damage {
        return format!("{mark:>4}{number:>8}  {damage}");
    }
    format!(
        "{mark:>4}{number:>8}  {:<22}{:<10}{:<24}{}",
        format_rfc3339_seconds(entry.made).to_string(),
        entry.outcome.as_str(),
        entry.by,
        entry.file.display()
    )
}

/// Returns the document of a generation; one with a single file can be applied as printed.
pub(super) fn generation(generation: &Generation) -> String {
    let mut text = format!(
        "# generation {}, made {} by {}\n",
        generation.number,
        format_rfc3339_seconds(generation.made),
        generation.by
    );
    for file in &generation.document.files {
        let _ = writeln!(text, "# file {}", file.path.display());
        text += &file.text;
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}
