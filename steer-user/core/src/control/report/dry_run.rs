//! Dry run of a configuration: it is applied to a copy of the components over a fake of the data path, by the code that
//! applies it to the real one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steer_common::abi::Slot;
use steer_probe::probe::{Load, Measurement, OrcaLoadReport, Sample};
use tracing::subscriber::{NoSubscriber, with_default};

use crate::{
    config::{Config, Policy},
    control::{
        admission::Admission,
        controller::Controller,
        ids::{key, present_policies},
        record::recorder::Recorder,
        site::Site,
        tables::{gc::GarbageCollection, ranges},
    },
    dataplane::{Dataplane, FakeDataplane, SteeringTables as _},
    domain::health::State,
};

/// Assumed round trip to backends of the node's region, where none was measured.
const RTT_IN_REGION: Duration = Duration::from_millis(1);
/// Assumed round trip to backends of other regions, where none was measured.
const RTT_ELSEWHERE: Duration = Duration::from_secs(1);

/// Effects of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Preview {
    /// Services of either configuration, in the order of the new one; those that go last.
    pub services: Vec<ServicePreview>,
    /// Backends that were not measured yet and are taken to answer, as near as the nearest of their
    /// region.
    pub assumed: Vec<String>,
}

/// Effects on a service, or on one of its classes.
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

/// Fate of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Kept.
    Stays,
    /// Added.
    New,
    /// Removed: its packets are no longer the node's.
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

/// State of a controller as it was at a time, to try configurations on beside the event loop.
pub struct DryRun {
    now: Controller<FakeDataplane>,
    at: Instant,
}

impl std::fmt::Debug for DryRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryRun")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl DryRun {
    /// Copies the state of a controller. It takes little time; what is done with it may take much.
    #[must_use]
    pub fn from_controller<D: Dataplane>(controller: &Controller<D>, now: Instant) -> Self {
        Self {
            now: over_fake(controller, now),
            at: now,
        }
    }

    /// Computes what another configuration would move.
    ///
    /// # Errors
    /// If it needs more than the data path holds.
    pub fn preview(&self, config: &Config) -> Result<Preview> {
        // What is tried out is nothing to log.
        with_default(NoSubscriber::default(), || {
            let mut then = over_fake(&self.now, self.at);
            then.reconfigure(config.clone(), self.at)?;
            let assumed = assume_answers(&mut then, self.at)?;
            Ok(Preview {
                services: services(&self.now, &then),
                assumed,
            })
        })
    }
}

/// Copies a controller over a fake of the data path: not frozen, and recording nothing.
fn over_fake<D: Dataplane>(controller: &Controller<D>, now: Instant) -> Controller<FakeDataplane> {
    Controller {
        site: controller.site.clone(),
        dataplane: FakeDataplane::copy_of(&controller.dataplane),
        backends: controller.backends.clone(),
        health: controller.health.clone(),
        passive: controller.passive.for_dry_run(),
        planner: controller.planner.for_dry_run(),
        admission: Admission::default(),
        gc: GarbageCollection::new(now),
        recorder: Recorder::silent(controller.host.clock),
        tuning: controller.tuning,
        host: controller.host,
    }
}

/// Takes backends that were not measured yet as ones that answer; returns their names.
fn assume_answers(controller: &mut Controller<FakeDataplane>, now: Instant) -> Result<Vec<String>> {
    let nearest = nearest(controller);
    let mut names = Vec::new();
    for backend in &controller.site.config.backends {
        let Some(known) = controller.backends.get_mut(&backend.name) else {
            continue;
        };
        if known.health(backend) != State::Unknown {
            continue;
        }
        let assumed = if backend.region == controller.site.config.node.region {
            RTT_IN_REGION
        } else {
            RTT_ELSEWHERE
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
        for _ in 0..controller.site.config.probe.rise {
            known.measure(&measurement);
        }
        names.push(backend.name.clone());
    }
    if !names.is_empty() {
        controller.replan(now, "assumed")?;
    }
    Ok(names)
}

/// Shortest round trip to a backend of each region.
fn nearest(controller: &Controller<FakeDataplane>) -> HashMap<String, Duration> {
    let mut nearest: HashMap<String, Duration> = HashMap::new();
    for backend in &controller.site.config.backends {
        let known = controller.backends.get(&backend.name);
        if let Some(rtt) = known.and_then(|known| known.rtt()) {
            let shortest = nearest.entry(backend.region.clone()).or_insert(rtt);
            *shortest = rtt.min(*shortest);
        }
    }
    nearest
}

/// First choices of a policy's table, by name; those of no backend that the configuration has are empty.
fn firsts(controller: &Controller<FakeDataplane>, policy: usize) -> Vec<&str> {
    let site = &controller.site;
    let members = site.ids.of_service(site.policies[policy].service);
    let names: HashMap<u16, &str> = members
        .map(|(backend, id)| (id, site.config.backends[backend].name.as_str()))
        .collect();
    let name = |slot: Slot| names.get(&slot.first).copied().unwrap_or("");
    let slots = controller.dataplane.slots(site.tables[policy].clone());
    slots.into_iter().map(name).collect()
}

fn services(
    now: &Controller<FakeDataplane>,
    then: &Controller<FakeDataplane>,
) -> Vec<ServicePreview> {
    let mut found = Vec::new();
    let published = present_policies(&now.dataplane);
    let keys = |site: &Site| {
        let policies = 0..site.policies.len();
        policies.map(|i| key(&site.policy(i))).collect::<Vec<_>>()
    };
    let [keys_now, keys_then] = [now, then].map(|controller| keys(&controller.site));
    for (index, key) in keys_then.iter().enumerate() {
        let service = then.site.policy(index);
        let before = keys_now.iter().position(|k| k == key);
        let before_firsts = before.map(|i| firsts(now, i)).unwrap_or_default();
        let after = firsts(then, index);
        let mut shares = shares(&before_firsts, &after);
        let own = |c: &Config, policy: &Policy<'_>| -> BTreeSet<String> {
            let members = policy.members(c).into_iter();
            members.map(|b| c.backends[b].name.clone()).collect()
        };
        for name in own(&then.site.config, &service) {
            shares.entry(name).or_default().then.get_or_insert(0.0);
        }
        if let Some(i) = before {
            for name in own(&now.site.config, &now.site.policy(i)) {
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
            moved: moved(&before_firsts, &after),
            shares,
        });
    }
    for (index, key) in keys_now.iter().enumerate() {
        let service = now.site.policy(index);
        if keys_then.contains(key)
            || !published
                .iter()
                .any(|p| p.key == *key && !ranges::table(p).is_empty())
        {
            continue;
        }
        found.push(ServicePreview {
            name: service.name(),
            vip: vip(&service),
            fate: Fate::Goes,
            moved: 1.0,
            shares: shares(&firsts(now, index), &[]),
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
