//! Balancer: moves the weights of tables in bounded steps, by the balance policy.

pub(crate) mod candidates;
pub(crate) mod flow_rates;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::info;

use self::{candidates::Candidates, flow_rates::FlowRates};
use super::{
    backends::Backends,
    record::{
        decisions::NewDecision,
        recorder::{Recorder, Stepped},
    },
    site::Site,
};
use crate::{
    dataplane::Dataplane,
    domain::{
        balance::{BalancePolicy, Cause, Member, Memory, Settings, Shares, State},
        load::WHOLE,
    },
};

/// Tables that make their steps in one poll, at least.
const MIN_AT_ONCE: usize = 8;

/// Weights of all tables, and what the balance policy remembers of them.
#[derive(Clone, Debug)]
pub(crate) struct Balancer {
    policy: Arc<dyn BalancePolicy>,
    /// States of tables, by the name of the policy.
    states: HashMap<String, State>,
    /// Whether steps are taken from a journal, and none are made here.
    replays: bool,
    /// Begin of the last round of steps.
    round: Instant,
    /// Next table of that round, if it is not over.
    next: Option<usize>,
    rates: FlowRates,
    /// Names of policies of which no backend reports its load.
    silent: HashSet<String>,
}

impl Balancer {
    pub(crate) fn new(policy: Arc<dyn BalancePolicy>, now: Instant) -> Self {
        Self {
            policy,
            states: HashMap::new(),
            replays: false,
            round: now,
            next: None,
            rates: FlowRates::default(),
            silent: HashSet::new(),
        }
    }

    /// Makes no steps from now on: a replay takes them from the journal.
    pub(crate) fn replay(&mut self) {
        self.replays = true;
    }

    /// The state of a policy's table.
    pub(crate) fn state(&self, policy: &str) -> State {
        self.states.get(policy).cloned().unwrap_or_default()
    }

    /// Shares of candidates by a state.
    pub(crate) fn shares(&self, state: &State, candidates: &Candidates) -> Shares {
        self.policy
            .shares(state, &candidates.pools, &candidates.members)
    }

    /// Sets the state of a policy's table, from a journal.
    pub(crate) fn set_state(&mut self, policy: &str, state: State) {
        self.states.insert(policy.to_owned(), state);
    }

    pub(crate) fn rates(&self) -> &FlowRates {
        &self.rates
    }

    /// Returns whether no backend of a policy reports its load, so that its weights stay as they are.
    pub(crate) fn is_silent(&self, policy: &str) -> bool {
        self.silent.contains(policy)
    }

    /// Returns whether a backend is much slower than its peers in some table.
    pub(crate) fn is_slow(&self, backend: &str) -> bool {
        self.states.values().any(|state| state.memory(backend).slow)
    }

    /// Makes a step of one table's weights.
    pub(crate) fn step(
        &mut self,
        site: &Site,
        policy: usize,
        candidates: &Candidates,
        cause: Cause,
        recorder: &mut Recorder,
        now: Instant,
    ) {
        if self.replays {
            return;
        }
        let settings = settings(site, policy);
        let name = site.policy_name(policy);
        let before = self.state(&name);
        let mut after = before.clone();
        let Candidates { pools, members, .. } = candidates;
        let ticked = self
            .policy
            .step(&mut after, &settings, pools, members, cause);
        if before.decides() != after.decides() {
            info!(service = name, %cause, moved = ticked.moved, "weights changed");
            for member in members {
                let was = before.memory(&member.name);
                let is = after.memory(&member.name);
                if let Some(decision) = decision(&name, cause, member, was, is) {
                    recorder.decision(decision, now);
                }
            }
            let step = Stepped {
                service: &name,
                cause,
                settings,
                pools,
                members,
                before,
                after: &after,
                moved: ticked.moved,
            };
            recorder.balanced(step, now);
        }
        if ticked.frozen {
            self.silent.insert(name.clone());
        } else {
            self.silent.remove(&name);
        }
        self.states.insert(name, after);
    }

    /// Returns the policies whose steps are due. With many policies a round of steps is spread over several polls: all
    /// at once would keep failures waiting.
    ///
    /// # Errors
    /// If counters cannot be read.
    pub(crate) fn due(
        &mut self,
        site: &Site,
        dataplane: &impl Dataplane,
        poll_interval: Duration,
        now: Instant,
    ) -> Result<std::ops::Range<usize>> {
        let every = site.config.balance.interval;
        let first = match self.next {
            Some(next) => next,
            None if now.saturating_duration_since(self.round) < every => return Ok(0..0),
            None => {
                self.round = now;
                self.rates.read(site, dataplane, now)?;
                0
            }
        };
        let all = site.policies.len();
        let end = all.min(first + at_once(all, every, poll_interval));
        self.next = (end < all).then_some(end);
        Ok(first..end)
    }

    /// Starts the slow start of a backend that recovered: it begins with a part of its weight.
    pub(crate) fn start_slow_start(&mut self, site: &Site, backend: &str) {
        if site.config.balance.slow_start.is_zero() {
            return;
        }
        for policy in site.policies_of(backend) {
            let state = self.states.entry(site.policy_name(*policy)).or_default();
            state.came_back(backend);
        }
    }

    /// Forgets policies, pools and backends that are no longer configured.
    pub(crate) fn retain(&mut self, site: &Site, backends: &Backends) {
        self.next = None;
        let names = site.policy_names();
        let pools = &site.config.pools;
        self.states.retain(|name, state| {
            state.retain(
                |backend| backends.contains(backend),
                |pool| pools.iter().any(|p| p.name == pool),
            );
            names.contains(name)
        });
        self.silent.retain(|name| names.contains(name));
    }
}

/// Settings of the steps of a table.
pub(crate) fn settings(site: &Site, policy: usize) -> Settings {
    let service = site.policy(policy).service;
    site.config
        .balance
        .settings(service.objective, service.split_shift)
}

/// Tables that make their steps in one poll, so that half of the interval is enough for all.
fn at_once(tables: usize, every: Duration, poll_interval: Duration) -> usize {
    let polls = (every / 2).as_nanos() / poll_interval.as_nanos().max(1);
    tables
        .div_ceil(usize::try_from(polls).unwrap_or(usize::MAX).max(1))
        .max(MIN_AT_ONCE)
}

/// The decision that a step made about a member, if it made one.
fn decision(
    service: &str,
    cause: Cause,
    member: &Member,
    was: Memory,
    is: Memory,
) -> Option<NewDecision> {
    if (was.factor, was.warm, was.slow, was.meets) == (is.factor, is.warm, is.slow, is.meets) {
        return None;
    }
    let percent = |part: u32| f64::from(part) * 100.0 / f64::from(WHOLE);
    let load = member
        .load
        .map_or("no report of its use".to_owned(), |load| {
            format!("use {:.0} %", percent(load))
        });
    let mut because = vec![cause.to_string(), load];
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
    let flags = [
        (was.slow, is.slow, ", slow", ", no longer slow"),
        (
            was.meets,
            is.meets,
            ", meets the objective",
            ", misses the objective",
        ),
    ];
    for (was, is, yes, no) in flags {
        if was != is {
            effect += if is { yes } else { no };
        }
    }
    Some(NewDecision {
        backend: member.name.clone(),
        service: Some(service.to_owned()),
        what: "weight".to_owned(),
        because,
        effect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_steps_takes_half_of_the_interval_at_most() {
        let (every, poll) = (Duration::from_secs(2), Duration::from_millis(20));
        assert_eq!(at_once(3, every, poll), MIN_AT_ONCE);
        assert_eq!(at_once(5_000, every, poll), 100);
        assert_eq!(at_once(100, Duration::ZERO, poll), 100);
    }
}
