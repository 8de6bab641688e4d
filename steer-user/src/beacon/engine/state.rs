//! What is known of an engine, and what that means at any time.

use std::time::{Duration, Instant};

use super::{progress::Progress, read::Reading, window::Window};
use crate::probe::{Load, NoSignal, Trouble};

/// So many completions in a row have to fail: one may have met a restart.
const COMPLETIONS: u32 = 2;

/// When what is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Longest time of work without progress.
    pub(super) stall: Duration,
    /// Longest time until an answer begins; `None` where silence says nothing of the engine.
    pub(super) silence: Option<Duration>,
    /// Signals that are older are none.
    pub(super) stale: Duration,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct State {
    load: Load,
    read: Option<Instant>,
    begun: Instant,
    why: NoSignal,
    progress: Progress,
    unanswered: Option<Instant>,
    failed: Option<(Instant, u32)>,
    /// A tiny completion takes longer than an idle engine would need.
    overdue: bool,
}

impl State {
    /// Nothing yet.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        Self {
            load: Load::default(),
            read: None,
            begun: now,
            why: NoSignal::NotYet,
            progress: Progress::default(),
            unanswered: None,
            failed: None,
            overdue: false,
        }
    }

    /// The engine is being asked.
    pub(super) fn asked(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    /// It refused, or said what is no page.
    pub(super) fn unreadable(&mut self, why: NoSignal) {
        self.unanswered = None;
        self.why = why;
    }

    /// It has not answered for as long as one waits.
    pub(super) fn silent(&mut self) {
        self.why = NoSignal::Unreachable;
    }

    /// It said something.
    pub(super) fn reading(&mut self, window: &mut Window, reading: Reading, now: Instant) {
        self.unanswered = None;
        self.progress
            .observe(reading.in_flight(), &reading.progress, now);
        if !reading.has_load() {
            self.why = NoSignal::Renamed;
            return;
        }
        self.load = window.take(now, reading);
        self.read = Some(now);
        // If it is not read again, that is why.
        self.why = NoSignal::Stale;
    }

    /// A tiny completion takes longer than an idle engine would need. Gauges that the engine writes when it
    /// works say nothing of one that stands still before its first request.
    pub(super) fn overdue(&mut self) {
        self.overdue = true;
    }

    /// A tiny completion says nothing of the engine.
    pub(super) fn inconclusive(&mut self) {
        self.overdue = false;
    }

    /// A tiny completion was answered, or not.
    pub(super) fn completed(&mut self, ok: bool, now: Instant) {
        self.overdue = false;
        self.failed = match (ok, self.failed) {
            (true, _) => None,
            (false, None) => Some((now, 1)),
            (false, Some((since, n))) => Some((since, n.saturating_add(1))),
        };
    }

    /// Whether a completion failed last.
    #[must_use]
    pub(super) fn is_in_doubt(&self) -> bool {
        self.failed.is_some()
    }

    /// The watch over its progress.
    #[must_use]
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The load as it may be told now. What is too old is left out, and why it is.
    #[must_use]
    pub(super) fn load(&self, patience: &Patience, now: Instant) -> Load {
        let since = self.read.unwrap_or(self.begun);
        let age = now.saturating_duration_since(since);
        let doubted = self.overdue || self.is_in_doubt();
        if doubted && self.read.is_some() {
            return Load {
                age: Some(age.as_secs_f64()),
                no_signal: Some(NoSignal::Doubted),
                ..Load::default()
            };
        }
        if self.read.is_some() && age <= patience.stale {
            return Load {
                age: Some(age.as_secs_f64()),
                ..self.load.clone()
            };
        }
        Load {
            age: Some(age.as_secs_f64()),
            no_signal: Some(self.why),
            ..Load::default()
        }
    }

    /// What is wrong with the engine, and for how long.
    #[must_use]
    pub(super) fn trouble(&self, patience: &Patience, now: Instant) -> Option<(Trouble, Duration)> {
        let since = |at| now.saturating_duration_since(at);
        let stalled = self.progress.stalled(now);
        if stalled >= patience.stall {
            return Some((Trouble::NoProgress, stalled));
        }
        let silent = self.unanswered.map(since).unwrap_or_default();
        if patience.silence.is_some_and(|longest| silent >= longest) {
            return Some((Trouble::Silent, silent));
        }
        let (at, count) = self.failed?;
        (count >= COMPLETIONS).then(|| (Trouble::NoCompletion, since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        stall: Duration::from_secs(20),
        silence: Some(Duration::from_secs(5)),
        stale: Duration::from_secs(3),
    };

    fn busy(mark: f64) -> Reading {
        Reading {
            running: Some(2.0),
            progress: vec![mark],
            ..Reading::default()
        }
    }

    #[test]
    fn what_cannot_be_read_any_more_is_old_and_then_unknown_but_never_idle() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut state, mut window) = (State::new(start), Window::default());
        let load = state.load(&PATIENCE, at(1));
        assert_eq!(
            (load.no_signal, load.age),
            (Some(NoSignal::NotYet), Some(1.0))
        );

        state.asked(at(1));
        state.reading(&mut window, busy(1.0), at(1));
        let load = state.load(&PATIENCE, at(3));
        assert_eq!((load.running, load.age), (Some(2.0), Some(2.0)));
        assert_eq!(
            state.load(&PATIENCE, at(5)).no_signal,
            Some(NoSignal::Stale)
        );

        for (why, nth) in [(NoSignal::Unreachable, 6), (NoSignal::Malformed, 7)] {
            state.asked(at(nth));
            state.unreadable(why);
            let load = state.load(&PATIENCE, at(nth));
            assert_eq!(load.no_signal, Some(why));
            assert_eq!(load.age, Some(nth as f64 - 1.0));
            assert_eq!((load.running, load.in_flight), (None, None));
        }
        // An engine that renames what it counts is not idle either.
        state.reading(&mut window, Reading::default(), at(8));
        assert_eq!(
            state.load(&PATIENCE, at(8)).no_signal,
            Some(NoSignal::Renamed)
        );
        assert_eq!(state.trouble(&PATIENCE, at(8)), None);
    }

    #[test]
    fn an_engine_that_hangs_is_in_trouble() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut state, mut window) = (State::new(start), Window::default());
        state.reading(&mut window, busy(1.0), at(0));
        state.reading(&mut window, busy(2.0), at(1));
        state.asked(at(2));
        assert_eq!(state.trouble(&PATIENCE, at(6)), None);
        state.silent();
        state.asked(at(7));
        let want = (Trouble::Silent, Duration::from_secs(6));
        assert_eq!(state.trouble(&PATIENCE, at(8)), Some(want));
        let other = Patience {
            silence: None,
            ..PATIENCE
        };
        assert_eq!(state.trouble(&other, at(8)), None);
        let want = (Trouble::NoProgress, Duration::from_secs(20));
        assert_eq!(state.trouble(&other, at(21)), Some(want));
        // It answers again, and has gone on.
        state.reading(&mut window, busy(3.0), at(22));
        assert_eq!(state.trouble(&PATIENCE, at(22)), None);
    }

    #[test]
    fn an_engine_that_owes_a_completion_is_not_idle() {
        let start = Instant::now();
        let mut state = State::new(start);
        let idle = Reading {
            running: Some(0.0),
            waiting: Some(0.0),
            ..Reading::default()
        };
        state.reading(&mut Window::default(), idle, start);
        assert_eq!(state.load(&PATIENCE, start).running, Some(0.0));
        let doubted = |state: &State| {
            let load = state.load(&PATIENCE, start);
            (load.running, load.no_signal)
        };
        state.overdue();
        assert_eq!(doubted(&state), (None, Some(NoSignal::Doubted)));
        state.completed(false, start);
        assert_eq!(doubted(&state), (None, Some(NoSignal::Doubted)));
        state.completed(true, start);
        assert_eq!(doubted(&state), (Some(0.0), None));
        state.overdue();
        state.inconclusive();
        assert_eq!(doubted(&state), (Some(0.0), None));
    }

    #[test]
    fn two_completions_in_a_row_have_to_fail() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(start);
        state.completed(false, at(1));
        assert_eq!(state.trouble(&PATIENCE, at(2)), None);
        state.completed(false, at(3));
        let want = (Trouble::NoCompletion, Duration::from_secs(3));
        assert_eq!(state.trouble(&PATIENCE, at(4)), Some(want));
        state.completed(true, at(5));
        assert_eq!(state.trouble(&PATIENCE, at(6)), None);
    }
}
