//! Decisions for the journal, with the inputs that a replay needs, and for `steer why`.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use super::decisions::{Decision, Decisions, NewDecision};
use crate::{
    control::host::WallClock,
    domain::{
        balance::{Cause, Member, Pool, SUM, Settings, State},
        maglev::Choice,
    },
    journal::{Event, Input, Journal, ReplanCause},
};

/// Journal and last decisions.
#[derive(Clone, Debug)]
pub struct Recorder {
    journal: Journal,
    clock: WallClock,
    /// Inputs of each service's table that were written last.
    written: HashMap<String, BTreeMap<String, Input>>,
    /// The configuration that was written last.
    configured: Option<Event>,
    files_begun: u64,
    decisions: Decisions,
    /// Weights of the last table that was recorded, by service and backend.
    weights: HashMap<String, HashMap<String, u32>>,
}

/// Table of a service with its inputs.
pub(crate) struct Decided<'a> {
    pub(crate) service: &'a str,
    pub(crate) why: &'a str,
    pub(crate) inputs: &'a [(u16, Input)],
    pub(crate) table: &'a [Choice],
    pub(crate) changed: usize,
    pub(crate) undistributed: u32,
    pub(crate) digest: String,
}

/// Step of a table's weights with its inputs.
pub(crate) struct Stepped<'a> {
    pub(crate) service: &'a str,
    pub(crate) cause: Cause,
    pub(crate) settings: Settings,
    pub(crate) pools: &'a [Pool],
    pub(crate) members: &'a [Member],
    pub(crate) before: State,
    pub(crate) after: &'a State,
    pub(crate) moved: u32,
}

impl Recorder {
    /// A recorder that writes no journal.
    #[must_use]
    pub fn silent(clock: WallClock) -> Self {
        Self::new(Journal::none(), clock)
    }

    /// A recorder of a daemon that begins with a configuration.
    #[must_use]
    pub fn starting(journal: Journal, clock: WallClock, configured: Event) -> Self {
        let mut recorder = Self::new(journal, clock);
        recorder.files_begun = recorder.journal.files_begun();
        recorder.configured(configured);
        recorder
    }

    fn new(journal: Journal, clock: WallClock) -> Self {
        Self {
            journal,
            clock,
            written: HashMap::new(),
            configured: None,
            files_begun: 0,
            decisions: Decisions::default(),
            weights: HashMap::new(),
        }
    }

    /// Sets the wall clock that decisions are dated by.
    pub(crate) fn set_clock(&mut self, clock: WallClock) {
        self.clock = clock;
    }

    /// Writes again what later lines build on, once a file was begun.
    fn repeat_in_new_file(&mut self) {
        let begun = self.journal.files_begun();
        if begun == self.files_begun {
            return;
        }
        self.files_begun = begun;
        self.written.clear();
        if let Some(Event::Configured { why, .. }) = &mut self.configured {
            *why = ReplanCause::Continued;
        }
        if let Some(configured) = self.configured.clone() {
            self.journal.record(configured);
        }
    }

    /// Records a configuration that counts from now on.
    pub fn configured(&mut self, event: Event) {
        self.repeat_in_new_file();
        self.configured = Some(event.clone());
        self.journal.record(event);
    }

    /// Records any other event.
    pub fn record(&mut self, event: Event) {
        self.repeat_in_new_file();
        if let (
            Event::WeightSet {
                backend, weight, ..
            },
            Some(Event::Configured { weights, .. }),
        ) = (&event, &mut self.configured)
        {
            match weight {
                Some(weight) => weights.insert(backend.clone(), *weight),
                None => weights.remove(backend),
            };
        }
        if let (
            Event::Drained {
                backend,
                drained: now,
                ..
            },
            Some(Event::Configured { drained, .. }),
        ) = (&event, &mut self.configured)
        {
            drained.retain(|name| name != backend);
            if *now {
                drained.push(backend.clone());
            }
        }
        self.journal.record(event);
    }

    /// Records an event of that time.
    pub(crate) fn tell_at(&mut self, at: Instant, event: Event) {
        self.repeat_in_new_file();
        self.journal.write(at, event);
    }

    /// Microseconds of the journal's clock at an instant.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        self.journal.micros(at)
    }

    /// An instant as the journal's clock has it: a replay decides by that.
    pub(crate) fn on_clock(&self, at: Instant) -> Instant {
        if self.is_on() {
            self.journal.instant(self.journal.micros(at))
        } else {
            at
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.journal.is_on()
    }

    /// The instant at which the journal's clock is zero.
    pub(crate) fn epoch(&self) -> Instant {
        self.journal.instant(0)
    }

    /// Records a step of a table's weights.
    pub(crate) fn balanced(&mut self, step: Stepped<'_>, now: Instant) {
        if !self.is_on() {
            return;
        }
        self.repeat_in_new_file();
        let event = Event::Balanced {
            service: step.service.to_owned(),
            cause: step.cause,
            settings: step.settings,
            pools: step.pools.to_vec(),
            members: step.members.to_vec(),
            before: step.before,
            after: step.after.clone(),
            moved: step.moved,
        };
        self.journal.write(now, event);
    }

    /// Records that slots of a table have other choices.
    pub(crate) fn table(&mut self, decided: &Decided<'_>, now: Instant) {
        if !self.is_on() {
            return;
        }
        self.repeat_in_new_file();
        let whole = !self.written.contains_key(decided.service);
        let written = self.written.entry(decided.service.to_owned()).or_default();
        let mut before = std::mem::take(written);
        let mut inputs = Vec::new();
        let mut shares = BTreeMap::new();
        let slots = decided.table.len().max(1) as f64;
        let mut counts: HashMap<u16, usize> = HashMap::new();
        for choice in decided.table {
            *counts.entry(choice.first).or_default() += 1;
        }
        for (id, input) in decided.inputs {
            if before.remove(&input.backend).as_ref() != Some(input) {
                let count = counts.get(id).copied().unwrap_or(0);
                shares.insert(input.backend.clone(), count as f64 / slots);
                inputs.push(input.clone());
            }
            written.insert(input.backend.clone(), input.clone());
        }
        let event = Event::Table {
            service: decided.service.to_owned(),
            why: decided.why.to_owned(),
            whole,
            inputs,
            gone: before.into_keys().collect(),
            undistributed: decided.undistributed,
            slots: decided.table.len(),
            changed: decided.changed,
            digest: decided.digest.clone(),
            shares,
        };
        self.journal.write(now, event);
    }

    /// Forgets backends and services that are no longer configured.
    pub(crate) fn retain(
        &mut self,
        backend: impl Fn(&str) -> bool,
        service: impl Fn(&str) -> bool,
    ) {
        self.written.retain(|name, _| service(name));
        self.weights.retain(|name, _| service(name));
        self.decisions.retain(backend);
    }

    /// Keeps a decision about a backend.
    pub(crate) fn decision(&mut self, decision: NewDecision, now: Instant) {
        self.decisions.record(decision, self.clock.time(now));
    }

    /// Returns the last decisions about a backend, the oldest first.
    pub(crate) fn decisions(&self, backend: &str) -> Vec<Decision> {
        self.decisions.about(backend)
    }

    /// Keeps the decisions about shares of a table. `because` gives the inputs of a member, by its place.
    pub(crate) fn shares<'n>(
        &mut self,
        service: &str,
        weights: impl Iterator<Item = (&'n str, u32)>,
        because: impl Fn(usize) -> Vec<String>,
        now: Instant,
    ) {
        let percent = |weight: u32| f64::from(weight) * 100.0 / f64::from(SUM);
        let before = self.weights.remove(service).unwrap_or_default();
        let mut after = HashMap::new();
        for (place, (name, weight)) in weights.enumerate() {
            let was = before.get(name).copied().unwrap_or(0);
            after.insert(name.to_owned(), weight);
            if was.abs_diff(weight) < SUM / 1_000 {
                continue;
            }
            let decision = NewDecision {
                backend: name.to_owned(),
                service: Some(service.to_owned()),
                what: "share".to_owned(),
                because: because(place),
                effect: format!("{:.1} % -> {:.1} %", percent(was), percent(weight)),
            };
            self.decision(decision, now);
        }
        self.weights.insert(service.to_owned(), after);
    }
}
