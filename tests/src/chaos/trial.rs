//! One failure under load, and its effects by the client, the journal and the status.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::Serialize;
use steer_core::{
    domain::{health::State, passive::Verdict},
    journal::{self, Event},
};
use tokio::sync::watch;

use super::Death;
use crate::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::{Load, Running, Sample},
};

/// Names of the backends.
const BACKENDS: [&str; 4] = ["a", "b", "c", "d"];
/// One-way delay of the link to a backend.
const LINE: Duration = Duration::from_micros(300);
/// Duration of the load before the failure.
const BEFORE: Duration = Duration::from_millis(800);
/// Duration of the load after the detection.
const AFTER: Duration = Duration::from_millis(1500);
/// Timeout of a request, longer than the first retransmission of a SYN (1 s, RFC 6298).
const TIMEOUT: Duration = Duration::from_secs(3);
/// Duration from which a request counts as retried.
const DELAYED: Duration = Duration::from_millis(900);

/// A site with default settings, whose beacons watch their engines.
#[derive(Debug)]
pub struct Site {
    /// Running site.
    pub fleet: Fleet,
    /// Interval between requests.
    pub every: Duration,
}

/// Result of a failure. Times are in milliseconds from its start.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Failure.
    pub death: Death,
    /// Name of the victim.
    pub victim: &'static str,
    /// Time of the first conclusion about the backend, if any.
    pub detected_ms: Option<f64>,
    /// Signal that led to it.
    pub by: Option<String>,
    /// Time at which a table had other choices for it.
    pub table_ms: Option<f64>,
    /// Start of the last request that went to the backend, failed, or had to retry, if any.
    pub last_new_ms: Option<f64>,
    /// Number of requests in all, and after the failure.
    pub requests: usize,
    /// Requests in progress at the failure that failed.
    pub failed_under_way: usize,
    /// Requests started after it that failed.
    pub failed_after: usize,
    /// Requests started after it that had to retry, and were answered.
    pub delayed: usize,
    /// Failed requests that another backend had answered in part.
    pub failed_elsewhere: usize,
    /// Number of table changes.
    pub tables: usize,
    /// Distinct reasons of failed requests.
    pub reasons: Vec<String>,
}

impl Site {
    /// Starts the site.
    pub fn start(mode: &'static str, every: Duration) -> Result<Self> {
        let plan = Plan {
            defaults: true,
            watched: true,
            thinking: [Duration::from_millis(20), Duration::from_millis(10)],
            tokens: 8,
            ..Plan::new(&BACKENDS, mode)
        };
        let backends = plan.backends.into_iter();
        let mut fleet = Fleet::new(Plan {
            backends: backends.map(|(name, _)| (name, Some(LINE))).collect(),
            ..plan
        })?;
        fleet.start()?;
        Ok(Self { fleet, every })
    }

    /// Starts a load, which reports each request, and ends by the switch.
    pub(super) fn load(&self) -> Result<(Running, mpsc::Receiver<Sample>, watch::Sender<bool>)> {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = watch::channel(false);
        let load = Load {
            every: Some(self.every),
            duration: Duration::from_secs(24 * 3600),
            timeout: TIMEOUT,
            live: Some(tell),
            stop: Some(stopped),
            ..Load::new(SocketAddr::new(self.fleet.vip(), HTTP))
        };
        let running = load.start_in(&self.fleet.site.client)?;
        told.recv_timeout(Duration::from_secs(10))
            .context("no request ended")?;
        Ok((running, told, stop))
    }

    /// Returns the events of the journal since a time.
    pub(super) fn journal(&self, since: SystemTime) -> Result<Vec<(SystemTime, Event)>> {
        let mut found = Vec::new();
        for record in journal::records(&journal::folder(&self.fleet.state()))? {
            // The last line may be incomplete.
            let Ok(record) = record else { break };
            if record.item.at >= since {
                found.push((record.item.at, record.item.event));
            }
        }
        Ok(found)
    }

    /// Returns the time of a conclusion about a backend that keeps new flows from it, or reduces
    /// them.
    pub(super) fn detected(
        &self,
        victim: &str,
        since: SystemTime,
    ) -> Result<Option<(SystemTime, String)>> {
        let mut all = self.journal(since)?.into_iter();
        Ok(all.find_map(|(at, event)| Some((at, concludes(&event, victim)?))))
    }

    /// Causes a failure of a backend under load, waits until the daemon has detected it, and ends
    /// it.
    pub fn run(&mut self, death: Death, victim: usize) -> Result<Trial> {
        let name = self.fleet.names()[victim];
        let (running, told, stop) = self.load()?;
        let pause = |time: Duration| {
            let end = Instant::now() + time;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let _ = told.recv_timeout(left);
            }
        };
        pause(BEFORE);
        let (wall, begin) = (SystemTime::now(), Instant::now());
        death.inflict(&mut self.fleet, victim)?;
        let mut detected = None;
        let mut limit = death.patience();
        while begin.elapsed() < limit {
            thread::sleep(Duration::from_millis(50));
            if detected.is_none() {
                detected = self.detected(name, wall)?;
                if detected.is_some() {
                    limit = begin.elapsed() + AFTER;
                }
            }
        }
        if death == Death::DaemonKilled {
            self.fleet.wait_for_health(name, "up")?;
            pause(AFTER);
        }
        stop.send_replace(true);
        let samples = running.finish()?;
        let events = self.journal(wall)?;
        death.repair(&mut self.fleet, victim)?;
        self.wait_until_well(name)?;
        let millis = |at: SystemTime| {
            let time = at.duration_since(wall).unwrap_or_default();
            (time.as_secs_f64() * 1e4).round() / 10.0
        };
        let tables: Vec<SystemTime> = events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Table { .. }))
            .map(|(at, _)| *at)
            .collect();
        let after_that = |at: &&SystemTime| detected.as_ref().is_some_and(|(d, _)| **at >= *d);
        let mut trial = Trial {
            death,
            victim: name,
            detected_ms: detected.as_ref().map(|(at, _)| millis(*at)),
            by: detected.clone().map(|(_, by)| by),
            table_ms: tables.iter().find(after_that).map(|at| millis(*at)),
            last_new_ms: None,
            requests: samples.len(),
            failed_under_way: 0,
            failed_after: 0,
            delayed: 0,
            failed_elsewhere: 0,
            tables: tables.len(),
            reasons: Vec::new(),
        };
        trial.count(&samples, begin);
        Ok(trial)
    }

    /// Waits until the daemon considers a backend healthy, with no penalty left.
    pub(super) fn wait_until_well(&mut self, name: &str) -> Result<()> {
        self.fleet.wait_for_health(name, "up")?;
        wait(Duration::from_secs(90), "it takes new flows again", || {
            let status = self.fleet.status()?;
            let backends = status["backends"].as_array().cloned().unwrap_or_default();
            let own = backends.iter().find(|b| b["name"] == name);
            Ok(own.is_some_and(|b| b["suppressed"] != true && b["ejected_for"].is_null()))
        })
    }
}

impl Trial {
    /// Returns whether no request to the backend failed, before and after new flows avoided it, if
    /// they did.
    #[must_use]
    pub fn has_no_failure(&self) -> bool {
        self.failed_under_way + self.failed_after == 0
    }

    fn count(&mut self, samples: &[Sample], begin: Instant) {
        for sample in samples {
            let failed = sample.error.is_some();
            if let Some(error) = &sample.error
                && !self.reasons.contains(error)
            {
                self.reasons.push(error.clone());
            }
            let by = sample.backend.as_deref();
            self.failed_elsewhere += usize::from(failed && by.is_some_and(|b| b != self.victim));
            let Some(since) = sample.start.checked_duration_since(begin) else {
                self.failed_under_way += usize::from(failed);
                continue;
            };
            let delayed = !failed && sample.total >= DELAYED;
            self.failed_after += usize::from(failed);
            self.delayed += usize::from(delayed);
            if failed || delayed || by == Some(self.victim) {
                let since = (since.as_secs_f64() * 1e4).round() / 10.0;
                self.last_new_ms = Some(self.last_new_ms.map_or(since, |last| last.max(since)));
            }
        }
    }
}

/// Returns the conclusion about a backend in an event, in a few words.
fn concludes(event: &Event, victim: &str) -> Option<String> {
    match event {
        Event::Backend {
            backend,
            health,
            draining,
            lossy,
            probes,
            ..
        } if backend == victim => {
            if let Some((_, State::Down)) = health {
                let last = probes.last().map(|probe| &probe.outcome);
                let why = match last {
                    Some(journal::Outcome::Failed(failure)) => failure.to_string(),
                    _ => "probes".to_owned(),
                };
                return Some(format!("probes: {why}"));
            }
            if *draining == Some(true) {
                return Some("its beacon".to_owned());
            }
            (*lossy == Some(true)).then(|| "lost probes".to_owned())
        }
        Event::OutlierDetection {
            backend,
            verdict: Verdict::Out(reason, _),
            ..
        }
        | Event::OwnConnection {
            backend,
            verdict: Verdict::Out(reason, _),
            ..
        } if backend == victim => Some(format!("connections: {reason}")),
        Event::Drained {
            backend,
            drained: true,
            ..
        } if backend == victim => Some("the operator".to_owned()),
        Event::Balanced { after, before, .. } => {
            let slow = after.memory(victim).slow && !before.memory(victim).slow;
            slow.then(|| "slower than its peers".to_owned())
        }
        _ => None,
    }
}
