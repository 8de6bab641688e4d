//! What a configuration would move: it is put to work on a copy of the data path, by the code that
//! puts it to work on the real one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steer_common::abi::{ServiceKey, Slot};
use steer_probe::probe::{Load, Measurement, OrcaLoadReport, Sample};
use tracing::subscriber::{NoSubscriber, with_default};

use super::{
    Controller, cids::Quiet, connections::Seen, desired, flights::Flights, made::Made,
    passive::Readings, placement, recorder::Recorder, shedding::Shedding, slots::Unsettled,
    why::Decisions,
};
use crate::{
    config::{Config, Policy},
    dataplane::{Dataplane, Memory},
    domain::health::State,
    journal::Journal,
};

/// Round trips to backends of the node's region, and of others, where none was measured.
const HOME: Duration = Duration::from_millis(1);
const ABROAD: Duration = Duration::from_secs(1);

/// What a configuration would move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Preview {
    /// Services of either configuration, in the order of the new one; those that go last.
    pub services: Vec<ServicePreview>,
    /// Backends that were not measured yet and are taken to answer, as near as the nearest of their
    /// region.
    pub assumed: Vec<String>,
}

/// What would become of a service, or of one of its classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServicePreview {
    /// Its name; of a class, `service/class`.
    pub name: String,
    /// Its protocol, address and port.
    pub vip: String,
    /// Whether it is new, goes, or stays.
    pub fate: Fate,
    /// The share of slots whose first choice becomes another backend.
    pub moved: f64,
    /// Backends of either configuration by name.
    pub shares: BTreeMap<String, Shares>,
}

/// What becomes of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stays.
    Stays,
    /// It is new.
    New,
    /// It goes: its packets are no longer the node's.
    Goes,
}

/// A backend's part of a table, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Shares {
    /// Now; `None` if the backend does not serve it.
    pub now: Option<f64>,
    /// With the other configuration.
    pub then: Option<f64>,
}

/// The loop's state as it was at a time, to try a configuration on beside the loop.
pub struct Rehearsal {
    now: Controller<Memory>,
    at: Instant,
}

impl std::fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rehearsal")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Rehearsal {
    /// What another configuration would move.
    ///
    /// # Errors
    /// If it needs more than the data path holds.
    pub fn preview(&self, config: &Config) -> Result<Preview> {
        // What is tried out is nothing to log.
        with_default(NoSubscriber::default(), || {
            let mut then = self.now.copy(self.at);
            then.reconfigure(config.clone(), self.at)?;
            let assumed = then.assume(self.at)?;
            Ok(Preview {
                services: services(&self.now, &then),
                assumed,
            })
        })
    }
}

impl<D: Dataplane> Controller<D> {
    /// A copy of the state, to see what another configuration would move. It takes little time; what
    /// is done with it may take much.
    #[must_use]
    pub fn rehearsal(&self, now: Instant) -> Rehearsal {
        Rehearsal {
            now: self.copy(now),
            at: now,
        }
    }

    /// The same over a copy of the data path, not frozen, and telling nobody.
    fn copy(&self, now: Instant) -> Controller<Memory> {
        Controller {
            config: self.config.clone(),
            dataplane: Memory::of(&self.dataplane),
            numbers: self.numbers.clone(),
            regions: self.regions.clone(),
            policies: self.policies.clone(),
            shedding: Shedding::default(),
            flights: Flights::default(),
            tables: self.tables.clone(),
            known: self.known.clone(),
            made: Made::default(),
            unsettled: Unsettled::default(),
            drained: self.drained.clone(),
            weights: self.weights.clone(),
            tuning: self.tuning,
            remembered: HashMap::new(),
            nat_entries: self.nat_entries,
            counted: None,
            recorder: Recorder::new(Journal::none()),
            passive: Readings::default(),
            frozen: None,
            swept: now,
            sweeping: false,
            handover: None,
            balances: self.balances.clone(),
            steps: true,
            balanced: now,
            stepping: None,
            rates: self.rates.clone(),
            silent: self.silent.clone(),
            full: self.full.clone(),
            concern: self.concern.clone(),
            leaving: self.leaving,
            panicking: self.panicking.clone(),
            revived: self.revived.clone(),
            seen: Seen::default(),
            questionable: BTreeSet::new(),
            requests: Vec::new(),
            contradicted: 0,
            outliers: self.outliers.clone(),
            shares: HashMap::new(),
            why: Decisions::default(),
            quiet: Quiet::default(),
        }
    }

    /// Takes backends that were not measured yet as ones that answer; returns their names.
    fn assume(&mut self, now: Instant) -> Result<Vec<String>> {
        let nearest = self.nearest();
        let mut names = Vec::new();
        for backend in &self.config.backends {
            let Some(known) = self.known.get_mut(&backend.name) else {
                continue;
            };
            if known.health(backend) != State::Unknown {
                continue;
            }
            let assumed = if backend.region == self.config.node.region {
                HOME
            } else {
                ABROAD
            };
            let rtt = nearest.get(&backend.region).copied().unwrap_or(assumed);
            let measurement = Measurement {
                backend: backend.name.clone(),
                at: now,
                outcome: Ok(Sample {
                    rtt,
                    handshake: None,
                    report: OrcaLoadReport::default(),
                    load: Load::default(),
                }),
            };
            for _ in 0..self.config.probe.rise {
                known.measure(&measurement);
            }
            names.push(backend.name.clone());
        }
        if !names.is_empty() {
            self.replan(now, "assumed")?;
        }
        Ok(names)
    }

    /// The shortest round trip to a backend of each region.
    fn nearest(&self) -> HashMap<String, Duration> {
        let mut nearest: HashMap<String, Duration> = HashMap::new();
        for backend in &self.config.backends {
            let known = self.known.get(&backend.name);
            if let Some(rtt) = known.and_then(|known| known.rtt()) {
                let shortest = nearest.entry(backend.region.clone()).or_insert(rtt);
                *shortest = rtt.min(*shortest);
            }
        }
        nearest
    }

    /// The first choices of a policy's table, by name; those of no backend that the configuration
    /// has are empty.
    fn firsts(&self, policy: usize) -> Vec<&str> {
        let service = self.policies[policy].service;
        let members = self.numbers.members.iter();
        let names: HashMap<u16, &str> = members
            .filter(|((s, _), _)| *s == service)
            .map(|((_, b), id)| (*id, self.config.backends[*b].name.as_str()))
            .collect();
        let name = |slot: Slot| names.get(&slot.first).copied().unwrap_or("");
        let slots = self.dataplane.slots(self.tables[policy].clone());
        slots.into_iter().map(name).collect()
    }

    fn policy(&self, index: usize) -> Policy<'_> {
        self.config.policy(self.policies[index])
    }

    fn key(&self, policy: usize) -> ServiceKey {
        desired::key(&self.policy(policy))
    }
}

fn services(now: &Controller<Memory>, then: &Controller<Memory>) -> Vec<ServicePreview> {
    let mut found = Vec::new();
    let published = desired::present(&now.dataplane);
    let keys = |c: &Controller<Memory>| (0..c.policies.len()).map(|i| c.key(i)).collect::<Vec<_>>();
    let [keys_now, keys_then] = [now, then].map(keys);
    for (index, key) in keys_then.iter().enumerate() {
        let service = then.policy(index);
        let before = keys_now.iter().position(|k| k == key);
        let firsts = before.map(|i| now.firsts(i)).unwrap_or_default();
        let after = then.firsts(index);
        let mut shares = shares(&firsts, &after);
        let own = |c: &Config, policy: &Policy<'_>| -> BTreeSet<String> {
            let members = policy.members(c).into_iter();
            members.map(|b| c.backends[b].name.clone()).collect()
        };
        for name in own(&then.config, &service) {
            shares.entry(name).or_default().then.get_or_insert(0.0);
        }
        if let Some(i) = before {
            for name in own(&now.config, &now.policy(i)) {
                shares.entry(name).or_default().now.get_or_insert(0.0);
            }
        }
        found.push(ServicePreview {
            name: service.name(),
            vip: vip(&service),
            fate: if before.is_some() {
                Fate::Stays
            } else {
                Fate::New
            },
            moved: moved(&firsts, &after),
            shares,
        });
    }
    for (index, key) in keys_now.iter().enumerate() {
        let service = now.policy(index);
        if keys_then.contains(key)
            || !published
                .iter()
                .any(|p| p.key == *key && !placement::table(p).is_empty())
        {
            continue;
        }
        found.push(ServicePreview {
            name: service.name(),
            vip: vip(&service),
            fate: Fate::Goes,
            moved: 1.0,
            shares: shares(&now.firsts(index), &[]),
        });
    }
    found
}

fn vip(policy: &Policy<'_>) -> String {
    let service = policy.service;
    let (protocol, port) = (service.protocol.as_str(), service.port);
    match port {
        0 => format!("{protocol} {} any port", service.address),
        _ => format!(
            "{protocol} {}",
            std::net::SocketAddr::new(service.address, port)
        ),
    }
}

fn shares(now: &[&str], then: &[&str]) -> BTreeMap<String, Shares> {
    let mut shares: BTreeMap<String, Shares> = BTreeMap::new();
    for (name, share) in parts(now) {
        shares.entry(name).or_default().now = Some(share);
    }
    for (name, share) in parts(then) {
        shares.entry(name).or_default().then = Some(share);
    }
    shares
}

/// The share of each name in a table.
fn parts(table: &[&str]) -> impl Iterator<Item = (String, f64)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in table.iter().filter(|name| !name.is_empty()) {
        *counts.entry((*name).to_owned()).or_default() += 1;
    }
    let all = table.len().max(1) as f64;
    counts
        .into_iter()
        .map(move |(name, count)| (name, count as f64 / all))
}

/// The share of flows whose slot leads elsewhere. A slot's index is proportional to the flow's
/// hash, whatever the size of the table.
fn moved(now: &[&str], then: &[&str]) -> f64 {
    let size = now.len().max(then.len());
    if now.is_empty() || then.is_empty() {
        return 0.0;
    }
    let differs = |i: &usize| now[i * now.len() / size] != then[i * then.len() / size];
    let differing = (0..size).filter(differs).count();
    differing as f64 / size as f64
}
