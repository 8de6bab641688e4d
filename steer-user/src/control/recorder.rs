//! What the loop tells the journal, with the inputs that it needs to be decided again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use steer_probe::probe::Measurement;

use super::{
    Controller, Refused,
    backend::{Change, Known},
    chain::{self, Candidates},
    why::{Decision, Said},
};
use crate::{
    dataplane::Dataplane,
    digest::sha256,
    domain::{
        balance::{Cause, SUM, Settings, State},
        maglev::Choice,
    },
    journal::{Event, Input, Journal, Probe, Why},
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
    pub(super) nobody: u32,
}

/// A step of a table's weights with what it was made of.
pub(super) struct Stepped<'a> {
    pub(super) service: &'a str,
    pub(super) cause: Cause,
    pub(super) settings: Settings,
    pub(super) candidates: &'a Candidates,
    pub(super) before: State,
    pub(super) after: &'a State,
    pub(super) moved: u32,
}

impl Recorder {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            trails: HashMap::new(),
            told: HashMap::new(),
            configured: None,
            files_begun: 0,
        }
    }

    /// One of a daemon that begins with a configuration.
    pub(super) fn beginning(journal: Journal, configured: Event) -> Self {
        let mut recorder = Self::new(journal);
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

    /// As [`Self::tell`], of something at a time.
    pub(super) fn tell_at(&mut self, at: Instant, event: Event) {
        self.go_on();
        self.journal.write(at, event);
    }

    /// A time in microseconds of the journal's clock.
    pub(super) fn micros(&self, at: Instant) -> u64 {
        self.journal.micros(at)
    }

    /// A time as the journal's clock has it: what is decided is decided again by that.
    pub(super) fn on_clock(&self, at: Instant) -> Instant {
        if self.is_on() {
            self.journal.instant(self.journal.micros(at))
        } else {
            at
        }
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
            let epoch = self.journal.instant(0);
            trail
                .base
                .measure(&first.measurement(&measurement.backend, epoch));
        }
        trail.probes.push_back(probe);
    }

    /// Tells what the measurement changed that was kept last.
    pub(super) fn backend(&mut self, measurement: &Measurement, change: &Change, now: &Known) {
        let Some(trail) = self.trails.remove(&measurement.backend) else {
            return;
        };
        let base = Known {
            // What is told of by events of its own is as it is now.
            watch: now.watch,
            verdict: now.verdict,
            ..trail.base
        };
        let event = Event::Backend {
            backend: measurement.backend.clone(),
            base: base.base(|at| self.journal.micros(at)),
            probes: trail.probes.into(),
            health: change.health.map(|health| (health.from, health.to)),
            ring: change.ring,
            draining: change.draining,
            suppressed: change.suppressed,
            lossy: change.lossy,
            hot: change.hot,
            doubt: change.doubt,
        };
        self.go_on();
        self.journal.write(measurement.at, event);
    }

    /// Tells of a step of a table's weights.
    pub(super) fn balanced(&mut self, step: Stepped<'_>, now: Instant) {
        if !self.is_on() {
            return;
        }
        self.go_on();
        let event = Event::Balanced {
            service: step.service.to_owned(),
            cause: step.cause,
            settings: step.settings,
            pools: step.candidates.pools.clone(),
            members: step.candidates.members.clone(),
            before: step.before,
            after: step.after.clone(),
            moved: step.moved,
        };
        self.journal.write(now, event);
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
            nobody: decided.nobody,
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
    /// Tells that slots of a policy's table have other choices: of which candidates they were made.
    pub(super) fn tell(
        &mut self,
        policy: usize,
        why: &str,
        (table, changed): (&[Choice], usize),
        (candidates, members, nobody): (&Candidates, &[chain::Member<'_>], u32),
        now: Instant,
    ) {
        let name = self.config.policy(self.policies[policy]).name();
        self.note_shares(&name, why, candidates, members);
        if !self.recorder.is_on() {
            return;
        }
        let inputs = inputs(candidates, members);
        let decided = Decided {
            service: &name,
            why,
            inputs: &inputs,
            table,
            changed,
            nobody,
        };
        self.recorder.table(&decided, now);
    }

    /// Keeps what became of backends' shares, with why.
    fn note_shares(
        &mut self,
        service: &str,
        why: &str,
        candidates: &Candidates,
        members: &[chain::Member<'_>],
    ) {
        let percent = |weight: u32| f64::from(weight) * 100.0 / f64::from(SUM);
        let before = self.shares.entry(service.to_owned()).or_default();
        let mut after = HashMap::new();
        for (member, seen) in members.iter().zip(&candidates.members) {
            let was = before.get(member.name).copied().unwrap_or(0);
            after.insert(member.name.to_owned(), member.weight);
            if was.abs_diff(member.weight) < SUM / 1_000 {
                continue;
            }
            let pool = candidates.pools.get(seen.pool);
            let mut because = vec![
                why.to_owned(),
                format!(
                    "pool {}, ring {}",
                    pool.map_or("?", |pool| pool.name.as_str()),
                    seen.ring
                ),
            ];
            if !member.healthy {
                because.push("takes no new flows".to_owned());
            }
            because.extend(
                seen.load
                    .map(|load| format!("use {:.0} %", f64::from(load) / 10_000.0)),
            );
            self.why.note(Said {
                backend: member.name.to_owned(),
                service: Some(service.to_owned()),
                what: "share".to_owned(),
                because,
                effect: format!("{:.1} % -> {:.1} %", percent(was), percent(member.weight)),
            });
        }
        *before = after;
    }

    /// Keeps what a measurement changed.
    pub(super) fn note_change(&mut self, backend: &str, change: &Change) {
        let Some(known) = self.known.get(backend) else {
            return;
        };
        let mut because = Vec::new();
        because.extend(known.failure.as_ref().map(ToString::to_string));
        because.extend(
            known
                .rtt()
                .map(|rtt| format!("smoothed round trip {:.2} ms", rtt.as_secs_f64() * 1e3)),
        );
        because.extend(
            known
                .load
                .last()
                .map(|(load, _)| format!("smoothed use {:.0} %", f64::from(load) / 10_000.0)),
        );
        let mut effects = Vec::new();
        effects.extend(
            change
                .health
                .map(|t| ("health", format!("{:?} -> {:?}", t.from, t.to))),
        );
        effects.extend(change.ring.map(|(from, to)| {
            let from = from.map_or("none".to_owned(), |ring| ring.to_string());
            ("ring", format!("{from} -> {to}"))
        }));
        let flags = [
            ("draining", change.draining),
            ("left out for flapping", change.suppressed),
            ("degraded by loss", change.lossy),
            ("hot", change.hot),
        ];
        effects.extend(flags.into_iter().filter_map(|(what, flag)| {
            let word = if flag? { "yes" } else { "no longer" };
            Some((what, word.to_owned()))
        }));
        let percent = |part: u32| f64::from(part) / 10_000.0;
        let bounds = known.rules.hot;
        let by_use = known.used.map(|used| {
            format!(
                "use {:.0} % as reported last; hot from {:.0} %, until below {:.0} %",
                percent(used),
                percent(bounds.above),
                percent(bounds.below)
            )
        });
        for (what, effect) in effects {
            let mut because = because.clone();
            if what == "hot" {
                because.extend(by_use.clone());
            }
            self.why.note(Said {
                backend: backend.to_owned(),
                service: None,
                what: what.to_owned(),
                because,
                effect,
            });
        }
    }

    /// The last decisions about a backend, the oldest first, each with its inputs.
    ///
    /// # Errors
    /// If there is no such backend.
    pub fn why(&self, backend: &str) -> Result<Vec<Decision>, Refused> {
        if self.known.contains_key(backend) {
            Ok(self.why.of(backend))
        } else {
            Err(Refused::Unknown(backend.to_owned()))
        }
    }
}

/// Candidates as inputs, each with its number.
pub(super) fn inputs(candidates: &Candidates, members: &[chain::Member<'_>]) -> Vec<(u16, Input)> {
    let mut inputs = Vec::new();
    for (member, seen) in members.iter().zip(&candidates.members) {
        let (pool, place, cost) = member.tier;
        let input = Input {
            backend: member.name.to_owned(),
            pool,
            ring: seen.ring,
            cost: (place == 0).then_some(cost),
            healthy: member.healthy,
            capacity: member.capacity,
            weight: member.weight,
            full: member.full,
            open: member.open && member.tier.0 > 0,
        };
        inputs.push((member.id, input));
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
