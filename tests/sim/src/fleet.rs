//! Servers: an engine each, its place, its state, and what its beacon reports.

use std::{collections::VecDeque, time::Duration};

use crate::engine::{Engine, Job, Profile, predict};

/// State of a server, as packets see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Works normally.
    Serving,
    /// Accepts connections, and its health page returns 200, but does no work.
    Hung,
    /// Its process is gone: connections are refused.
    Dead,
    /// Nothing comes back.
    Gone,
    /// Stands still for a moment with all of its work, and then continues.
    Paused,
}

/// A weak sign of trouble with an engine that serves its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// A long prompt keeps its counters from changing.
    NoProgress,
    /// Its page of metrics is slow.
    SlowPage,
}

/// Load of an engine at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Number of running requests.
    pub running: u32,
    /// Number of waiting requests.
    pub waiting: u32,
    /// Part of the KV cache in use, from 0 to 1.
    pub kv_use: f64,
    /// Time at which the engine had this load.
    pub taken: Duration,
}

/// Number of answers from which a server estimates its latency.
const SAMPLES: usize = 32;

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Engine.
    pub engine: Engine,
    /// Region.
    pub region: usize,
    /// State.
    pub state: State,
    /// One-way delay from each node.
    pub distances: Vec<Duration>,
    /// End of the current step; none while idle.
    pub step_end: Option<Duration>,
    /// Number of starts: steps planned before the last one are void.
    pub life: u32,
    /// Requests on their way to it.
    pub expected: Vec<Job>,
    /// Time of its last progress.
    pub progress: Duration,
    /// Symptom seen by its beacon although it serves its clients.
    pub symptom: Option<Symptom>,
    /// Time of its last real trouble.
    pub wrong: Duration,
    /// Load when its beacon last read it.
    pub scraped: Report,
    /// Whether the beacon's reports stand still.
    pub frozen: bool,
    /// Requests in flight at an arrival, and the time to the first token that followed.
    samples: VecDeque<(u32, Duration)>,
}

impl Server {
    /// Creates an idle server.
    #[must_use]
    pub fn new(profile: Profile, region: usize, distances: Vec<Duration>) -> Self {
        Self {
            engine: Engine::new(profile),
            region,
            state: State::Serving,
            distances,
            step_end: None,
            life: 0,
            expected: Vec::new(),
            progress: Duration::ZERO,
            symptom: None,
            wrong: Duration::ZERO,
            scraped: Report::default(),
            frozen: false,
            samples: VecDeque::new(),
        }
    }

    /// Returns the number of requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.engine.running() + self.engine.waiting()
    }

    /// Returns the engine's present load.
    #[must_use]
    pub fn report(&self, now: Duration) -> Report {
        Report {
            running: self.engine.running(),
            waiting: self.engine.waiting(),
            kv_use: self.engine.kv_use(),
            taken: now,
        }
    }

    /// Records a time to the first token.
    pub fn sample(&mut self, in_flight: u32, took: Duration) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((in_flight, took));
    }

    /// Returns an estimate of the time to the first token at the present number of requests in flight, as a server
    /// answers Prequal's probes (NSDI 2024, section 4): the median of recent samples near that number.
    #[must_use]
    pub fn estimate(&self) -> Duration {
        const NEAREST: usize = 5;
        let now = self.in_flight();
        let mut near: Vec<_> = self.samples.iter().collect();
        near.sort_by_key(|(in_flight, _)| in_flight.abs_diff(now));
        near.truncate(NEAREST);
        let mut times: Vec<_> = near.into_iter().map(|(_, took)| *took).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// Returns the time from now to the first token of a request, if it is sent now and nothing is sent after it.
    /// None if the server does no work.
    #[must_use]
    pub fn predict(&self, job: Job, node: usize, now: Duration) -> Option<Duration> {
        if self.state != State::Serving {
            return None;
        }
        let mut jobs = self.expected.clone();
        jobs.push(job);
        let busy = self
            .step_end
            .map_or(Duration::ZERO, |end| end.saturating_sub(now));
        // What is computed while the request travels is not waited for.
        let away = self.distances[node];
        Some(predict(&self.engine, &jobs, busy).max(away) + away)
    }
}
