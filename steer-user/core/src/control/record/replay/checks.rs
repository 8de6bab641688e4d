//! Comparison of what a journal says with what is decided now.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::{Duration, Instant},
};

use super::{
    Replay,
    conclusions::{self, Conclusion},
};
use crate::{
    control::{
        backends::state::BackendState,
        balancer::{
            self,
            candidates::{CandidateInputs, Candidates},
        },
        controller::Controller,
        tables::build::{self, Member},
    },
    dataplane::FakeDataplane,
    domain::{
        balance::{self, Settings},
        health::State,
    },
    journal::{Base, Input, Probe},
};

impl Replay {
    pub(super) fn backend(
        &mut self,
        name: &str,
        base: &Base,
        probes: &[Probe],
        expected: &Conclusion,
        wrong: &mut Vec<String>,
    ) {
        self.result.backends += 1;
        let epoch = self.epoch;
        let micros = |at: Instant| at.saturating_duration_since(epoch).as_micros() as u64;
        let mut known = BackendState::from_base(base, |t| epoch + Duration::from_micros(t));
        let controller = self.controller.as_mut();
        if let Some(mine) = controller.and_then(|controller| controller.backends.get_mut(name)) {
            let before = conclusions::words(&mine.base(micros));
            let after = conclusions::words(base);
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
            let found = Conclusion {
                health: change.health.map(|health| (health.from, health.to)),
                ring: change.ring,
                draining: change.draining,
                suppressed: change.suppressed,
                lossy: change.lossy,
                hot: change.hot,
                doubt: change.doubt,
            };
            let last = index + 1 == probes.len();
            let expected = if last {
                expected.clone()
            } else {
                Conclusion::default()
            };
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
    pub(super) fn balanced(
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
        let own = candidates(controller, index, self.epoch).members;
        let of = |all: &[balance::Member]| -> Vec<(String, u32)> {
            all.iter().map(|m| (m.name.clone(), m.capacity)).collect()
        };
        if of(members) != of(&own) {
            wrong.push(format!(
                "service {service}: the step has other backends than the configuration"
            ));
        }
    }

    pub(super) fn table(
        &mut self,
        service: &str,
        slots: usize,
        undistributed: u32,
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
        let table = build::table(&members, undistributed, slots);
        let mine = table.map(|table| build::digest(&table, &numbered));
        if mine.as_deref() != Some(digest) {
            wrong.push(format!(
                "service {service}: its inputs make another table than the journal says"
            ));
        }
        if let Some(controller) = &self.controller {
            let weights = self.balances.contains(service);
            for line in compare(
                (controller, self.epoch),
                &self.sure,
                weights,
                service,
                inputs,
            ) {
                wrong.push(format!("service {service}: {line}"));
            }
        }
    }
}

/// Candidates of a policy by what is known now.
fn candidates(controller: &Controller<FakeDataplane>, policy: usize, now: Instant) -> Candidates {
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
    inputs.get(policy).unwrap_or_default()
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
    (controller, epoch): (&Controller<FakeDataplane>, Instant),
    sure: &HashSet<String>,
    weights: bool,
    service: &str,
    inputs: &BTreeMap<String, Input>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(index) = controller.site.policy_named(service) else {
        return vec!["the configuration has no such service or class".to_owned()];
    };
    let candidates = candidates(controller, index, epoch);
    let state = controller.planner.balancer.state(service);
    let shares = controller.planner.balancer.shares(&state, &candidates);
    let (members, _) = candidates.weighted(&state, &shares, &BTreeSet::new());
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
