//! What the loop tells the journal, with the inputs that it needs to be decided again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use super::{
    Controller,
    backend::{Change, Known},
    chain,
};
use crate::{
    dataplane::Dataplane,
    digest::sha256,
    domain::maglev::Choice,
    journal::{Base, Event, Input, Journal, Probe, Why},
    probe::Measurement,
};

/// Probes of one backend that are told with a change. What came before them is in their base.
const TRAIL: usize = 16;

/// The last probes of a backend since something was told of it.
struct Trail {
    /// What was concluded before the first of them.
    base: Known,
    probes: VecDeque<Probe>,
}

/// The loop's side of the journal.
pub(super) struct Recorder {
    journal: Journal,
    epoch: Instant,
    trails: HashMap<String, Trail>,
    /// The inputs of each service's table that were told last.
    told: HashMap<String, BTreeMap<String, Input>>,
    /// The configuration that was told last.
    configured: Option<Event>,
    files_begun: u64,
}

/// The table of a service with what it was made of.
pub(super) struct Decided<'a> {
    pub(super) service: &'a str,
    pub(super) why: &'a str,
    pub(super) inputs: &'a [(u16, Input)],
    pub(super) table: &'a [Choice],
    pub(super) changed: usize,
}

impl Recorder {
    pub(super) fn new(journal: Journal, now: Instant) -> Self {
        Self {
            journal,
            epoch: now,
            trails: HashMap::new(),
            told: HashMap::new(),
            configured: None,
            files_begun: 0,
        }
    }

    /// One of a daemon that begins with a configuration.
    pub(super) fn beginning(journal: Journal, now: Instant, configured: Event) -> Self {
        let mut recorder = Self::new(journal, now);
        recorder.files_begun = recorder.journal.files_begun();
        recorder.configured(configured);
        recorder
    }

    /// Tells again what later lines build on, once a file was begun.
    fn go_on(&mut self) {
        let begun = self.journal.files_begun();
        if begun == self.files_begun {
            return;
        }
        self.files_begun = begun;
        self.told.clear();
        if let Some(Event::Configured { why, .. }) = &mut self.configured {
            *why = Why::Continued;
        }
        if let Some(configured) = self.configured.clone() {
            self.journal.tell(configured);
        }
    }

    /// Tells of a configuration that counts from now on.
    pub(super) fn configured(&mut self, event: Event) {
        self.go_on();
        self.configured = Some(event.clone());
        self.journal.tell(event);
    }

    /// Tells anything else.
    pub(super) fn tell(&mut self, event: Event) {
        self.go_on();
        if let (
            Event::Weighed {
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
        self.journal.tell(event);
    }

    pub(super) fn is_on(&self) -> bool {
        self.journal.is_on()
    }

    /// Keeps a measurement that is about to be taken in.
    pub(super) fn keep(&mut self, known: &Known, measurement: &Measurement) {
        if !self.is_on() {
            return;
        }
        let probe = Probe::of(measurement, self.journal.micros(measurement.at));
        let trail = self
            .trails
            .entry(measurement.backend.clone())
            .or_insert_with(|| Trail {
                base: known.clone(),
                probes: VecDeque::with_capacity(TRAIL),
            });
        if trail.probes.len() == TRAIL
            && let Some(first) = trail.probes.pop_front()
        {
            let epoch = self.epoch;
            trail
                .base
                .measure(&first.measurement(&measurement.backend, epoch));
        }
        trail.probes.push_back(probe);
    }

    /// Tells what the measurement changed that was kept last.
    pub(super) fn backend(&mut self, measurement: &Measurement, change: &Change) {
        let Some(trail) = self.trails.remove(&measurement.backend) else {
            return;
        };
        let event = Event::Backend {
            backend: measurement.backend.clone(),
            base: base(&trail.base),
            probes: trail.probes.into(),
            health: change.health.map(|health| (health.from, health.to)),
            ring: change.ring,
            draining: change.draining,
        };
        self.go_on();
        self.journal.write(measurement.at, event);
    }

    /// Tells that slots of a table have other choices.
    pub(super) fn table(&mut self, decided: &Decided<'_>, now: Instant) {
        if !self.is_on() {
            return;
        }
        self.go_on();
        let whole = !self.told.contains_key(decided.service);
        let told = self.told.entry(decided.service.to_owned()).or_default();
        let mut before = std::mem::take(told);
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
            told.insert(input.backend.clone(), input.clone());
        }
        let event = Event::Table {
            service: decided.service.to_owned(),
            why: decided.why.to_owned(),
            whole,
            inputs,
            gone: before.into_keys().collect(),
            slots: decided.table.len(),
            changed: decided.changed,
            digest: digest(decided.table, decided.inputs),
            shares,
        };
        self.journal.write(now, event);
    }

    /// Forgets what was kept of backends and services that are no more.
    pub(super) fn retain(
        &mut self,
        backend: impl Fn(&str) -> bool,
        service: impl Fn(&str) -> bool,
    ) {
        self.trails.retain(|name, _| backend(name));
        self.told.retain(|name, _| service(name));
    }

    /// Forgets the probes of a backend of which nothing is known any more.
    pub(super) fn forget(&mut self, backend: &str) {
        self.trails.remove(backend);
    }
}

impl<D: Dataplane> Controller<D> {
    /// Tells that slots of a policy's table have other choices.
    pub(super) fn tell(
        &mut self,
        policy: usize,
        why: &str,
        table: &[Choice],
        changed: usize,
        now: Instant,
    ) {
        if !self.recorder.is_on() {
            return;
        }
        let inputs = inputs(&self.pools(policy).unwrap_or_default());
        let decided = Decided {
            service: &self.config.policy(self.policies[policy]).name(),
            why,
            inputs: &inputs,
            table,
            changed,
        };
        self.recorder.table(&decided, now);
    }
}

/// What is concluded of a backend.
pub(super) fn base(known: &Known) -> Base {
    Base {
        health: known.health.clone(),
        nearness: known.nearness.clone(),
        draining: known.draining,
    }
}

/// Candidates as inputs, each with its number.
pub(super) fn inputs(pools: &[Vec<chain::Member<'_>>]) -> Vec<(u16, Input)> {
    let mut inputs = Vec::new();
    for (pool, members) in pools.iter().enumerate() {
        for member in members {
            let candidate = &member.candidate;
            let input = Input {
                backend: member.name.to_owned(),
                pool,
                ring: candidate.ring,
                healthy: candidate.healthy,
                weight: candidate.capacity,
            };
            inputs.push((candidate.id, input));
        }
    }
    inputs
}

/// A digest of a table that depends on backends' names and not on members' numbers.
pub(super) fn digest(table: &[Choice], inputs: &[(u16, Input)]) -> String {
    let mut names: Vec<_> = inputs
        .iter()
        .map(|(id, i)| (i.backend.as_str(), *id))
        .collect();
    names.sort_unstable();
    let ranks: HashMap<u16, u16> = names.iter().map(|(_, id)| *id).zip(1..).collect();
    let rank = |id: u16| ranks.get(&id).copied().unwrap_or(0).to_be_bytes();
    let mut text = Vec::with_capacity(4 * table.len());
    for choice in table {
        text.extend(rank(choice.first));
        text.extend(rank(choice.second));
    }
    let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    sha256(&[names.join("\n").as_bytes(), b"\n\n", &text])
}
