//! Building of the status from the components.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    ops::Range,
    time::Instant,
};

use anyhow::Result;
use steer_common::{
    abi::{MemberState, Slot},
    verdict::DropReason,
};

use super::{
    status::{BackendStatus, ClassStatus, MemberStatus, PassiveStatus, ServiceStatus, Status},
    view::View,
};
use crate::{
    config::{self, Config},
    control::{admission::in_flight::is_hot, backends::drains::DrainStatus},
    dataplane::{Counters, Dataplane},
    domain::{evidence::Verdict, health::State, load::WHOLE},
};

impl<D: Dataplane> View<'_, D> {
    /// Builds the status; the daemon adds what it knows itself.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn status(&self, now: Instant) -> Result<Status> {
        let config = &self.site.config;
        let counters = self.dataplane.counters()?;
        let mut drops = BTreeMap::new();
        for reason in DropReason::ALL {
            let count = counters.drops.get(reason as usize).copied().unwrap_or(0);
            if count > 0 {
                drops.insert(reason.name().to_owned(), count);
            }
        }
        let mut services: Vec<ServiceStatus> = Vec::new();
        for index in 0..self.site.policies.len() {
            match (self.site.policies[index].class, services.last_mut()) {
                (Some(_), Some(service)) => service.classes.extend(self.class(index, &counters)),
                _ => services.push(self.service(index, &counters)?),
            }
        }
        let backends = config.backends.iter().enumerate();
        let backends = backends
            .map(|(index, settings)| self.backend(index, settings, now))
            .collect();
        Ok(Status {
            node: config.node.name.clone(),
            interfaces: config.node.interfaces.clone(),
            attached: Vec::new(),
            contradicted: self.health.contradicted(),
            traced_by: None,
            generation: None,
            confirm_by: None,
            unsaved: Vec::new(),
            frozen: self.planner.tables.is_frozen(),
            services,
            backends,
            drops,
        })
    }

    fn service(&self, index: usize, counters: &Counters) -> Result<ServiceStatus> {
        let config = &self.site.config;
        let place = self.site.policies[index].service;
        let settings = &config.services[place];
        let range = &self.site.tables[index];
        let own = self.shares(range);
        let members = config
            .members(settings)
            .into_iter()
            .map(|backend| {
                let id = self.site.ids.members[&(place, backend)];
                let count = counters
                    .members
                    .get(usize::from(id))
                    .copied()
                    .unwrap_or_default();
                let own = own.get(&id).copied().unwrap_or(0);
                let state = MemberState::from_byte(self.dataplane.member(id).state);
                let first_token = config.backends[backend].first_token;
                let passive = self.passive.of_member(id, self.dataplane)?;
                Ok(MemberStatus {
                    backend: config.backends[backend].name.clone(),
                    pool: pool_of(config, settings, backend),
                    state: match state {
                        MemberState::Up => "up",
                        MemberState::Draining => "draining",
                        MemberState::Down => "down",
                        MemberState::Absent => "absent",
                    }
                    .to_owned(),
                    share: own as f64 / range.len().max(1) as f64,
                    flows: count.flows,
                    packets: count.packets,
                    bytes: count.bytes,
                    replies: count.replies,
                    in_flight: config.backends[backend].max_in_flight.map(|_| {
                        let count = self.dataplane.in_flight(id);
                        u64::try_from(count).unwrap_or(0)
                    }),
                    hot: is_hot(self.dataplane, id),
                    passive: passive
                        .map(|passive| PassiveStatus::from_measurements(&passive, first_token)),
                })
            })
            .collect::<Result<_>>()?;
        Ok(ServiceStatus {
            name: settings.name.clone(),
            address: settings.address.to_string(),
            port: settings.port,
            protocol: settings.protocol.as_str().to_owned(),
            pools: names(config, &settings.pools),
            slots: range.len(),
            migrating: self.planner.tables.migrating(self.site, index),
            silent: self.planner.balancer.is_silent(&settings.name),
            members,
            priority: settings.priority,
            shed: self.admission.shedding.sheds(index, settings.priority),
            refused: self.refused(index, counters),
            classes: Vec::new(),
        })
    }

    fn class(&self, index: usize, counters: &Counters) -> Option<ClassStatus> {
        let config = &self.site.config;
        let id = self.site.policies[index];
        let policy = config.policy(id);
        let class = policy.class?;
        let range = &self.site.tables[index];
        let own = self.shares(range);
        let share = |backend: usize| {
            let member = self.site.ids.members[&(id.service, backend)];
            let own = own.get(&member).copied().unwrap_or(0);
            own as f64 / range.len().max(1) as f64
        };
        let name = |backend: usize| config.backends[backend].name.clone();
        let prefix = |(address, len): &(IpAddr, u8)| format!("{address}/{len}");
        Some(ClassStatus {
            name: class.name.clone(),
            sources: class.sources.iter().map(prefix).collect(),
            dscp: class.dscp.clone(),
            pools: names(config, policy.pools),
            regions: policy.regions.map(<[String]>::to_vec),
            slots: range.len(),
            migrating: self.planner.tables.migrating(self.site, index),
            priority: policy.priority,
            shed: self.admission.shedding.sheds(index, policy.priority),
            refused: self.refused(index, counters),
            shares: policy
                .members(config)
                .into_iter()
                .map(|backend| (name(backend), share(backend)))
                .collect(),
        })
    }

    fn backend(&self, index: usize, settings: &config::Backend, now: Instant) -> BackendStatus {
        let known = self.backends.get(&settings.name);
        let weight = known.and_then(|known| known.weight);
        let degraded = self.degraded(&settings.name);
        let health = match known.map(|known| known.health(settings)) {
            _ if settings.probes.is_empty() => "unprobed",
            Some(State::Up) if !degraded.is_empty() => "degraded",
            Some(State::Up) => "up",
            // Probes fail, and what they say is contradicted.
            Some(State::Down) if known.is_some_and(|known| known.verdict.serves()) => "degraded",
            Some(State::Down) => "down",
            Some(State::Unknown) | None => "unknown",
        };
        let millis = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
        BackendStatus {
            name: settings.name.clone(),
            address: settings.address.to_string(),
            mode: settings.mode.name().to_owned(),
            health: health.to_owned(),
            drained: known.is_some_and(|known| known.drain.is_some()),
            drain: self.drain(index),
            weight: weight.unwrap_or(settings.capacity),
            weight_is_set: weight.is_some(),
            draining: known.is_some_and(|known| known.draining),
            rtt_us: known.and_then(|known| known.rtt().map(|rtt| rtt.as_micros() as u64)),
            ring: known.and_then(|known| known.nearness.ring()),
            measured_ms_ago: known.and_then(|known| known.measured.map(millis)),
            used: known.and_then(|known| {
                let stale_after = self.site.config.balance.stale_after;
                let used = known.load.fresh(stale_after, now)?;
                Some(f64::from(used) / f64::from(WHOLE))
            }),
            hot: known.is_some_and(|known| known.hot),
            degraded,
            ejected_for: known.and_then(|known| match (known.watch.ejected(), known.verdict) {
                (Some(reason), _) => Some(reason.to_string()),
                (None, verdict @ (Verdict::Ejected(_) | Verdict::Down(_))) => {
                    Some(verdict.to_string())
                }
                (None, Verdict::Serving | Verdict::Contradicted(_)) => known
                    .damping
                    .suppressed()
                    .then(|| "it died again and again".to_owned()),
            }),
            failure: known.and_then(|known| known.failure.as_ref().map(ToString::to_string)),
            hint: known.and_then(|known| known.hint.clone()),
            resolved: known.is_some_and(|known| matches!(known.next_hop, Some(Some(_)))),
        }
    }

    /// Reasons why a backend takes less than it could.
    fn degraded(&self, name: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        let known = self.backends.get(name);
        if known.is_some_and(|known| known.loss.lossy()) {
            reasons.push("loses probes".to_owned());
        }
        if let Some(Verdict::Contradicted(by)) = known.map(|known| known.verdict) {
            reasons.push(format!("probes fail, and {by}"));
        }
        let index = self.site.backend(name);
        let lost = index.map_or(0, |index| self.health.outliers.lost(index));
        if lost > 0 {
            reasons.push(format!(
                "fails {:.0} % more of its connections than its peers",
                f64::from(lost) / 10_000.0
            ));
        }
        if self.planner.balancer.is_slow(name) {
            reasons.push("much slower than its peers".to_owned());
        }
        reasons
    }

    /// Packets refused for a policy, by reason.
    fn refused(&self, index: usize, counters: &Counters) -> BTreeMap<String, u64> {
        let number = self.site.ids.policies[index];
        let refused = counters
            .admission_drops
            .get(&number)
            .copied()
            .unwrap_or_default();
        refused
            .counts()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name().to_owned(), count))
            .collect()
    }

    /// Slots of a table by their first choice.
    fn shares(&self, range: &Range<u32>) -> HashMap<u16, usize> {
        let mut own: HashMap<u16, usize> = HashMap::new();
        for slot in self.dataplane.slots(range.clone()) {
            *own.entry(slot.first).or_default() += 1;
        }
        own
    }

    /// Progress of the drain of a backend, by its index.
    fn drain(&self, backend: usize) -> Option<DrainStatus> {
        let known = self
            .backends
            .get(&self.site.config.backends[backend].name)?;
        let draining = known.drain.as_ref()?;
        let members = self.site.ids.of_backend(backend).iter();
        let own: HashSet<u16> = members.map(|(_, id)| *id).collect();
        let is_own = |slot: &Slot| own.contains(&slot.owner);
        let tables = self.site.tables.iter();
        let slots = tables
            .map(|range| {
                let slots = self.dataplane.slots(range.clone());
                slots.into_iter().filter(is_own).count()
            })
            .sum();
        let flows = own.iter().map(|id| self.gc.flows(*id)).sum();
        let empty = self.gc.counted_since(draining.since) && slots == 0 && flows == 0;
        let state = if draining.over || empty {
            "gone"
        } else {
            "draining"
        };
        Some(DrainStatus {
            state: state.to_owned(),
            until: draining.drain.until,
            slots,
            flows,
        })
    }
}

fn names(config: &Config, pools: &[usize]) -> Vec<String> {
    let pools = pools.iter().map(|pool| config.pools[*pool].name.clone());
    pools.collect()
}

fn pool_of(config: &Config, service: &config::Service, backend: usize) -> String {
    let classes = service.classes.iter().flat_map(|class| &class.pools);
    let pools = service.pools.iter().chain(classes);
    let mut pools = pools.map(|pool| &config.pools[*pool]);
    let found = pools.find(|pool| pool.backends.contains(&backend));
    found.map(|pool| pool.name.clone()).unwrap_or_default()
}
