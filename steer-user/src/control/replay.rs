//! Deciding again what a journal says was decided, from the inputs that it has.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::subscriber::{NoSubscriber, with_default};

use super::{
    Controller, Drain,
    backend::Known,
    chain,
    operator::Draining,
    recorder::{self, base},
};
use crate::{
    config::{Config, Document},
    dataplane::Memory,
    domain::{health::State, rings::Candidate},
    journal::{Base, Event, Input, Located, Probe, Record, Why},
};

/// What came of deciding again.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Changes of backends that were decided again.
    pub backends: u64,
    /// Tables that were decided again.
    pub tables: u64,
    /// Tables whose inputs are not all in the journal.
    pub unchecked: u64,
    /// Configurations that could not be taken up again, and why. What was decided under them was
    /// checked without them.
    pub without: Vec<Located<String>>,
    /// Where the journal says something else than what is decided now.
    pub disagreements: Vec<Located<String>>,
}

/// Decides again. `document` has the configurations by generation.
///
/// # Errors
/// If the journal cannot be read.
pub fn replay(
    records: impl Iterator<Item = io::Result<Located<Record>>>,
    document: impl Fn(u64) -> Result<Document, String>,
) -> io::Result<Replayed> {
    // What happens again is nothing to log.
    with_default(NoSubscriber::default(), || {
        let mut again = Again::new();
        for record in records {
            let Located { file, line, item } = record?;
            let mut wrong = Vec::new();
            again.event(&item, &document, &mut wrong);
            let located = |item| Located {
                file: file.clone(),
                line,
                item,
            };
            again
                .result
                .disagreements
                .extend(wrong.into_iter().map(located));
            if let Some(reason) = again.without.take() {
                again.result.without.push(located(reason));
            }
        }
        Ok(again.result)
    })
}

struct Again {
    controller: Option<Controller<Memory>>,
    epoch: Instant,
    /// Backends of which all that was concluded in this run is known.
    sure: HashSet<String>,
    /// The inputs of tables, where all of them are known.
    inputs: HashMap<String, BTreeMap<String, Input>>,
    /// Why there is no controller any more.
    without: Option<String>,
    result: Replayed,
}

impl Again {
    fn new() -> Self {
        Self {
            controller: None,
            epoch: Instant::now(),
            sure: HashSet::new(),
            inputs: HashMap::new(),
            without: None,
            result: Replayed::default(),
        }
    }

    fn event(
        &mut self,
        record: &Record,
        document: &impl Fn(u64) -> Result<Document, String>,
        wrong: &mut Vec<String>,
    ) {
        let now = self.epoch + Duration::from_micros(record.t);
        match &record.event {
            Event::Start { .. } => {
                self.controller = None;
                self.sure.clear();
                self.inputs.clear();
            }
            Event::Gap { .. } => {
                self.sure.clear();
                self.inputs.clear();
            }
            Event::Configured {
                why,
                generation,
                fingerprint,
                drained,
                weights,
                ..
            } => {
                if *why == Why::Continued && self.controller.is_some() {
                    return;
                }
                let config = generation
                    .ok_or_else(|| "it has no generation".to_owned())
                    .and_then(document)
                    .and_then(|document| resolve(&document, fingerprint));
                let put = config.and_then(|config| self.configure(config, *why, now));
                if let Err(reason) = put {
                    self.controller = None;
                    self.without = Some(reason);
                }
                self.weigh(|name, _| weights.get(name).copied());
                self.drain(|name, _| drained.iter().any(|d| d == name), now);
            }
            Event::Weighed {
                backend, weight, ..
            } => {
                self.weigh(|name, was| if name == backend { *weight } else { was });
                self.written(|controller| controller.replan(now, "weighed"));
            }
            Event::Drained {
                backend, drained, ..
            } => {
                let now_drained = |name: &str, was| if name == backend { *drained } else { was };
                self.drain(now_drained, now);
            }
            Event::Backend {
                backend,
                base,
                probes,
                health,
                ring,
                draining,
            } => {
                let said = Said {
                    health: *health,
                    ring: *ring,
                    draining: *draining,
                };
                self.backend(backend, base, probes, &said, wrong);
            }
            Event::Table {
                service,
                whole,
                inputs,
                gone,
                slots,
                digest,
                ..
            } => {
                if *whole {
                    self.inputs.insert(service.clone(), BTreeMap::new());
                }
                let Some(known) = self.inputs.get_mut(service) else {
                    self.result.unchecked += 1;
                    return;
                };
                for name in gone {
                    known.remove(name);
                }
                for input in inputs {
                    known.insert(input.backend.clone(), input.clone());
                }
                self.table(service, *slots, digest, wrong);
            }
            // What takes no new flows already may take fewer.
            Event::DrainOver { .. }
            // What it changed is in the bases of those that it concerns.
            | Event::Tuned { .. }
            | Event::Confirmed { .. }
            | Event::Way { .. }
            | Event::Shedding { .. }
            | Event::Gone { .. }
            | Event::Stop => {}
        }
    }

    fn configure(&mut self, config: Config, why: Why, now: Instant) -> Result<(), String> {
        let text = |error: anyhow::Error| format!("{error:#}");
        if let Some(controller) = &mut self.controller {
            let known = &controller.known;
            let new = config
                .backends
                .iter()
                .filter(|b| !known.contains_key(&b.name));
            self.sure.extend(new.map(|b| b.name.clone()));
            return controller.reconfigure(config, now).map_err(text);
        }
        if why == Why::Start {
            self.sure
                .extend(config.backends.iter().map(|b| b.name.clone()));
        }
        self.controller = Some(Controller::new(config, Memory::new(), now).map_err(text)?);
        Ok(())
    }

    fn weigh(&mut self, weight: impl Fn(&str, Option<u32>) -> Option<u32>) {
        if let Some(controller) = &mut self.controller {
            for (name, known) in &mut controller.known {
                known.weight = weight(name, known.weight);
            }
        }
    }

    fn drain(&mut self, drained: impl Fn(&str, bool) -> bool, now: Instant) {
        let Some(controller) = &mut self.controller else {
            return;
        };
        for (name, known) in &mut controller.known {
            let is = drained(name, known.drained.is_some());
            known.drained = is.then(|| Draining::new(Drain::default(), now));
        }
        self.written(|controller| controller.replan(now, "drained"));
    }

    /// A data path in memory is always written.
    fn written(&mut self, write: impl FnOnce(&mut Controller<Memory>) -> Result<()>) {
        let done = self.controller.as_mut().map(write);
        if let Some(Err(error)) = done {
            self.controller = None;
            self.without = Some(format!("{error:#}"));
        }
    }

    fn backend(
        &mut self,
        name: &str,
        told: &Base,
        probes: &[Probe],
        said: &Said,
        wrong: &mut Vec<String>,
    ) {
        self.result.backends += 1;
        let mut known = Known::from_base(told);
        let controller = self.controller.as_mut();
        if let Some(mine) = controller.and_then(|controller| controller.known.get_mut(name)) {
            let before = conclusions(&base(mine));
            let after = conclusions(told);
            if self.sure.contains(name) && before != after {
                wrong.push(format!(
                    "backend {name}: was {after} before this, and {before} by what was told before"
                ));
            }
            mine.health = told.health.clone();
            mine.nearness = told.nearness.clone();
            mine.draining = told.draining;
            self.sure.insert(name.to_owned());
        }
        for (index, probe) in probes.iter().enumerate() {
            let measurement = probe.measurement(name, self.epoch);
            let change = known.measure(&measurement);
            let found = Said {
                health: change.health.map(|health| (health.from, health.to)),
                ring: change.ring,
                draining: change.draining,
            };
            let last = index + 1 == probes.len();
            let expected = if last { said.clone() } else { Said::default() };
            if found != expected {
                wrong.push(format!(
                    "backend {name}: probe {} of {} makes {found}, and the journal says {expected}",
                    index + 1,
                    probes.len()
                ));
            }
            self.written(|controller| controller.measure(&measurement));
        }
        if probes.is_empty() {
            wrong.push(format!("backend {name}: it changed without a probe"));
        }
    }

    fn table(&mut self, service: &str, slots: usize, digest: &str, wrong: &mut Vec<String>) {
        self.result.tables += 1;
        let Some(inputs) = self.inputs.get(service) else {
            return;
        };
        let numbered: Vec<(u16, Input)> = (1..).zip(inputs.values().cloned()).collect();
        let last = numbered.iter().map(|(_, input)| input.pool).max();
        let mut pools: Vec<Vec<chain::Member<'_>>> = vec![Vec::new(); last.map_or(0, |l| l + 1)];
        for (id, input) in &numbered {
            pools[input.pool].push(chain::Member {
                name: &input.backend,
                candidate: Candidate {
                    id: *id,
                    ring: input.ring,
                    healthy: input.healthy,
                    capacity: input.weight,
                },
            });
        }
        let table = chain::table(&pools, slots);
        let mine = table.map(|table| recorder::digest(&table, &numbered));
        if mine.as_deref() != Some(digest) {
            wrong.push(format!(
                "service {service}: its inputs make another table than the journal says"
            ));
        }
        if let Some(controller) = &self.controller {
            for line in compare(controller, &self.sure, service, inputs) {
                wrong.push(format!("service {service}: {line}"));
            }
        }
    }
}

/// Differences between inputs and what measurements and configuration make of them. Weights are
/// left out: they may depend on what is not in the journal.
fn compare(
    controller: &Controller<Memory>,
    sure: &HashSet<String>,
    service: &str,
    inputs: &BTreeMap<String, Input>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut policies = controller.policies.iter();
    let Some(index) = policies.position(|id| controller.config.policy(*id).name() == service)
    else {
        return vec!["the configuration has no such service or class".to_owned()];
    };
    let pools = controller.pools(index).unwrap_or_default();
    let mine: BTreeMap<String, Input> = recorder::inputs(&pools)
        .into_iter()
        .map(|(_, input)| (input.backend.clone(), input))
        .collect();
    if !mine.keys().eq(inputs.keys()) {
        lines.push("it has other backends than the configuration says".to_owned());
        return lines;
    }
    for (name, mine) in &mine {
        let theirs = &inputs[name];
        let known = controller.known.get(name);
        let measured = known.is_some_and(|k| k.health.state() != State::Unknown);
        let same = mine.pool == theirs.pool
            && (!sure.contains(name) || mine.ring == theirs.ring)
            // What is not measured yet is as the daemon before left it.
            && (!sure.contains(name) || !measured || mine.healthy == theirs.healthy);
        if !same {
            lines.push(format!(
                "backend {name} was taken as {theirs:?}, and what was told makes it {mine:?}"
            ));
        }
    }
    lines
}

/// A changed conclusion.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    health: Option<(State, State)>,
    ring: Option<(Option<usize>, usize)>,
    draining: Option<bool>,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        words.extend(
            self.health
                .map(|(from, to)| format!("health {from:?} -> {to:?}")),
        );
        words.extend(self.ring.map(|(from, to)| format!("ring {from:?} -> {to}")));
        words.extend(self.draining.map(|draining| format!("draining {draining}")));
        if words.is_empty() {
            words.push("no change".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

fn conclusions(base: &Base) -> String {
    let ring = base.nearness.ring();
    let ring = ring.map_or("no ring".to_owned(), |ring| format!("ring {ring}"));
    let draining = if base.draining { ", draining" } else { "" };
    format!("{:?}, {ring}{draining}", base.health.state())
}

fn resolve(document: &Document, fingerprint: &str) -> Result<Config, String> {
    if document.fingerprint() != fingerprint {
        return Err("the generation of that number says something else".to_owned());
    }
    let mut config = document.config().map_err(|error| error.to_string())?;
    // Nothing of a real daemon is read or written.
    config.node.state_dir = PathBuf::from("/nonexistent");
    Ok(config)
}
