//! Deciding again what a journal says was decided, from the inputs that it has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::subscriber::{NoSubscriber, with_default};

use super::{Controller, Drain, backend::Known, chain, operator::Draining, recorder};
use crate::{
    config::{Config, Document},
    dataplane::Memory,
    domain::{
        balance::{self, Settings, tick},
        evidence::judge,
        health::State,
        passive::Watch,
        rules::Doubt,
        succession,
    },
    journal::{Base, Event, Input, Located, Probe, Record, Why},
};

/// What came of deciding again.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Changes of backends that were decided again.
    pub backends: u64,
    /// Tables that were decided again.
    pub tables: u64,
    /// Verdicts that were concluded again.
    pub verdicts: u64,
    /// Steps of weights that were made again.
    pub steps: u64,
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
    /// Services of whose weights all is known.
    balances: HashSet<String>,
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
            balances: HashSet::new(),
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
                self.balances.clear();
                self.inputs.clear();
            }
            Event::Gap { .. } => {
                self.sure.clear();
                self.balances.clear();
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
            Event::Passive {
                backend,
                before,
                counts,
                around,
                verdict,
            } => {
                let mut watch = Watch::read(before, |t| self.epoch + Duration::from_micros(t));
                if watch.observe(counts, *around, now) != Some(*verdict) {
                    wrong.push(format!(
                        "backend {backend}: its connections lead to something else than the journal says"
                    ));
                }
                let known = self.controller.as_mut().map(|c| &mut c.known);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.watch = watch;
                }
                self.written(|c| c.conclude(backend, (*counts, around.outlier), *verdict, now));
            }
            Event::OwnConnection {
                backend,
                before,
                outcome,
                verdict,
            } => {
                let mut watch = Watch::read(before, |t| self.epoch + Duration::from_micros(t));
                if watch.confirm(*outcome, now) != Some(*verdict) {
                    wrong.push(format!(
                        "backend {backend}: a connection leads to something else than the journal says"
                    ));
                }
                let known = self.controller.as_mut().map(|c| &mut c.known);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.watch = watch;
                }
                self.written(|c| c.after_connection(backend, *outcome, *verdict, now));
            }
            Event::Verdict {
                backend,
                inputs,
                verdict,
            } => {
                self.result.verdicts += 1;
                if judge(inputs) != *verdict {
                    wrong.push(format!(
                        "backend {backend}: its signals make it {}, and the journal says {verdict}",
                        judge(inputs)
                    ));
                }
                let known = self.controller.as_mut().map(|c| &mut c.known);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.verdict = *verdict;
                }
                self.written(|c| c.replan_of(backend, now));
            }
            Event::Panic {
                service, panics, ..
            } => {
                let Some(controller) = &self.controller else {
                    return;
                };
                let sure = controller.config.backends.iter().all(|backend| {
                    let known = controller.known.get(&backend.name);
                    self.sure.contains(&backend.name)
                        && known.is_some_and(|k| k.health.state() != State::Unknown)
                });
                if sure && controller.panicking.contains(service) != *panics {
                    wrong.push(format!(
                        "service {service}: its probes are believed or not other than the journal says"
                    ));
                }
            }
            Event::Balanced {
                service,
                cause,
                settings,
                pools,
                members,
                before,
                after,
                moved,
            } => {
                self.result.steps += 1;
                let mut mine = before.clone();
                let ticked = tick(&mut mine, settings, pools, members, *cause);
                if mine != *after || ticked.moved != *moved {
                    wrong.push(format!(
                        "service {service}: the step leads to other weights than the journal says"
                    ));
                }
                self.balanced(service, settings, members, before, wrong);
                // What is told before a configuration is known is told again in the next step.
                if let Some(controller) = &mut self.controller {
                    controller.balances.insert(service.clone(), after.clone());
                    self.balances.insert(service.clone());
                }
            }
            Event::Backend {
                backend,
                base,
                probes,
                health,
                ring,
                draining,
                suppressed,
                lossy,
                hot,
                doubt,
            } => {
                let said = Said {
                    health: *health,
                    ring: *ring,
                    draining: *draining,
                    suppressed: *suppressed,
                    lossy: *lossy,
                    hot: *hot,
                    doubt: *doubt,
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
                nobody,
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
                self.table(service, *slots, *nobody, digest, wrong);
            }
            Event::Router {
                router,
                interface,
                gateway: Some(gateway),
                ports,
                to,
                ..
            } => {
                if succession::choose(*interface, ports, |port| port.interface) != to.as_ref() {
                    wrong.push(format!(
                        "router {router}: gateway {gateway} takes over elsewhere than the journal says"
                    ));
                }
            }
            // What takes no new flows already may take fewer.
            Event::DrainOver { .. }
            // What it changed is in the bases of those that it concerns.
            | Event::Tuned { .. }
            | Event::Confirmed { .. }
            | Event::Way { .. }
            | Event::Router { .. }
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
            let policies = config.policy_ids().into_iter();
            self.balances
                .extend(policies.map(|id| config.policy(id).name()));
        }
        let mut controller = Controller::new(config, Memory::new(), now).map_err(text)?;
        // It makes those steps that the journal has, and no other.
        controller.steps = false;
        self.controller = Some(controller);
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
        let epoch = self.epoch;
        let micros = |at: Instant| at.saturating_duration_since(epoch).as_micros() as u64;
        let mut known = Known::from_base(told, |t| epoch + Duration::from_micros(t));
        let controller = self.controller.as_mut();
        if let Some(mine) = controller.and_then(|controller| controller.known.get_mut(name)) {
            let before = conclusions(&mine.base(micros));
            let after = conclusions(told);
            if self.sure.contains(name) && before != after {
                wrong.push(format!(
                    "backend {name}: was {after} before this, and {before} by what was told before"
                ));
            }
            mine.resume(&known);
            self.sure.insert(name.to_owned());
        }
        for (index, probe) in probes.iter().enumerate() {
            let measurement = probe.measurement(name, self.epoch);
            let change = known.measure(&measurement);
            let found = Said {
                health: change.health.map(|health| (health.from, health.to)),
                ring: change.ring,
                draining: change.draining,
                suppressed: change.suppressed,
                lossy: change.lossy,
                hot: change.hot,
                doubt: change.doubt,
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
            self.written(|controller| controller.measure(measurement));
        }
        if probes.is_empty() {
            wrong.push(format!("backend {name}: it changed without a probe"));
        }
    }

    /// Compares what a step went by with what was told.
    fn balanced(
        &self,
        service: &str,
        settings: &Settings,
        members: &[balance::Member],
        before: &balance::State,
        wrong: &mut Vec<String>,
    ) {
        let Some(controller) = &self.controller else {
            return;
        };
        let config = &controller.config;
        let mut policies = controller.policies.iter();
        let Some(index) = policies.position(|id| config.policy(*id).name() == service) else {
            wrong.push(format!(
                "service {service}: the configuration does not have it"
            ));
            return;
        };
        if controller.balance_settings(index) != *settings {
            wrong.push(format!(
                "service {service}: the step goes by other settings than the configuration's"
            ));
        }
        if self.balances.contains(service)
            && controller.balance_of(index).decides() != before.decides()
        {
            wrong.push(format!(
                "service {service}: the step begins with other weights than the last one left"
            ));
        }
        let own = controller.candidates(index, Instant::now());
        let own = own.unwrap_or_default().members;
        let of = |all: &[balance::Member]| -> Vec<(String, u32)> {
            all.iter().map(|m| (m.name.clone(), m.capacity)).collect()
        };
        if of(members) != of(&own) {
            wrong.push(format!(
                "service {service}: the step has other backends than the configuration"
            ));
        }
    }

    fn table(
        &mut self,
        service: &str,
        slots: usize,
        nobody: u32,
        digest: &str,
        wrong: &mut Vec<String>,
    ) {
        self.result.tables += 1;
        let Some(inputs) = self.inputs.get(service) else {
            return;
        };
        let numbered: Vec<(u16, Input)> = (1..).zip(inputs.values().cloned()).collect();
        let members: Vec<chain::Member<'_>> = numbered
            .iter()
            .map(|(id, input)| chain::Member {
                id: *id,
                name: &input.backend,
                tier: input.tier(),
                healthy: input.healthy,
                capacity: input.capacity,
                weight: input.weight,
                full: input.full,
                open: input.open,
            })
            .collect();
        let table = chain::table(&members, nobody, slots);
        let mine = table.map(|table| recorder::digest(&table, &numbered));
        if mine.as_deref() != Some(digest) {
            wrong.push(format!(
                "service {service}: its inputs make another table than the journal says"
            ));
        }
        if let Some(controller) = &self.controller {
            let weights = self.balances.contains(service);
            for line in compare(controller, &self.sure, weights, service, inputs) {
                wrong.push(format!("service {service}: {line}"));
            }
        }
    }
}

/// Differences between inputs and what measurements and configuration make of them. Weights are
/// compared where all that they depend on is in the journal.
fn compare(
    controller: &Controller<Memory>,
    sure: &HashSet<String>,
    weights: bool,
    service: &str,
    inputs: &BTreeMap<String, Input>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut policies = controller.policies.iter();
    let Some(index) = policies.position(|id| controller.config.policy(*id).name() == service)
    else {
        return vec!["the configuration has no such service or class".to_owned()];
    };
    let now = Instant::now();
    let candidates = controller.candidates(index, now).unwrap_or_default();
    let state = controller.balance_of(index);
    let (members, _) = candidates.weighed(&state, &BTreeSet::new());
    let mine: BTreeMap<String, Input> = recorder::inputs(&candidates, &members)
        .into_iter()
        .map(|(_, input)| (input.backend.clone(), input))
        .collect();
    let is_sure = |name: &String| {
        let known = controller.known.get(name);
        sure.contains(name) && known.is_some_and(|k| k.health.state() != State::Unknown)
    };
    // In a panic the health of each depends on all.
    let all = mine.keys().all(is_sure);
    let weights = weights && all;
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
            && (!sure.contains(name)
                || !measured
                || mine.healthy == theirs.healthy
                || (!all && theirs.healthy))
            && (theirs.healthy || theirs.weight == 0)
            && (!weights || mine.weight == theirs.weight);
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
    suppressed: Option<bool>,
    lossy: Option<bool>,
    hot: Option<bool>,
    doubt: Option<Doubt>,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        words.extend(
            self.health
                .map(|(from, to)| format!("health {from} -> {to}")),
        );
        words.extend(self.ring.map(|(from, to)| format!("ring {from:?} -> {to}")));
        words.extend(self.draining.map(|draining| format!("draining {draining}")));
        words.extend(self.suppressed.map(|out| format!("ejected {out}")));
        words.extend(self.lossy.map(|lossy| format!("lossy {lossy}")));
        words.extend(self.hot.map(|hot| format!("hot {hot}")));
        words.extend(self.doubt.map(|doubt| format!("doubt {doubt:?}")));
        if words.is_empty() {
            words.push("no change".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

fn conclusions(base: &Base) -> String {
    let ring = base.nearness.ring();
    let ring = ring.map_or("no ring".to_owned(), |ring| format!("ring {ring}"));
    let mut text = format!("{:?}, {ring}", base.health.state());
    let flags = [
        (base.draining, ", draining"),
        (base.judged.suppressed, ", left out"),
        (base.judged.hot, ", hot"),
    ];
    for (_, word) in flags.iter().filter(|(flag, _)| *flag) {
        text += word;
    }
    text
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
