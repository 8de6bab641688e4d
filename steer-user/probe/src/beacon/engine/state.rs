//! What is known of an engine, and what that means at any time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    completion::Outcome,
    progress::Progress,
    question::Occasion,
    read::{Rank, Reading},
    window::Window,
};
use crate::probe::{Hint, Load, NoSignal, Note, Trouble};

/// Weight of failures that makes a verdict: one completion may have met a restart. One that times out while there is
/// a sign of trouble has all of it.
const PROOF: u32 = 2;
/// An engine that has nothing to do answers a tiny completion sooner; until then what it says of its load is not
/// believed.
const PROMPT: Duration = Duration::from_secs(3);
/// A tiny completion is waited for at least so long, unless no progress for less time counts as a stall.
const MIN_WAIT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(120);
/// Longest wait in multiples of the slowest recent answer.
const WAIT_FACTOR: f64 = 4.0;
/// Factor by which a slow answer counts less a minute later.
const FORGET: f64 = 0.5;
/// An answer by which the engine says that it is full counts for so long.
const FULL_FOR: Duration = Duration::from_secs(30);
/// Changes on a page that a question alone may make before it is answered.
const OWN_MOVES: u32 = 2;
/// A rank's cache is full from here on.
const FULL: f64 = 0.95;

/// Times after which something is a sign of trouble, or old.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Work without progress for so long, and a question that is not answered either, are a stall. Half of it is a
    /// sign of trouble.
    pub(super) stall: Duration,
    /// A page that takes longer is a sign of trouble.
    pub(super) silence: Duration,
    /// Signals that are older are none.
    pub(super) stale: Duration,
}

/// State of a question that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nothing yet.
    Usual,
    /// Longer than an idle engine would need.
    Overdue,
    /// The engine gets other work done, and will not be asked for longer.
    Working,
    /// As long as there is time, and the engine got nothing done.
    TimedOut,
    /// The engine answers on open connections, and has answered nothing on the new one.
    Unreached,
}

/// Questions that failed one after another.
#[derive(Clone, Copy, Debug)]
struct Failure {
    since: Instant,
    weight: u32,
    /// Progress on open connections is no answer to this one.
    unreached: bool,
}

/// Everything that is known of an engine.
#[derive(Clone, Debug)]
pub(super) struct State {
    patience: Patience,
    load: Load,
    ranks: BTreeMap<String, Rank>,
    is_believed: bool,
    read: Option<Instant>,
    begun: Instant,
    why: NoSignal,
    progress: Progress,
    /// Since when the page has been asked for in vain.
    unanswered: Option<Instant>,
    page_took: Duration,
    /// The slowest answer of late, own or of clients, and when it was.
    slowest: Option<(Duration, Instant)>,
    asked: Option<Instant>,
    /// Changes on its page since then.
    moves: u32,
    ended: Option<Instant>,
    /// Time of the last progress of others' work, if the schedule was not told yet.
    others_moved: Option<Instant>,
    quiet_until: Option<Instant>,
    overdue: bool,
    failure: Option<Failure>,
    full: Option<Instant>,
    unready: Option<(Trouble, Instant)>,
    asleep: bool,
}

impl State {
    /// Nothing yet.
    #[must_use]
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
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

    /// Records that its page is being asked for.
    pub(super) fn page_asked(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    /// Records that it refused, or sent what is no page.
    pub(super) fn unreadable(&mut self, why: NoSignal) {
        self.unanswered = None;
        self.why = why;
    }

    /// Records that its page did not come for as long as one waits.
    pub(super) fn silent(&mut self) {
        self.why = NoSignal::Unreachable;
    }

    /// Records whether it says that it serves. Returns whether that is new.
    pub(super) fn ready(&mut self, ready: bool, now: Instant) -> bool {
        let before = self.unready.is_some();
        match (ready, self.unready) {
            (true, Some((Trouble::Loading, _))) => self.unready = None,
            (false, None) => self.unready = Some((Trouble::Loading, now)),
            _ => {}
        }
        before != self.unready.is_some()
    }

    /// Records whether it says that it sleeps, and whether a request would wake it.
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

    /// Records a page. `names_load` tells whether its profile has names for the load at all.
    pub(super) fn reading(
        &mut self,
        window: &mut Window,
        reading: Reading,
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
                // What gets done is a better answer, unless new connections are what fails.
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
        let (load, first_token) = window.take(now, reading);
        self.load = load;
        if let Some(seconds) = first_token {
            self.record_answer_time(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0)), now);
        }
        self.read = Some(now);
        // If it is not read again, that is why.
        self.why = NoSignal::Stale;
    }

    /// Returns whether progress that is seen now may be that of a question, which is one token.
    fn is_own(&self, now: Instant) -> bool {
        let lately = |at| now.saturating_duration_since(at) <= self.patience.stale;
        match self.asked {
            Some(_) => self.moves <= OWN_MOVES,
            None => self.ended.is_some_and(lately),
        }
    }

    fn record_answer_time(&mut self, duration: Duration, now: Instant) {
        self.slowest = Some((self.usual(now).unwrap_or_default().max(duration), now));
    }

    /// Time that the slowest answer took, less of it the longer ago it was.
    fn usual(&self, now: Instant) -> Option<Duration> {
        let (slowest, at) = self.slowest?;
        let minutes = now.saturating_duration_since(at).as_secs_f64() / 60.0;
        Some(slowest.mul_f64(FORGET.powf(minutes)))
    }

    /// Returns whether others' work made progress that was not asked about yet.
    pub(super) fn take_progress(&mut self) -> bool {
        self.others_moved.take().is_some()
    }

    /// Returns the reason to ask that there is.
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

    /// Records that a question is on its way.
    pub(super) fn question_started(&mut self, now: Instant) {
        self.asked = Some(now);
        self.moves = 0;
    }

    /// Records that a question takes longer than an idle engine would need. Gauges that the engine writes when it works say
    /// nothing of one that stands still before its first request. Returns whether that is new.
    pub(super) fn overdue(&mut self) -> bool {
        !std::mem::replace(&mut self.overdue, true)
    }

    /// Records the outcome of a question; until `quiet_until` the sign that it was about counts for nothing.
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

    /// Judges a question of `asked` that still waits; `reached` says whether anything was answered on its
    /// connection.
    #[must_use]
    pub(super) fn waiting(&self, asked: Instant, reached: bool, now: Instant) -> Waiting {
        let stall = self.patience.stall;
        let waited = now.saturating_duration_since(asked);
        let moved = self.progress.last_moved().unwrap_or(self.begun);
        let still = now.saturating_duration_since(moved.max(self.begun));
        let usual = self.usual(asked).unwrap_or_default();
        let bound = usual.mul_f64(WAIT_FACTOR).max(MIN_WAIT.min(stall));
        let bound = bound.min(MAX_WAIT);
        let is_read = self.read.is_some_and(|read| read > asked);
        let is_idle = self.load.in_flight == Some(0.0) && self.unanswered_for(now) < stall / 2;
        // How long the engine has to be without progress, and the question without an answer.
        let (longest, still_for) = if !self.progress.is_watching() || self.progress.is_blind(now) {
            (bound.max(stall * 3), Duration::ZERO)
        } else if is_idle {
            (bound.max(stall / 2), stall / 2)
        } else if !reached && !is_read {
            // Neither its page comes, nor anything at all on a new connection.
            (bound, stall / 2)
        } else if reached && !is_read {
            // It may be one long step of the engine, which answers neither page nor question meanwhile.
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

    /// The sign of trouble that there is, whether a question about it was answered or not.
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

    /// The ranks that stand still, by name.
    pub(super) fn stuck_ranks(&self, now: Instant) -> String {
        let names: Vec<&str> = self.stuck(now).into_iter().map(|(name, _)| name).collect();
        names.join(", ")
    }

    /// The sign of trouble as it may be told now, and since when.
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
        let is_full = |rank: &Rank| rank.kv_use.is_some_and(|kv_use| kv_use >= FULL);
        let lately = |at| now.saturating_duration_since(at) < FULL_FOR;
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

    /// The load as it may be told now. What is too old is left out, and why it is.
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

    /// The load that was read, less the capacity of ranks that stand still.
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

    /// Which part of the ranks has requests that wait, from 0 to 1; 1 if there are no ranks.
    #[must_use]
    pub(super) fn queueing_part(&self) -> f64 {
        if self.ranks.is_empty() {
            return 1.0;
        }
        let queues = |rank: &&Rank| rank.waiting.is_some_and(|n| n > 0.0);
        let queueing = self.ranks.values().filter(queues).count().max(1);
        queueing as f64 / self.ranks.len() as f64
    }

    /// Returns the trouble that the engine is in, and for how long: by its own word, or by questions.
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
