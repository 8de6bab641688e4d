//! One death under load, and what the client, the journal and the status say of it.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::Serialize;
use steer_user::{
    domain::{health::State, passive::Verdict},
    journal::{self, Event},
};
use tokio::sync::watch;

use super::Death;
use crate::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::{Load, Running, Sample},
};

/// Backends: with one of them dead the others are no riddle.
const BACKENDS: [&str; 4] = ["a", "b", "c", "d"];
/// Time on the line to a backend, one way.
const LINE: Duration = Duration::from_micros(300);
/// Load before something happens.
const BEFORE: Duration = Duration::from_millis(800);
/// Load after the daemon has noticed.
const AFTER: Duration = Duration::from_millis(1500);
/// What a request may take, which is longer than the first retransmission of a SYN (1 s, RFC 6298).
const TIMEOUT: Duration = Duration::from_secs(3);
/// A request that takes so long had to try again.
const DELAYED: Duration = Duration::from_millis(900);

/// A site with settings as they are by default, whose beacons watch their engines.
#[derive(Debug)]
pub struct Site {
    /// It.
    pub fleet: Fleet,
    /// From one request to the next.
    pub every: Duration,
}

/// What came of a death. Times are in milliseconds from its beginning.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// What happened.
    pub death: Death,
    /// To whom.
    pub victim: &'static str,
    /// When the daemon concluded something of the backend, if it did.
    pub detected_ms: Option<f64>,
    /// By what.
    pub by: Option<String>,
    /// When a table had other choices for it.
    pub table_ms: Option<f64>,
    /// When the last request began that went to the backend, failed, or had to try again; none if there
    /// was none.
    pub last_new_ms: Option<f64>,
    /// Requests in all, and those that began after the death.
    pub requests: usize,
    /// Those that were under way when it happened and failed.
    pub failed_under_way: usize,
    /// Those that began after it and failed.
    pub failed_after: usize,
    /// Those that began after it, had to try again, and were answered.
    pub delayed: usize,
    /// Those that failed and had been answered by somebody else in part.
    pub failed_elsewhere: usize,
    /// Times that tables changed.
    pub tables: usize,
    /// Why requests failed, each reason once.
    pub reasons: Vec<String>,
}

impl Site {
    /// Starts it.
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

    /// Starts a load; it tells of each request, and ends by the switch.
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

    /// What happened since a time, by the journal.
    pub(super) fn journal(&self, since: SystemTime) -> Result<Vec<(SystemTime, Event)>> {
        let mut found = Vec::new();
        for record in journal::records(&journal::folder(&self.fleet.state()))? {
            // The last line may be half written.
            let Ok(record) = record else { break };
            if record.item.at >= since {
                found.push((record.item.at, record.item.event));
            }
        }
        Ok(found)
    }

    /// When something was concluded of a backend that keeps new flows from it, or makes them fewer.
    pub(super) fn detected(
        &self,
        victim: &str,
        since: SystemTime,
    ) -> Result<Option<(SystemTime, String)>> {
        let mut all = self.journal(since)?.into_iter();
        Ok(all.find_map(|(at, event)| Some((at, concludes(&event, victim)?))))
    }

    /// Has a backend die under load, waits until the daemon has noticed, and takes it back.
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

    /// Waits until the daemon takes a backend for well, and has forgiven it.
    pub(super) fn wait_until_well(&mut self, name: &str) -> Result<()> {
        self.fleet.wait_for_health(name, "up")?;
        wait(Duration::from_secs(90), "it takes new flows again", || {
            let status = self.fleet.status()?;
            let backends = status["backends"].as_array().cloned().unwrap_or_default();
            let own = backends.iter().find(|b| b["name"] == name);
            Ok(own.is_some_and(|b| b["suppressed"] != true && b["left_out"].is_null()))
        })
    }
}

impl Trial {
    /// Returns whether no request failed and the backend kept its new flows.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.detected_ms.is_none() && self.failed_under_way + self.failed_after == 0
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

/// What an event concludes of a backend, in a few words.
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
        Event::Passive {
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
