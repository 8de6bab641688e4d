//! Verdicts of the daemon about backends during an attack.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use serde_json::Value;
use steer_core::journal;

use crate::fleet::Fleet;

/// Interval between status queries.
const LOOK: Duration = Duration::from_millis(400);

/// Watcher of the status, which also reads the journal at the end. Both are parsed as untyped JSON,
/// so that new fields do no harm.
#[derive(Debug)]
pub(super) struct Verdicts {
    since: SystemTime,
    state: PathBuf,
    seen: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Verdicts {
    /// Starts the watcher.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot start.
    pub(super) fn follow(fleet: &Fleet) -> Result<Self> {
        let seen = Arc::<Mutex<BTreeSet<String>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (found, stopped) = (seen.clone(), stop.clone());
        let mut status = status_command(fleet);
        let thread = thread::Builder::new().name("verdicts".to_owned());
        let thread = thread.spawn(move || {
            while !stopped.load(Relaxed) {
                // A restarting daemon does not answer.
                let text = status.output().map(|output| output.stdout);
                if let Ok(status) = serde_json::from_slice(&text.unwrap_or_default()) {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.extend(out_by_status(&status));
                }
                thread::sleep(LOOK);
            }
        });
        Ok(Self {
            since: SystemTime::now(),
            state: fleet.state(),
            seen,
            stop,
            thread: Some(thread.context("start a thread")?),
        })
    }

    /// Returns the backends ejected since the start, with the reasons.
    ///
    /// # Errors
    ///
    /// Returns an error if the journal cannot be read.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        self.end();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = seen.clone();
        drop(seen);
        all.extend(out_by_journal(&self.state, self.since)?);
        Ok(all.into_iter().collect())
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Verdicts {
    fn drop(&mut self) {
        self.end();
    }
}

fn status_command(fleet: &Fleet) -> Command {
    let mut status = Command::new("nsenter");
    status
        .arg(format!("--net={}", fleet.site.node.path()))
        .arg("--")
        .arg(fleet.program())
        .args(["status", "--json", "--socket"])
        .arg(fleet.path("steer.sock"));
    status
}

/// Returns the backends without new flows in a status, with the reason.
pub fn out_by_status(status: &Value) -> Vec<String> {
    let backends = status["backends"].as_array();
    let out = backends.into_iter().flatten().filter_map(|backend| {
        let health = backend["health"].as_str().unwrap_or_default();
        let down = !matches!(health, "" | "up" | "degraded" | "unknown");
        let keys = ["ejected_for", "ejected", "suppressed"];
        let reason = keys.iter().find_map(|key| match &backend[*key] {
            Value::Null | Value::Bool(false) => None,
            why => Some(format!("{key}: {why}")),
        });
        let reason = reason.or_else(|| down.then(|| format!("health: {health}")))?;
        Some(format!("{} ({reason})", backend["name"].as_str()?))
    });
    out.collect()
}

/// Returns the backends without new flows in the journal since a time, with the reason.
///
/// # Errors
///
/// Returns an error if the journal cannot be read.
pub fn out_by_journal(state: &Path, since: SystemTime) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let folder = journal::folder(state);
    if !fs::exists(&folder)? {
        return Ok(found);
    }
    for record in journal::records(&folder)? {
        // The last line may be incomplete.
        let Ok(record) = record else { break };
        if record.item.at >= since {
            found.extend(out_by_event(&serde_json::to_value(&record.item.event)?));
        }
    }
    Ok(found)
}

/// Returns the backend from which an event keeps new flows.
fn out_by_event(event: &Value) -> Option<String> {
    let kind = event["event"].as_str()?;
    let backend = event["backend"].as_str()?;
    let reason = match kind {
        "backend" => {
            let health = event["health"][1].as_str();
            let suppressed = event["suppressed"] == true;
            let down = health.filter(|to| !matches!(*to, "up" | "degraded" | "unknown"));
            down.map(str::to_owned)
                .or_else(|| suppressed.then(|| "flapping".to_owned()))?
        }
        "outlier_detection" => {
            let out = &event["verdict"]["out"];
            (!out.is_null()).then(|| out.to_string())?
        }
        kind if kind.contains("eject") || kind.contains("outlier") => {
            // The end of an ejection is an event of its own.
            let ends =
                event["ejected"] == false || kind.contains("end") || kind.contains("recover");
            (!ends).then(|| kind.to_owned())?
        }
        _ => return None,
    };
    Some(format!("{backend} (journal: {reason})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_tells_who_is_kept_from_new_flows() {
        let status = json!({"backends": [
            {"name": "a", "health": "up", "ejected_for": null, "degraded": ["slow"]},
            {"name": "b", "health": "down", "ejected_for": null},
            {"name": "c", "health": "up", "ejected_for": "it refuses"},
            {"name": "d", "health": "unknown"},
            {"name": "e", "health": "up", "ejected": {"reason": "resets"}},
        ]});
        let out = out_by_status(&status);
        let names: Vec<&str> = out.iter().filter_map(|o| o.split(' ').next()).collect();
        assert_eq!(names, ["b", "c", "e"], "{out:?}");
    }

    #[test]
    fn events_tell_who_is_kept_from_new_flows() {
        let out = |event| out_by_event(&event).is_some();
        assert!(out(
            json!({"event": "backend", "backend": "a", "health": ["up", "down"]})
        ));
        assert!(!out(
            json!({"event": "backend", "backend": "a", "health": ["down", "up"]})
        ));
        let verdict = json!({"out": ["refuses", "10s"]});
        assert!(out(
            json!({"event": "outlier_detection", "backend": "a", "verdict": verdict})
        ));
        assert!(!out(
            json!({"event": "outlier_detection", "backend": "a", "verdict": "again"})
        ));
        assert!(!out(
            json!({"event": "drained", "backend": "a", "drained": true})
        ));
        assert!(out(json!({"event": "ejected", "backend": "a"})));
    }
}
