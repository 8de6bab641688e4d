//! A model of an inference engine: continuous batching with chunked prefill, a bounded KV cache and a prefix cache.
//!
//! The scheduler is that of vLLM V1: in each step running sequences come first, each with one token of decode or a
//! chunk of its prompt; waiting requests use what is left of the token budget. A sequence that finds no room in the KV
//! cache preempts the youngest one, which is computed again later. The model is pure: the caller holds the clock.

mod prefix;
mod profile;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

pub use self::prefix::PrefixCache;
pub use self::profile::{Profile, StepTime};

/// A request as an engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Identifier chosen by the caller.
    pub id: usize,
    /// Length of the prompt in tokens.
    pub prompt: u32,
    /// Length of the answer in tokens; at least one.
    pub output: u32,
    /// Session that the prompt continues; 0 for none.
    pub session: u64,
    /// Leading tokens of the prompt that earlier turns of the session have computed.
    pub history: u32,
}

/// Progress that a step made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The first token of a request.
    First(usize),
    /// The last token of a request.
    Done(usize),
}

#[derive(Clone, Debug)]
struct Sequence {
    job: Job,
    /// Tokens in the KV cache.
    computed: u32,
    /// Generated tokens.
    generated: u32,
    /// Tokens that the current step adds.
    planned: u32,
}

impl Sequence {
    /// Returns the number of tokens that must be in the KV cache before the next token can be generated.
    const fn needed(&self) -> u32 {
        self.job.prompt + self.generated
    }

    const fn is_decoding(&self) -> bool {
        self.generated > 0 && self.computed + 1 == self.needed()
    }
}

/// An engine.
#[derive(Clone, Debug)]
pub struct Engine {
    profile: Profile,
    /// Relative speed; 1 is normal.
    speed: f64,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    prefix: PrefixCache,
    /// Tokens of running sequences in the KV cache, with those of the current step.
    used: u64,
    preemptions: u64,
}

impl Engine {
    /// Creates an idle engine.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            speed: 1.0,
            running: Vec::new(),
            waiting: VecDeque::new(),
            prefix: PrefixCache::default(),
            used: 0,
            preemptions: 0,
        }
    }

    /// Returns its parameters.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Sets the relative speed, from the next step on.
    pub const fn set_speed(&mut self, speed: f64) {
        self.speed = speed;
    }

    /// Returns the number of running sequences.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.len() as u32
    }

    /// Returns the number of waiting requests.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.len() as u32
    }

    /// Returns the part of the KV cache that running sequences occupy, from 0 to 1.
    #[must_use]
    pub fn kv_use(&self) -> f64 {
        self.used as f64 / f64::from(self.profile.kv_tokens)
    }

    /// Returns the number of preemptions since the start.
    #[must_use]
    pub const fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Returns the number of tokens of a session in the prefix cache.
    #[must_use]
    pub fn cached(&self, session: u64) -> u32 {
        self.prefix.of_session(session)
    }

    /// Adds a request to the waiting queue. A prompt that exceeds the KV cache is cut.
    pub fn push(&mut self, job: Job) {
        let most = self.profile.kv_tokens / 2;
        let job = Job {
            prompt: job.prompt.clamp(1, most),
            output: job.output.clamp(1, most),
            ..job
        };
        self.waiting.push_back(Sequence {
            job,
            computed: 0,
            generated: 0,
            planned: 0,
        });
    }

    /// Removes a request whose client is gone.
    pub fn cancel(&mut self, id: usize) {
        self.waiting.retain(|sequence| sequence.job.id != id);
        if let Some(index) = self.running.iter().position(|s| s.job.id == id) {
            let sequence = self.running.remove(index);
            self.used -= u64::from(sequence.computed + sequence.planned);
        }
    }

    /// Removes all requests and the prefix cache, and returns the ids of the requests.
    pub fn clear(&mut self) -> Vec<usize> {
        let running = self.running.drain(..);
        let ids = running.chain(self.waiting.drain(..)).map(|s| s.job.id);
        let ids = ids.collect();
        self.prefix.clear();
        self.used = 0;
        ids
    }

    /// Plans a step, and returns its duration; none if there is no work.
    pub fn begin_step(&mut self) -> Option<Duration> {
        let mut budget = self.profile.token_budget;
        let preempted = self.plan_running(&mut budget);
        if !preempted {
            self.admit(&mut budget);
        }
        if self.running.is_empty() {
            return None;
        }
        let (mut prefill, mut sequences, mut kv) = (0, 0, 0);
        for sequence in self.running.iter().filter(|s| s.planned > 0) {
            sequences += 1;
            if sequence.is_decoding() {
                kv += u64::from(sequence.computed);
            } else {
                prefill += sequence.planned;
            }
        }
        let micros = self.profile.step.micros(prefill, sequences, kv) / self.speed;
        Some(Duration::from_nanos((micros * 1000.0) as u64))
    }

    /// Completes the step, and appends its progress to `progress`.
    pub fn end_step(&mut self, progress: &mut Vec<Progress>) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            let planned = std::mem::take(&mut sequence.planned);
            sequence.computed += planned;
            if planned == 0 || sequence.computed < sequence.needed() {
                index += 1;
                continue;
            }
            sequence.generated += 1;
            if sequence.generated == 1 {
                progress.push(Progress::First(sequence.job.id));
            }
            if sequence.generated < sequence.job.output {
                index += 1;
                continue;
            }
            progress.push(Progress::Done(sequence.job.id));
            let ended = self.running.remove(index);
            self.used -= u64::from(ended.computed);
            if ended.job.session != 0 {
                self.prefix.insert(ended.job.session, ended.computed);
            }
        }
        self.prefix.shrink_to(self.room());
    }

    /// Returns the tokens of KV cache that no running sequence occupies.
    fn room(&self) -> u64 {
        u64::from(self.profile.kv_tokens).saturating_sub(self.used)
    }

    /// Plans the tokens of running sequences. Returns whether one was preempted.
    fn plan_running(&mut self, budget: &mut u32) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let sequence = &self.running[index];
            let planned = (sequence.needed() - sequence.computed).min(*budget);
            while self.room() < u64::from(planned) && self.running.len() > index {
                self.preempt();
                preempted = true;
            }
            if index >= self.running.len() {
                break;
            }
            self.running[index].planned = planned;
            self.used += u64::from(planned);
            *budget -= planned;
            index += 1;
        }
        self.prefix.shrink_to(self.room());
        preempted
    }

    /// Returns the youngest running sequence to the queue; its tokens must be computed again.
    fn preempt(&mut self) {
        let Some(mut sequence) = self.running.pop() else {
            return;
        };
        self.used -= u64::from(sequence.computed + sequence.planned);
        (sequence.computed, sequence.planned) = (0, 0);
        self.preemptions += 1;
        self.waiting.push_front(sequence);
    }

    /// Admits waiting requests while sequences, tokens and KV cache are left.
    fn admit(&mut self, budget: &mut u32) {
        while *budget > 0 && self.running() < self.profile.max_running {
            let Some(next) = self.waiting.front() else {
                return;
            };
            let cached = self.cached(next.job.session).min(next.job.history);
            // The last token of a prompt is always computed, because its result is the first token of the answer.
            let cached = cached.min(next.needed() - 1);
            let planned = (next.needed() - cached).min(*budget);
            if self.room() < u64::from(cached + planned) {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            self.prefix.remove(sequence.job.session);
            (sequence.computed, sequence.planned) = (cached, planned);
            self.used += u64::from(cached + planned);
            *budget -= planned;
            self.running.push(sequence);
            self.prefix.shrink_to(self.room());
        }
    }
}

/// Returns the time from now to the first token of the last of `jobs`, if they arrive now in their order, and nothing
/// after them. `busy` is the rest of the current step. The engine is simulated, so this is exact for what it assumes.
#[must_use]
pub fn predict(engine: &Engine, jobs: &[Job], busy: Duration) -> Duration {
    /// Number of steps after which the rest is not simulated.
    const MAX_STEPS: u32 = 3000;
    let Some(last) = jobs.last() else {
        return Duration::ZERO;
    };
    let mut engine = engine.clone();
    let mut progress = Vec::new();
    let mut time = busy;
    if !busy.is_zero() {
        engine.end_step(&mut progress);
    }
    for job in jobs {
        engine.push(*job);
    }
    for _ in 0..MAX_STEPS {
        let Some(step) = engine.begin_step() else {
            break;
        };
        progress.clear();
        engine.end_step(&mut progress);
        time += step;
        if progress.contains(&Progress::First(last.id)) {
            break;
        }
    }
    time
}
