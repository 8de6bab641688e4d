//! The slow loop over the tables: what it goes by, and what it tells.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::abi::MemberState;
use tracing::{info, warn};

use super::{
    Controller,
    chain::Candidates,
    controller::LOOK,
    health::{View, limit_claims},
    recorder::Stepped,
    why::Said,
};
use crate::{
    config::{FirstToken, PolicyId},
    dataplane::Dataplane,
    domain::{
        balance::{Cause, Member, Pool, Settings, State, Tier, tick},
        load::WHOLE,
    },
};

/// How much of a new rate of flows counts.
const RATE: f64 = 0.5;

/// New flows of services, in a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    last: Option<(Instant, Vec<u64>)>,
    per_second: Vec<f64>,
}

/// Tables that make their steps in one look, if half of the time until the next steps is enough for all: with many
/// services all at once would keep failures waiting.
fn at_once(tables: usize, every: Duration) -> usize {
    const FEW: usize = 8;
    let looks = (every / 2).as_nanos() / LOOK.as_nanos();
    tables
        .div_ceil(usize::try_from(looks).unwrap_or(usize::MAX).max(1))
        .max(FEW)
}

impl<D: Dataplane> Controller<D> {
    /// The candidates of a policy's table.
    pub(super) fn candidates(&self, policy: usize, now: Instant) -> Option<Candidates> {
        let id = self.policies[policy];
        let settings = self.config.policy(id);
        let panics = self.panicking.contains(&settings.name());
        let stale_after = self.config.balance.stale_after;
        let mut found = Candidates::default();
        let mut seen = Vec::new();
        let mut views = Vec::new();
        for (place, pool) in settings.pools.iter().enumerate() {
            found.pools.push(self.pool(id, place));
            for index in &self.config.pools[*pool].backends {
                // In a later pool a backend is no further choice.
                if seen.contains(index) {
                    continue;
                }
                seen.push(*index);
                let backend = &self.config.backends[*index];
                // The kernel would refuse it.
                if !settings.may_use(backend) {
                    continue;
                }
                let member = self.numbers.members[&(id.service, *index)];
                let up = self.dataplane.member(member).state == MemberState::Up as u8;
                let known = self.known.get(&backend.name)?;
                let micros = |d: Duration| u32::try_from(d.as_micros()).ok();
                let rtt = known.rtt().and_then(micros);
                let observed = self.passive.observed(member);
                let measured = match backend.first_token {
                    FirstToken::FirstByte => observed.first_byte_us,
                    FirstToken::SecondBurst => observed.second_burst_us,
                };
                let capacity = known.weight.unwrap_or(backend.capacity);
                views.push(View {
                    pool: place,
                    measured_us: measured,
                    busy_us: observed
                        .busy_us
                        .map(|busy| busy / u64::from(capacity.max(1))),
                });
                found.ids.push(member);
                found.hot.push(self.is_hot(member));
                found.members.push(Member {
                    name: backend.name.clone(),
                    pool: place,
                    ring: known.ring(backend, &self.config.node),
                    healthy: up && (panics || self.is_sound(backend)),
                    capacity,
                    cost: backend.cost,
                    load: known.load.fresh(stale_after, now),
                    answers_us: measured.or(known.first_token_us).max(rtt),
                    first_token_us: measured.or(known.first_token_us),
                    lossy: known.loss.lossy(),
                    lost: self.outliers.lost(*index),
                    max_gain: None,
                });
            }
        }
        limit_claims(&mut found.members, &views);
        Some(found)
    }

    fn pool(&self, id: PolicyId, place: usize) -> Pool {
        let settings = self.config.policy(id);
        let index = settings.pools[place];
        let pool = &self.config.pools[index];
        let percent = |share: u32| share * (WHOLE / 100);
        let split = settings.split.iter().find(|(at, _)| *at == place);
        let rate = self
            .rates
            .per_second
            .get(id.service)
            .copied()
            .unwrap_or(0.0);
        let most_now = pool.max_new_flows.map(|most| {
            let share = f64::from(most) / rate.max(1.0);
            (share.min(1.0) * f64::from(WHOLE)) as u32
        });
        Pool {
            name: pool.name.clone(),
            split: split.map(|(_, share)| percent(*share)),
            most: (pool.max_share < 100).then(|| percent(pool.max_share)),
            most_now,
            overflow: pool.overflow || self.is_thin(id, index),
        }
    }

    /// What the steps of a table go by.
    pub(super) fn balance_settings(&self, policy: usize) -> Settings {
        let service = &self.config.services[self.policies[policy].service];
        let balance = &self.config.balance;
        balance.settings(service.objective, service.split_shift)
    }

    pub(super) fn balance_of(&self, policy: usize) -> State {
        let name = self.config.policy(self.policies[policy]).name();
        self.balances.get(&name).cloned().unwrap_or_default()
    }

    /// Makes a step of one table's weights, and tells what it decides.
    pub(super) fn step(&mut self, policy: usize, cause: Cause, now: Instant) {
        if !self.steps {
            return;
        }
        let Some(candidates) = self.candidates(policy, now) else {
            return;
        };
        let settings = self.balance_settings(policy);
        let name = self.config.policy(self.policies[policy]).name();
        let before = self.balance_of(policy);
        let mut after = before.clone();
        let Candidates { pools, members, .. } = &candidates;
        let ticked = tick(&mut after, &settings, pools, members, cause);
        let decides = before.decides() != after.decides();
        if decides {
            info!(
                service = name,
                ?cause,
                moved = ticked.moved,
                "weights changed"
            );
            self.note_step(&name, cause, &candidates, &before, &after);
            self.recorder.balanced(
                Stepped {
                    service: &name,
                    cause,
                    settings,
                    candidates: &candidates,
                    before,
                    after: &after,
                    moved: ticked.moved,
                },
                now,
            );
        }
        if ticked.frozen != self.silent.contains(&name) {
            if ticked.frozen {
                self.silent.insert(name.clone());
            } else {
                self.silent.remove(&name);
            }
        }
        self.balances.insert(name, after);
    }

    /// Says what became of each backend's factor and slow start.
    fn note_step(
        &mut self,
        service: &str,
        cause: Cause,
        candidates: &Candidates,
        before: &State,
        after: &State,
    ) {
        let percent = |part: u32| f64::from(part) * 100.0 / f64::from(WHOLE);
        for member in &candidates.members {
            let (was, is) = (before.memory(&member.name), after.memory(&member.name));
            if (was.factor, was.warm, was.slow, was.meets)
                == (is.factor, is.warm, is.slow, is.meets)
            {
                continue;
            }
            let use_ = member
                .load
                .map_or("no report of its use".to_owned(), |load| {
                    format!("use {:.0} %", percent(load))
                });
            let mut because = vec![format!("{cause:?}").to_lowercase(), use_];
            because.extend(
                member
                    .first_token_us
                    .map(|us| format!("first token after {} ms", us / 1000)),
            );
            let mut effect = format!(
                "factor {:.0} % -> {:.0} %",
                percent(was.factor),
                percent(is.factor)
            );
            if was.warm != is.warm {
                effect += &format!(
                    ", warm {:.0} % -> {:.0} %",
                    percent(was.warm),
                    percent(is.warm)
                );
            }
            if was.slow != is.slow {
                effect += if is.slow {
                    ", slow"
                } else {
                    ", slow no longer"
                };
            }
            if was.meets != is.meets {
                effect += if is.meets {
                    ", meets the objective"
                } else {
                    ", misses the objective"
                };
            }
            self.why.note(Said {
                backend: member.name.clone(),
                service: Some(service.to_owned()),
                what: "weight".to_owned(),
                because,
                effect,
            });
        }
    }

    /// Notes that a backend came back: it begins with a part of its weight.
    pub(super) fn warm_up(&mut self, backend: &str) {
        if self.config.balance.slow_start.is_zero() {
            return;
        }
        for id in &self.policies {
            let policy = self.config.policy(*id);
            let mut all = policy.members(&self.config).into_iter();
            if all.any(|index| self.config.backends[index].name == backend) {
                let state = self.balances.entry(policy.name()).or_default();
                state.came_back(backend);
            }
        }
    }

    /// Makes the steps that are due.
    ///
    /// # Errors
    /// If counters cannot be read.
    pub(super) fn balance(&mut self, now: Instant) -> Result<()> {
        if self.frozen.is_some() {
            return Ok(());
        }
        let every = self.config.balance.interval;
        let first = match self.stepping {
            Some(next) => next,
            None if now.saturating_duration_since(self.balanced) < every => return Ok(()),
            None => {
                self.balanced = now;
                self.count_flows(now)?;
                0
            }
        };
        let all = self.policies.len();
        let end = all.min(first + at_once(all, every));
        for policy in first..end {
            self.step(policy, Cause::Time, now);
            self.retable(policy, "load", now);
        }
        self.stepping = (end < all).then_some(end);
        Ok(())
    }

    /// Counts services' new flows, if a pool has a budget of them.
    fn count_flows(&mut self, now: Instant) -> Result<()> {
        if self
            .config
            .pools
            .iter()
            .all(|pool| pool.max_new_flows.is_none())
        {
            self.rates = Rates::default();
            return Ok(());
        }
        let counters = self.dataplane.counters()?;
        let mut counts = vec![0; self.config.services.len()];
        for ((service, _), id) in &self.numbers.members {
            let member = counters.members.get(usize::from(*id));
            counts[*service] += member.map_or(0, |member| member.flows);
        }
        let rates = &mut self.rates;
        if let Some((at, before)) = &rates.last {
            let seconds = now.saturating_duration_since(*at).as_secs_f64();
            rates.per_second.resize(counts.len(), 0.0);
            let pairs = counts.iter().zip(before);
            for (rate, (count, before)) in rates.per_second.iter_mut().zip(pairs) {
                let new = count.saturating_sub(*before) as f64 / seconds.max(0.001);
                *rate += RATE * (new - *rate);
            }
        }
        rates.last = Some((now, counts));
        Ok(())
    }

    /// Gives a table the choices that follow from what is known now.
    pub(super) fn retable(&mut self, policy: usize, why: &str, now: Instant) {
        let name = self.config.policy(self.policies[policy]).name();
        let range = self.tables[policy].clone();
        let Some(candidates) = self.candidates(policy, now) else {
            return;
        };
        let nothing = BTreeSet::new();
        let were_full = self.full.get(&name).unwrap_or(&nothing);
        let (members, nobody) = candidates.weighed(&self.balance_of(policy), were_full);
        let full: BTreeSet<Tier> = members.iter().filter(|m| m.full).map(|m| m.tier).collect();
        if full != *were_full {
            let tiers = full.len();
            info!(
                service = name,
                tiers, "full tiers have their second choices behind them"
            );
        }
        if full.is_empty() {
            self.full.remove(&name);
        } else {
            self.full.insert(name.clone(), full);
        }
        if !self.made.note(&range, &members, nobody, now) {
            return;
        }
        let Some(table) = super::chain::table(&members, nobody, range.len()) else {
            warn!(service = name, why, "no backend is up");
            return;
        };
        let changed = self
            .unsettled
            .choose(&mut self.dataplane, range.start, &table, now);
        if changed > 0 {
            info!(
                service = name,
                why,
                slots = table.len(),
                changed,
                "table changed"
            );
            self.tell(
                policy,
                why,
                (&table, changed),
                (&candidates, &members, nobody),
                now,
            );
        }
    }

    /// Forgets what was remembered of tables, pools and backends that are no more.
    pub(super) fn forget_balances(&mut self) {
        let (config, known) = (&self.config, &self.known);
        let names = self.policies.iter().map(|id| config.policy(*id).name());
        let names: HashSet<String> = names.collect();
        let is_service = |name: &String| names.contains(name);
        self.balances.retain(|name, state| {
            state.retain(
                |backend| known.contains_key(backend),
                |pool| config.pools.iter().any(|p| p.name == pool),
            );
            is_service(name)
        });
        self.silent.retain(is_service);
        self.full.retain(|name, _| names.contains(name));
        self.panicking.retain(is_service);
        self.why.retain(|name| known.contains_key(name));
    }

    /// Whether no backend of a service says anything of its load, so that its weights stay as they are.
    pub(super) fn is_silent(&self, service: &str) -> bool {
        self.silent.contains(service)
    }
}
