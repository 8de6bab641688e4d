//! Servers: inference engines that work on a number of requests at a time and let others wait.

use std::{collections::VecDeque, time::Duration};

use rand::{Rng as _, rngs::StdRng};

/// What a server's engine is like.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Requests that it works on at a time.
    pub slots: u32,
    /// Time to the first token of a request that is alone.
    pub prefill: Duration,
    /// Time from a token to the next of a request that is alone.
    pub token: Duration,
    /// Tokens of an answer, on average.
    pub tokens: f64,
}

impl Kind {
    /// One of a mid-sized model on one accelerator: about 14 requests a second at most.
    pub const USUAL: Self = Self {
        slots: 32,
        prefill: Duration::from_millis(80),
        token: Duration::from_millis(18),
        tokens: 80.0,
    };

    /// Requests a second that one server of this kind gets done at most.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let alone = self.prefill.as_secs_f64() + self.tokens * self.token.as_secs_f64();
        f64::from(self.slots) / (alone * (1.0 + CROWDING))
    }
}

/// By how much a full batch is slower than a request that is alone.
const CROWDING: f64 = 0.6;
/// Spread of prompts' lengths: of the logarithm of the prefill's time.
const SPREAD: f64 = 0.35;

/// What becomes of packets to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Serving,
    /// It takes connections, and its health page says 200, and nothing gets done.
    Hung,
    /// Its process is gone: connections are refused.
    Dead,
    /// Nothing comes back.
    Gone,
    /// Standing still for a moment, with all that it works on, and going on with it.
    Paused,
}

/// A weak sign of trouble with an engine that serves its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// A long prompt keeps its counters from going on.
    NoProgress,
    /// Its page of metrics takes long.
    SlowPage,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    /// What it is like.
    pub kind: Kind,
    /// Its region.
    pub region: usize,
    /// What becomes of packets to it.
    pub state: State,
    /// How fast it works; 1 is usual.
    pub speed: f64,
    /// Time to it, one way, from each node.
    pub distances: Vec<Duration>,
    /// Requests that it works on.
    pub running: u32,
    /// Requests that wait.
    pub waiting: VecDeque<usize>,
    /// When it last got something done.
    pub progress: Duration,
    /// Symptom that its beacon sees although it serves its clients.
    pub symptom: Option<Symptom>,
    /// Time at which something was last wrong with it.
    pub wrong: Duration,
    /// The load that it reports, if that stands still.
    pub stale: Option<(u32, u32, Duration)>,
}

impl Server {
    /// One that is idle.
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

    /// How long a request takes that it begins now: to the first token, and from there to the end.
    pub fn work(&self, random: &mut StdRng) -> (Duration, Duration) {
        let crowd = 1.0 + CROWDING * f64::from(self.running) / f64::from(self.kind.slots);
        let slow = crowd / self.speed;
        // A normal value by the sum of twelve uniform ones.
        let normal: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        let first = self.kind.prefill.mul_f64((normal * SPREAD).exp() * slow);
        let tokens = 1.0 - (self.kind.tokens - 1.0) * (1.0 - random.random::<f64>()).ln();
        (first, self.kind.token.mul_f64(tokens * slow))
    }

    /// What its beacon reports: running and waiting requests, and how old that is.
    #[must_use]
    pub fn load(&self, now: Duration) -> (u32, u32, Duration) {
        match self.stale {
            Some((running, waiting, since)) => (running, waiting, now.saturating_sub(since)),
            None => (self.running, self.waiting.len() as u32, Duration::ZERO),
        }
    }
}
