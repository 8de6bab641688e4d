//! Traffic: what clients send, when, and over which connections.

mod arrivals;
mod lengths;
pub mod random;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};

use self::random::{exponential, geometric};
pub use self::{
    arrivals::Arrivals,
    lengths::{Lengths, Tokens},
};
use crate::engine::{Engine, Job, Profile, Progress};

/// Maximum length of the history of a session in tokens: a common context window.
const MAX_HISTORY: u32 = 6000;

/// Connections of clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Connections {
    /// One for each request.
    PerRequest,
    /// One for each visit, whose requests follow each other (HTTP/1.1 with keep-alive).
    Kept,
    /// A fixed number of connections that carry concurrent requests of all visits (HTTP/2), each replaced by a new one
    /// at an age drawn at random.
    Multiplexed {
        /// Number of connections of each node.
        count: usize,
        /// Mean age at which one is replaced.
        age: Duration,
    },
}

/// Kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Lengths of prompts and answers.
    pub lengths: Lengths,
    /// Arrivals of visits.
    pub arrivals: Arrivals,
    /// Mean number of requests of a visit.
    pub requests: f64,
    /// Mean pause between an answer and the next request of a visit.
    pub think: Duration,
    /// Whether a prompt contains all earlier prompts and answers of its visit.
    pub history: bool,
    /// Connections.
    pub connections: Connections,
    /// Maximum number of retries of a request that failed before its first token.
    pub retries: u32,
}

impl Workload {
    /// Single requests of the conversation trace, each on a connection of its own.
    pub const CONVERSATION: Self = Self {
        lengths: Lengths::CONVERSATION,
        arrivals: Arrivals::Poisson,
        requests: 1.0,
        think: Duration::ZERO,
        history: false,
        connections: Connections::PerRequest,
        retries: 0,
    };

    /// Returns the rate of requests per second at which an engine is saturated, if no prefix is cached.
    #[must_use]
    pub fn saturation(&self, profile: Profile) -> f64 {
        const JOBS: usize = 600;
        let mut engine = Engine::new(profile);
        let jobs = (0..).flat_map(|seed| Visit::new(self, seed, 0).requests);
        let mut jobs = jobs.enumerate().map(|(id, request)| Job {
            id,
            ..request.job(0)
        });
        let (mut progress, mut time, mut done) = (Vec::new(), Duration::ZERO, 0);
        while done < JOBS {
            while engine.waiting() < profile.max_running {
                jobs.next().into_iter().for_each(|job| engine.push(job));
            }
            time += engine.begin_step().unwrap_or(Duration::from_secs(1));
            progress.clear();
            engine.end_step(&mut progress);
            let ended = progress.iter().filter(|p| matches!(p, Progress::Done(_)));
            done += ended.count();
        }
        done as f64 / time.as_secs_f64()
    }
}

/// A request of a visit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Length of the prompt in tokens, with history.
    pub prompt: u32,
    /// Length of the answer in tokens.
    pub output: u32,
    /// Length of the history at the start of the prompt.
    pub history: u32,
    /// Pause before it.
    pub think: Duration,
}

impl Request {
    /// Returns the job of an engine.
    #[must_use]
    pub const fn job(&self, session: u64) -> Job {
        Job {
            id: 0,
            prompt: self.prompt,
            output: self.output,
            session,
            history: self.history,
        }
    }
}

/// A client's visit: its requests, which follow each other. The same under all policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Visit {
    /// Requests in order.
    pub requests: Vec<Request>,
}

impl Visit {
    /// Creates the visit of an index, in a run of a seed.
    #[must_use]
    pub fn new(workload: &Workload, seed: u64, index: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed << 32 ^ index);
        let count = geometric(&mut random, workload.requests);
        let mut history = 0;
        let mut requests = Vec::new();
        for number in 0..count {
            let new = workload.lengths.prompt.draw(&mut random);
            let output = workload.lengths.output.draw(&mut random);
            let think = exponential(&mut random, workload.think.as_secs_f64());
            let request = Request {
                prompt: history + new,
                output,
                history,
                think: Duration::from_secs_f64(if number == 0 { 0.0 } else { think }),
            };
            if workload.history {
                history = (request.prompt + output).min(MAX_HISTORY);
            }
            requests.push(request);
        }
        Self { requests }
    }
}
