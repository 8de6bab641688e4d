//! State of an engine, and its interpretation at any time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    completion::Outcome,
    deltas::CounterDeltas,
    progress::Progress,
    question::Occasion,
    signals::{EngineSignals, Rank},
};
use crate::probe::{Hint, Load, NoSignal, Note, Trouble};

/// Weight of failures that leads to a verdict: a single completion may have met a restart. A
/// timeout with a sign of trouble has the full weight.
const PROOF: u32 = 2;
/// Time within which an idle engine answers a tiny completion; after that, its reported load is not
/// trusted until it answers.
const PROMPT: Duration = Duration::from_secs(3);
/// Minimum timeout of a tiny completion, unless a stall is configured to be shorter.
const MIN_WAIT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(120);
/// Timeout as a multiple of the slowest recent answer.
const WAIT_FACTOR: f64 = 4.0;
/// Factor by which the weight of a slow answer decreases per minute.
const ANSWER_TIME_DECAY: f64 = 0.5;
/// Time for which an answer that the engine is full is valid.
const FULL_AFTER_QUEUEING: Duration = Duration::from_secs(30);
/// Number of changes on a page that a single question may cause before it is answered.
const OWN_COMPLETION_MOVES: u32 = 2;
/// Utilization from which a rank's cache is full.
const FULL_UTILIZATION: f64 = 0.95;

/// Timeouts for signs of trouble and for stale signals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Time without progress that, together with an unanswered question, is a stall. Half of it is
    /// a sign of trouble.
    pub(super) stall: Duration,
    /// Response time of a page that is a sign of trouble.
    pub(super) silence: Duration,
    /// Age from which signals are ignored.
    pub(super) stale: Duration,
}

/// State of a pending question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Within the usual time.
    Usual,
    /// Later than an idle engine would answer.
    Overdue,
    /// The engine makes progress on other work, so the wait ends.
    Working,
    /// The timeout elapsed, and the engine made no progress.
    TimedOut,
    /// The engine serves open connections, but answered nothing on the new one.
    Unreached,
}

/// A series of failed questions.
#[derive(Clone, Copy, Debug)]
struct Failure {
    since: Instant,
    weight: u32,
    /// Whether progress on open connections is no answer, because new connections are not served.
    unreached: bool,
}

/// State of an engine.
#[derive(Clone, Debug)]
pub(super) struct State {
    patience: Timeouts,
    load: Load,
    ranks: BTreeMap<String, Rank>,
    is_believed: bool,
    read: Option<Instant>,
    begun: Instant,
    why: NoSignal,
    progress: Progress,
    /// Time since which requests for the page have failed.
    unanswered: Option<Instant>,
    page_took: Duration,
    /// Slowest recent answer, own or of clients, and its time.
    slowest: Option<(Duration, Instant)>,
    asked: Option<Instant>,
    /// Changes on its page since then.
    moves: u32,
    ended: Option<Instant>,
    /// Time of the last progress of other work, if not yet reported to the schedule.
    others_moved: Option<Instant>,
    quiet_until: Option<Instant>,
    overdue: bool,
    failure: Option<Failure>,
    full: Option<Instant>,
    unready: Option<(Trouble, Instant)>,
    asleep: bool,
}

impl State {
    /// Creates the initial state.
    #[must_use]
    pub(super) fn new(patience: Timeouts, now: Instant) -> Self {
        Self {
            patience,
            load: Load::default(),
            ranks: BTreeMap::new(),
            is_believed: true,
            read: None,
            begun: now,
            why: NoSignal::NotYet,
            progress: Progress::default(),
            unanswered: None,
            page_took: Duration::ZERO,
            slowest: None,
            asked: None,
            moves: 0,
            ended: None,
            others_moved: None,
            quiet_until: None,
            overdue: false,
            failure: None,
            full: None,
            unready: None,
            asleep: false,
        }
    }

    /// Records a request for its page.
    pub(super) fn page_asked(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    /// Records that it refused the request, or answered with something else.
    pub(super) fn mark_unreadable(&mut self, why: NoSignal) {
        self.unanswered = None;
        self.why = why;
    }

    /// Records that its page did not arrive in time.
    pub(super) fn mark_silent(&mut self) {
        self.why = NoSignal::Unreachable;
    }

    /// Records whether it reports to be ready. Returns whether that changed.
    pub(super) fn ready(&mut self, ready: bool, now: Instant) -> bool {
        let before = self.unready.is_some();
        match (ready, self.unready) {
            (true, Some((Trouble::Loading, _))) => self.unready = None,
            (false, None) => self.unready = Some((Trouble::Loading, now)),
            _ => {}
        }
        before != self.unready.is_some()
    }

    /// Records whether it sleeps, and whether a request would wake it.
    pub(super) fn asleep(&mut self, asleep: bool, wakes: bool, now: Instant) {
        self.asleep = asleep;
        let is_unready = matches!(self.unready, Some((Trouble::Asleep, _)));
        match (asleep && !wakes, is_unready) {
            (true, false) => self.unready = Some((Trouble::Asleep, now)),
            (false, true) => self.unready = None,
            _ => {}
        }
        if asleep {
            (self.unanswered, self.failure, self.overdue) = (None, None, false);
            self.read = Some(now);
            self.why = NoSignal::Stale;
            self.load = Load {
                running: Some(0.0),
                waiting: Some(0.0),
                in_flight: Some(0.0),
                ..Load::default()
            };
            self.ranks.clear();
        }
    }

    /// Records a page. `names_load` tells whether its profile has any names for the load.
    pub(super) fn reading(
        &mut self,
        window: &mut CounterDeltas,
        reading: EngineSignals,
        names_load: bool,
        now: Instant,
    ) {
        if let Some(asked) = self.unanswered.take() {
            self.page_took = now.saturating_duration_since(asked);
        }
        let before = self.progress.last_moved();
        self.progress.observe(&reading, now);
        if self.progress.last_moved() != before {
            self.moves += 1;
            if !self.is_own(now) {
                self.others_moved = Some(now);
                // Progress is the better answer, unless it is new connections that fail.
                self.failure = self.failure.filter(|failure| failure.unreached);
                self.overdue = false;
            }
        }
        if names_load && !reading.has_load() {
            self.why = NoSignal::Renamed;
            return;
        }
        self.is_believed = reading.refused.is_empty();
        self.ranks.clone_from(&reading.ranks);
        let (load, first_token) = window.load(now, reading);
        self.load = load;
        if let Some(seconds) = first_token {
            self.record_answer_time(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0)), now);
        }
        self.read = Some(now);
        // If no page follows, this is the reason.
        self.why = NoSignal::Stale;
    }

    /// Returns whether progress seen now may be that of a question, which is one token.
    fn is_own(&self, now: Instant) -> bool {
        let lately = |at| now.saturating_duration_since(at) <= self.patience.stale;
        match self.asked {
            Some(_) => self.moves <= OWN_COMPLETION_MOVES,
            None => self.ended.is_some_and(lately),
        }
    }

    fn record_answer_time(&mut self, duration: Duration, now: Instant) {
        self.slowest = Some((
            self.usual_answer_time(now)
                .unwrap_or_default()
                .max(duration),
            now,
        ));
    }

    /// Returns the time of the slowest answer, reduced by its age.
    fn usual_answer_time(&self, now: Instant) -> Option<Duration> {
        let (slowest, at) = self.slowest?;
        let minutes = now.saturating_duration_since(at).as_secs_f64() / 60.0;
        Some(slowest.mul_f64(ANSWER_TIME_DECAY.powf(minutes)))
    }

    /// Returns whether other work made progress since the last call.
    pub(super) fn take_progress(&mut self) -> bool {
        self.others_moved.take().is_some()
    }

    /// Returns the current reason for a question.
    #[must_use]
    pub(super) fn occasion(&self, every: Duration, now: Instant) -> Occasion {
        let is_blind = self.progress.is_blind(now);
        if self.unready.is_some() || self.asleep {
            Occasion::Nothing
        } else if self.failure.is_some() {
            Occasion::Failed
        } else if self.sign(now).is_some() {
            Occasion::Hint
        } else if self.progress.is_fresh(every / 2, now)
            || (self.progress.is_working() && !is_blind)
        {
            Occasion::Nothing
        } else {
            Occasion::Unknown
        }
    }

    /// Records the start of a question.
    pub(super) fn question_started(&mut self, now: Instant) {
        self.asked = Some(now);
        self.moves = 0;
    }

    /// Records that a question takes longer than on an idle engine. Gauges that the engine updates
    /// only while it works do not show that it stands still before its first request. Returns
    /// whether that changed.
    pub(super) fn overdue(&mut self) -> bool {
        !std::mem::replace(&mut self.overdue, true)
    }

    /// Records the outcome of a question; until `quiet_until`, the sign it was about is ignored.
    pub(super) fn question_ended(
        &mut self,
        outcome: &Outcome,
        quiet_until: Option<Instant>,
        now: Instant,
    ) {
        let asked = self.asked.take().unwrap_or(now);
        let weight = match outcome {
            outcome if outcome.is_life() => 0,
            Outcome::TimedOut(_) if self.sign(now).is_some() => PROOF,
            _ => 1,
        };
        match outcome {
            Outcome::Answered => self.record_answer_time(now.saturating_duration_since(asked), now),
            Outcome::Full(_) => self.full = Some(now),
            _ => {}
        }
        self.overdue = false;
        self.ended = Some(now);
        self.quiet_until = quiet_until;
        if weight == 0 {
            self.failure = None;
            return;
        }
        let before = self.failure;
        self.failure = Some(Failure {
            since: before.map_or(asked, |failure| failure.since),
            weight: before.map_or(0, |failure| failure.weight) + weight,
            unreached: matches!(outcome, Outcome::Unreached(_)),
        });
    }

    /// Judges a pending question sent at `asked`; `reached` tells whether anything was answered on
    /// its connection.
    #[must_use]
    pub(super) fn waiting(&self, asked: Instant, reached: bool, now: Instant) -> Waiting {
        let stall = self.patience.stall;
        let waited = now.saturating_duration_since(asked);
        let moved = self.progress.last_moved().unwrap_or(self.begun);
        let still = now.saturating_duration_since(moved.max(self.begun));
        let usual = self.usual_answer_time(asked).unwrap_or_default();
        let bound = usual.mul_f64(WAIT_FACTOR).max(MIN_WAIT.min(stall));
        let bound = bound.min(MAX_WAIT);
        let is_read = self.read.is_some_and(|read| read > asked);
        let is_idle = self.load.in_flight == Some(0.0) && self.unanswered_for(now) < stall / 2;
        // Required times without progress of the engine and without an answer.
        let (longest, still_for) = if !self.progress.is_watching() || self.progress.is_blind(now) {
            (bound.max(stall * 3), Duration::ZERO)
        } else if is_idle {
            (bound.max(stall / 2), stall / 2)
        } else if !reached && !is_read {
            // Neither its page arrives, nor any byte on a new connection.
            (bound, stall / 2)
        } else if reached && !is_read {
            // It may be one long step of the engine, which blocks both page and question.
            (bound, stall * 2)
        } else {
            (bound, stall)
        };
        if waited >= longest && still >= still_for {
            Waiting::TimedOut
        } else if !reached && is_read && waited >= (bound * 2).max(self.page_took * 4) {
            Waiting::Unreached
        } else if waited >= bound.max(stall) * 3 {
            Waiting::Working
        } else if waited >= PROMPT && still >= PROMPT {
            Waiting::Overdue
        } else {
            Waiting::Usual
        }
    }

    fn unanswered_for(&self, now: Instant) -> Duration {
        let since = |at| now.saturating_duration_since(at);
        self.unanswered.map(since).unwrap_or_default()
    }

    /// Returns the current sign of trouble, whether or not a question about it was answered.
    fn sign(&self, now: Instant) -> Option<(Hint, Duration)> {
        let stalled = self.progress.stalled(now);
        if stalled >= self.patience.stall / 2 {
            return Some((Hint::NoProgress, stalled));
        }
        let unanswered = self.unanswered_for(now);
        if unanswered >= self.patience.silence {
            return Some((Hint::SlowPage, unanswered));
        }
        let stuck = self.stuck(now).first().map(|(_, since)| *since);
        stuck.map(|since| (Hint::RankStuck, since))
    }

    fn stuck(&self, now: Instant) -> Vec<(&str, Duration)> {
        self.progress.stuck(self.patience.stall / 2, now)
    }

    /// Returns the names of ranks that stand still.
    pub(super) fn stuck_ranks(&self, now: Instant) -> String {
        let names: Vec<&str> = self.stuck(now).into_iter().map(|(name, _)| name).collect();
        names.join(", ")
    }

    /// Returns the sign of trouble to report now, and its start.
    fn hint(&self, now: Instant) -> Option<(Hint, f64)> {
        if self.unready.is_some() || self.asleep {
            return None;
        }
        if let Some(asked) = self.asked.filter(|_| self.overdue) {
            let waited = now.saturating_duration_since(asked);
            return Some((Hint::SlowCompletion, waited.as_secs_f64()));
        }
        let is_quiet = self.quiet_until.is_some_and(|until| now < until);
        let (hint, since) = self.sign(now)?;
        (!is_quiet || hint == Hint::RankStuck).then_some((hint, since.as_secs_f64()))
    }

    fn notes(&self, now: Instant) -> Vec<Note> {
        let several = self.ranks.len() > 1;
        let is_full = |rank: &Rank| rank.kv_use.is_some_and(|kv_use| kv_use >= FULL_UTILIZATION);
        let lately = |at| now.saturating_duration_since(at) < FULL_AFTER_QUEUEING;
        let notes = [
            (Note::RankFull, several && self.ranks.values().any(is_full)),
            (Note::RankStuck, !self.stuck(now).is_empty()),
            (Note::Asleep, self.asleep),
            (Note::CoarseCounters, self.progress.is_blind(now)),
            (Note::BadValue, !self.is_believed),
            (Note::Full, self.full.is_some_and(lately)),
        ];
        let there = notes.into_iter().filter(|(_, there)| *there);
        there.map(|(note, _)| note).collect()
    }

    /// Returns the load to report now. Stale parts are omitted, with the reason.
    #[must_use]
    pub(super) fn load(&self, now: Instant) -> Load {
        let since = self.read.unwrap_or(self.begun);
        let age = now.saturating_duration_since(since);
        let doubted = (self.overdue || self.failure.is_some()) && self.read.is_some();
        let is_known = self.read.is_some() && age <= self.patience.stale;
        let mut load = if is_known && !doubted {
            self.known_load(now)
        } else {
            Load {
                no_signal: Some(if doubted { NoSignal::Doubted } else { self.why }),
                ..Load::default()
            }
        };
        load.age = Some(age.as_secs_f64());
        load.hint = self.hint(now);
        load.notes.extend(self.notes(now));
        load
    }

    /// Returns the last known load, minus the capacity of ranks that stand still.
    fn known_load(&self, now: Instant) -> Load {
        let mut load = self.load.clone();
        let stuck = self.stuck(now);
        if stuck.is_empty() {
            return load;
        }
        let all = self.ranks.len() as f64;
        let living = (all - stuck.len() as f64) / all;
        load.capacity = load.capacity.map(|capacity| capacity * living);
        let is_stuck = |name: &str| stuck.iter().any(|(other, _)| *other == name);
        let uses = self.ranks.iter().map(|(name, rank)| match rank.kv_use {
            _ if is_stuck(name) => 1.0,
            kv_use => kv_use.unwrap_or(0.0),
        });
        load.kv_use = Some(uses.sum::<f64>() / all);
        load
    }

    /// Returns the share of ranks with a queue, from 0 to 1; 1 without ranks.
    #[must_use]
    pub(super) fn queueing_part(&self) -> f64 {
        if self.ranks.is_empty() {
            return 1.0;
        }
        let queues = |rank: &&Rank| rank.waiting.is_some_and(|n| n > 0.0);
        let queueing = self.ranks.values().filter(queues).count().max(1);
        queueing as f64 / self.ranks.len() as f64
    }

    /// Returns the engine's trouble and its duration: as the engine reports it, or as questions
    /// show it.
    #[must_use]
    pub(super) fn trouble(&self, now: Instant) -> Option<(Trouble, Duration)> {
        let since = |at| now.saturating_duration_since(at);
        if let Some((trouble, at)) = self.unready {
            return Some((trouble, since(at)));
        }
        let failure = self.failure.filter(|failure| failure.weight >= PROOF)?;
        Some((Trouble::NoCompletion, since(failure.since)))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
