//! Replay: decides again what a journal says was decided, from the inputs that it has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use tracing::subscriber::{NoSubscriber, with_default};

use crate::{
    config::{Config, Document},
    control::{
        backends::{
            drains::{Drain, Draining},
            state::BackendState,
        },
        balancer::{
            self,
            candidates::{CandidateInputs, Candidates},
        },
        controller::Controller,
        health::Ejection,
        host::WallClock,
        tables::build::{self, Member},
    },
    dataplane::Memory,
    domain::{
        balance::{self, Settings, tick},
        evidence::judge,
        health::State,
        passive::Watch,
        rules::Doubt,
    },
    journal::{Base, Event, Input, Located, Probe, Record, Why},
};

/// Results of a replay.
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

/// Replays a journal. `document` has the configurations by generation.
///
/// # Errors
/// If the journal cannot be read.
pub fn replay(
    records: impl Iterator<Item = io::Result<Located<Record>>>,
    document: impl Fn(u64) -> Result<Document, String>,
) -> io::Result<Replayed> {
    // What is replayed is nothing to log.
    with_default(NoSubscriber::default(), || {
        let mut replay = Replay::new();
        for record in records {
            let Located { file, line, item } = record?;
            let mut wrong = Vec::new();
            replay.event(&item, &document, &mut wrong);
            let located = |item| Located {
                file: file.clone(),
                line,
                item,
            };
            replay
                .result
                .disagreements
                .extend(wrong.into_iter().map(located));
            if let Some(reason) = replay.without.take() {
                replay.result.without.push(located(reason));
            }
        }
        Ok(replay.result)
    })
}

struct Replay {
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

impl Replay {
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
                let known = self.controller.as_mut().map(|c| &mut c.backends);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.watch = watch;
                }
                let ejection = Ejection {
                    backend: backend.clone(),
                    counts: *counts,
                    outlier: around.outlier,
                    verdict: *verdict,
                    at: now,
                };
                self.written(|controller| controller.apply_ejection(&ejection));
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
                let known = self.controller.as_mut().map(|c| &mut c.backends);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.watch = watch;
                }
                let found = (*outcome, *verdict);
                self.written(|c| c.apply_confirmation(backend, found, now));
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
                let known = self.controller.as_mut().map(|c| &mut c.backends);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.verdict = *verdict;
                }
                self.written(|c| c.replan_backend(backend, now));
            }
            Event::Panic {
                service, panics, ..
            } => {
                let Some(controller) = &self.controller else {
                    return;
                };
                let sure = controller.site.config.backends.iter().all(|backend| {
                    let known = controller.backends.get(&backend.name);
                    self.sure.contains(&backend.name)
                        && known.is_some_and(|k| k.health.state() != State::Unknown)
                });
                if sure && controller.planner.panic.is_on(service) != *panics {
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
                    controller.planner.balancer.set_state(service, after.clone());
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
            let known = &controller.backends;
            let new = config.backends.iter().filter(|b| !known.contains(&b.name));
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
        controller.health.replay();
        controller.planner.balancer.replay();
        self.controller = Some(controller);
        Ok(())
    }

    fn weigh(&mut self, weight: impl Fn(&str, Option<u32>) -> Option<u32>) {
        if let Some(controller) = &mut self.controller {
            for (name, known) in controller.backends.iter_mut() {
                known.weight = weight(name, known.weight);
            }
        }
    }

    fn drain(&mut self, drained: impl Fn(&str, bool) -> bool, now: Instant) {
        let Some(controller) = &mut self.controller else {
            return;
        };
        // A drain without a deadline does not read the wall clock.
        let clock = WallClock::new(now, SystemTime::UNIX_EPOCH);
        for (name, known) in controller.backends.iter_mut() {
            let is = drained(name, known.drain.is_some());
            known.drain = is.then(|| Draining::begin(Drain::default(), clock, now));
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
        let mut known = BackendState::from_base(told, |t| epoch + Duration::from_micros(t));
        let controller = self.controller.as_mut();
        if let Some(mine) = controller.and_then(|controller| controller.backends.get_mut(name)) {
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
        let Some(index) = controller.site.policy_named(service) else {
            wrong.push(format!(
                "service {service}: the configuration does not have it"
            ));
            return;
        };
        if balancer::settings(&controller.site, index) != *settings {
            wrong.push(format!(
                "service {service}: the step goes by other settings than the configuration's"
            ));
        }
        if self.balances.contains(service)
            && controller.planner.balancer.state(service).decides() != before.decides()
        {
            wrong.push(format!(
                "service {service}: the step begins with other weights than the last one left"
            ));
        }
        let own = candidates(controller, index, Instant::now()).members;
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
        let members: Vec<Member<'_>> = numbered
            .iter()
            .map(|(id, input)| Member {
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
        let table = build::table(&members, nobody, slots);
        let mine = table.map(|table| build::digest(&table, &numbered));
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

/// Candidates of a policy by what is known now.
fn candidates(controller: &Controller<Memory>, policy: usize, now: Instant) -> Candidates {
    let inputs = CandidateInputs {
        site: &controller.site,
        dataplane: &controller.dataplane,
        backends: &controller.backends,
        panic: &controller.planner.panic,
        outliers: &controller.health.outliers,
        passive: &controller.passive,
        rates: controller.planner.balancer.rates(),
        now,
    };
    inputs.of(policy).unwrap_or_default()
}

/// An input in words.
fn words(input: &Input) -> String {
    let mut words = vec![format!("pool {}, ring {}", input.pool, input.ring)];
    words.extend(input.cost.map(|cost| format!("cost {cost}")));
    let flags = [
        (!input.healthy, "taking no new flows"),
        (input.full, "of a full tier"),
        (input.open, "open to others"),
    ];
    let set = flags.into_iter().filter(|(flag, _)| *flag);
    words.extend(set.map(|(_, word)| word.to_owned()));
    words.push(format!(
        "capacity {}, weight {}",
        input.capacity, input.weight
    ));
    words.join(", ")
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
    let Some(index) = controller.site.policy_named(service) else {
        return vec!["the configuration has no such service or class".to_owned()];
    };
    let now = Instant::now();
    let candidates = candidates(controller, index, now);
    let state = controller.planner.balancer.state(service);
    let (members, _) = candidates.weighed(&state, &BTreeSet::new());
    let mine: BTreeMap<String, Input> = build::inputs(&candidates, &members)
        .into_iter()
        .map(|(_, input)| (input.backend.clone(), input))
        .collect();
    let is_sure = |name: &String| {
        let known = controller.backends.get(name);
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
        let known = controller.backends.get(name);
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
                "backend {name} was taken as {}, and what was written before makes it {}",
                words(theirs),
                words(mine)
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
        words.extend(self.ring.map(|(from, to)| match from {
            Some(from) => format!("ring {from} -> {to}"),
            None => format!("ring {to}"),
        }));
        words.extend(self.draining.map(|draining| format!("draining {draining}")));
        words.extend(self.suppressed.map(|out| format!("ejected {out}")));
        words.extend(self.lossy.map(|lossy| format!("lossy {lossy}")));
        words.extend(self.hot.map(|hot| format!("hot {hot}")));
        words.extend(self.doubt.map(|doubt| {
            let doubt = match doubt {
                Doubt::None => "none",
                Doubt::Silent => "silent",
                Doubt::Untrusted => "untrusted",
            };
            format!("doubt {doubt}")
        }));
        if words.is_empty() {
            words.push("no change".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

fn conclusions(base: &Base) -> String {
    let ring = base.nearness.ring();
    let ring = ring.map_or("no ring".to_owned(), |ring| format!("ring {ring}"));
    let mut text = format!("{}, {ring}", base.health.state());
    let flags = [
        (base.draining, ", draining"),
        (base.judged.suppressed, ", ejected for flapping"),
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
