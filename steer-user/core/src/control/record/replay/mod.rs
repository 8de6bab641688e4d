//! Replay: decides again what a journal says was decided, from the inputs that it has.

mod checks;
mod conclusions;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use tracing::subscriber::{NoSubscriber, with_default};

use self::conclusions::Conclusion;
use crate::{
    config::{Config, Document},
    control::{
        backends::drains::{Drain, Draining},
        controller::Controller,
        health::ejection::Ejection,
        host::WallClock,
    },
    dataplane::FakeDataplane,
    domain::{
        balance::{BalancePolicy as _, ConfiguredPolicy},
        evidence,
        health::State,
        passive::Watch,
        succession,
    },
    journal::{Event, Input, Located, Record, ReplanCause},
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
    /// Records that say something else than what is decided now.
    pub disagreements: Vec<Located<String>>,
}

/// Replays a journal, whose clock is zero at `epoch`. `document` has the configurations by generation.
///
/// # Errors
/// If the journal cannot be read.
pub fn replay(
    records: impl Iterator<Item = io::Result<Located<Record>>>,
    document: impl Fn(u64) -> Result<Document, String>,
    epoch: Instant,
) -> io::Result<Replayed> {
    // What is replayed is nothing to log.
    with_default(NoSubscriber::default(), || {
        let mut replay = Replay::new(epoch);
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
    controller: Option<Controller<FakeDataplane>>,
    epoch: Instant,
    /// Backends of which all that was concluded in this run is known.
    sure: HashSet<String>,
    /// Services of whose weights all is known.
    balances: HashSet<String>,
    /// The inputs of tables, where all of them are known.
    inputs: HashMap<String, BTreeMap<String, Input>>,
    /// Reason why there is no controller any more.
    without: Option<String>,
    result: Replayed,
}

impl Replay {
    fn new(epoch: Instant) -> Self {
        Self {
            controller: None,
            epoch,
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
                if *why == ReplanCause::Continued && self.controller.is_some() {
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
            Event::WeightSet {
                backend, weight, ..
            } => {
                self.weigh(|name, was| if name == backend { *weight } else { was });
                self.written(|controller| controller.replan(now, "weight"));
            }
            Event::Drained {
                backend, drained, ..
            } => {
                let now_drained = |name: &str, was| if name == backend { *drained } else { was };
                self.drain(now_drained, now);
            }
            Event::OutlierDetection {
                backend,
                before,
                counts,
                peer_traffic,
                verdict,
            } => {
                let mut watch = Watch::read(before, |t| self.epoch + Duration::from_micros(t));
                if watch.observe(counts, *peer_traffic, now) != Some(*verdict) {
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
                    outlier: peer_traffic.outlier,
                    verdict: *verdict,
                    at: now,
                };
                self.written(|controller| controller.evidence().apply_ejection(&ejection));
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
                self.written(|c| c.evidence().apply_confirmation(backend, found, now));
            }
            Event::Verdict {
                backend,
                inputs,
                verdict,
            } => {
                self.result.verdicts += 1;
                if evidence::verdict(inputs) != *verdict {
                    wrong.push(format!(
                        "backend {backend}: its signals make it {}, and the journal says {verdict}",
                        evidence::verdict(inputs)
                    ));
                }
                let known = self.controller.as_mut().map(|c| &mut c.backends);
                if let Some(known) = known.and_then(|known| known.get_mut(backend)) {
                    known.verdict = *verdict;
                }
                self.written(|controller| {
                    let (planner, mut scene) = controller.scene(now);
                    planner.replan_backend(&mut scene, backend)
                });
            }
            Event::Panic {
                service, panic_mode, ..
            } => {
                let Some(controller) = &self.controller else {
                    return;
                };
                let sure = controller.site.config.backends.iter().all(|backend| {
                    let known = controller.backends.get(&backend.name);
                    self.sure.contains(&backend.name)
                        && known.is_some_and(|k| k.health.state() != State::Unknown)
                });
                if sure && controller.planner.panic.is_on(service) != *panic_mode {
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
                let ticked = ConfiguredPolicy.step(&mut mine, settings, pools, members, *cause);
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
                let expected = Conclusion {
                    health: *health,
                    ring: *ring,
                    draining: *draining,
                    suppressed: *suppressed,
                    lossy: *lossy,
                    hot: *hot,
                    doubt: *doubt,
                };
                self.backend(backend, base, probes, &expected, wrong);
            }
            Event::Table {
                service,
                whole,
                inputs,
                gone,
                slots,
                digest,
                undistributed,
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
                self.table(service, *slots, *undistributed, digest, wrong);
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
            Event::DrainDeadline { .. }
            // What it changed is in the bases of those that it concerns.
            | Event::Tuned { .. }
            | Event::Confirmed { .. }
            | Event::NextHop { .. }
            | Event::Router { .. }
            | Event::Shedding { .. }
            | Event::MemberReleased { .. }
            | Event::Stop => {}
        }
    }

    fn configure(&mut self, config: Config, why: ReplanCause, now: Instant) -> Result<(), String> {
        let text = |error: anyhow::Error| format!("{error:#}");
        if let Some(controller) = &mut self.controller {
            let known = &controller.backends;
            let new = config.backends.iter().filter(|b| !known.contains(&b.name));
            self.sure.extend(new.map(|b| b.name.clone()));
            return controller.reconfigure(config, now).map_err(text);
        }
        if why == ReplanCause::Start {
            self.sure
                .extend(config.backends.iter().map(|b| b.name.clone()));
            let policies = config.policy_ids().into_iter();
            self.balances
                .extend(policies.map(|id| config.policy(id).name()));
        }
        let mut controller = Controller::new(config, FakeDataplane::new(), now).map_err(text)?;
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
            known.drain = is.then(|| Draining::start(Drain::default(), clock, now));
        }
        self.written(|controller| controller.replan(now, "drained"));
    }

    /// A data path in memory is always written.
    fn written(&mut self, write: impl FnOnce(&mut Controller<FakeDataplane>) -> Result<()>) {
        let done = self.controller.as_mut().map(write);
        if let Some(Err(error)) = done {
            self.controller = None;
            self.without = Some(format!("{error:#}"));
        }
    }
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
