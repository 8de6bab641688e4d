//! Simulated inference engines, which process a number of requests at a time and queue others.

use std::{collections::VecDeque, time::Duration};

use rand::{Rng as _, rngs::StdRng};

/// Characteristics of a server's engine.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Maximum number of concurrent requests.
    pub slots: u32,
    /// Time to the first token of a request that is alone.
    pub prefill: Duration,
    /// Time between tokens of a request that is alone.
    pub token: Duration,
    /// Mean number of tokens of an answer.
    pub tokens: f64,
}

impl Kind {
    /// A mid-sized model on one accelerator: about 14 requests per second at most.
    pub const USUAL: Self = Self {
        slots: 32,
        prefill: Duration::from_millis(80),
        token: Duration::from_millis(18),
        tokens: 80.0,
    };

    /// Returns the maximum throughput of one server in requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let alone = self.prefill.as_secs_f64() + self.tokens * self.token.as_secs_f64();
        f64::from(self.slots) / (alone * (1.0 + CROWDING))
    }
}

/// Relative slowdown of a full batch against a request that is alone.
const CROWDING: f64 = 0.6;
/// Spread of prompt lengths: standard deviation of the logarithm of the prefill time.
const SPREAD: f64 = 0.35;

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

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Characteristics.
    pub kind: Kind,
    /// Region.
    pub region: usize,
    /// State.
    pub state: State,
    /// Relative speed; 1 is normal.
    pub speed: f64,
    /// One-way delay from each node.
    pub distances: Vec<Duration>,
    /// Number of running requests.
    pub running: u32,
    /// Queued requests.
    pub waiting: VecDeque<usize>,
    /// Time of its last progress.
    pub progress: Duration,
    /// Symptom seen by its beacon although it serves its clients.
    pub symptom: Option<Symptom>,
    /// Time of its last real trouble.
    pub wrong: Duration,
    /// Reported load, if it is frozen.
    pub stale: Option<(u32, u32, Duration)>,
}

impl Server {
    /// Creates an idle server.
    #[must_use]
    pub fn new(kind: Kind, region: usize, distances: Vec<Duration>) -> Self {
        Self {
            kind,
            region,
            state: State::Serving,
            speed: 1.0,
            distances,
            running: 0,
            waiting: VecDeque::new(),
            progress: Duration::ZERO,
            symptom: None,
            wrong: Duration::ZERO,
            stale: None,
        }
    }

    /// Returns the duration of a request started now: to the first token, and from there to the
    /// end.
    pub fn work(&self, random: &mut StdRng) -> (Duration, Duration) {
        let crowd = 1.0 + CROWDING * f64::from(self.running) / f64::from(self.kind.slots);
        let slow = crowd / self.speed;
        // A normal value from the sum of twelve uniform ones.
        let normal: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        let first = self.kind.prefill.mul_f64((normal * SPREAD).exp() * slow);
        let tokens = 1.0 - (self.kind.tokens - 1.0) * (1.0 - random.random::<f64>()).ln();
        (first, self.kind.token.mul_f64(tokens * slow))
    }

    /// Returns the report of its beacon: running and waiting requests, and its age.
    #[must_use]
    pub fn load(&self, now: Duration) -> (u32, u32, Duration) {
        match self.stale {
            Some((running, waiting, since)) => (running, waiting, now.saturating_sub(since)),
            None => (self.running, self.waiting.len() as u32, Duration::ZERO),
        }
    }
}
