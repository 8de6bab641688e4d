//! Policies without spilling: by capacity, and by utilization.

use super::{
    Cause, Member, Pool, Settings, State, Ticked, spread,
    spread::tiers,
    tick::{self, entry},
};
use crate::domain::load::WHOLE;

/// Lower bound of a utilization, so that an idle member does not get everything.
const MIN_UTILIZATION: f64 = 0.01;
/// Bounds of a factor, in parts of the mean.
const FACTORS: [f64; 2] = [0.02, 50.0];

/// Makes a step of the policy by capacity alone: shares change with health and slow start only.
pub(super) fn by_capacity(
    state: &mut State,
    settings: &Settings,
    pools: &[Pool],
    members: &[Member],
    cause: Cause,
) -> Ticked {
    let before = spread(state, pools, members);
    for memory in state.members.values_mut() {
        (memory.factor, memory.wants) = (WHOLE, 0);
    }
    step_without_loads(state, settings, pools, members, cause);
    Ticked {
        moved: before.moved(&spread(state, pools, members)),
        frozen: false,
    }
}

/// Makes a step of the policy by utilization: a member's weight is its flows over its utilization (gRPC proposal A58).
///
/// The share of a member stands for its flows. Reported utilization is smoothed and so follows shares late: a step goes
/// half of the way, on a logarithmic scale. A member without a report gets the mean weight of the others.
pub(super) fn by_utilization(
    state: &mut State,
    settings: &Settings,
    pools: &[Pool],
    members: &[Member],
    cause: Cause,
) -> Ticked {
    let before = spread(state, pools, members);
    let fresh = members.iter().any(|m| m.serves() && m.load.is_some());
    if cause == Cause::Time {
        for all in tiers(state, members).values() {
            factors(state, members, all);
        }
    }
    step_without_loads(state, settings, pools, members, cause);
    Ticked {
        moved: before.moved(&spread(state, pools, members)),
        frozen: !fresh,
    }
}

/// Makes the parts of a step that do not depend on loads: slow start, splits and budgets. Nothing spills.
fn step_without_loads(
    state: &mut State,
    settings: &Settings,
    pools: &[Pool],
    members: &[Member],
    cause: Cause,
) {
    state.spills.clear();
    let blind = |member: &Member| Member {
        load: None,
        ..member.clone()
    };
    let members: Vec<Member> = members.iter().map(blind).collect();
    tick::tick(state, settings, pools, &members, cause);
}

/// Sets the factors of a tier, whose mean is 1.
fn factors(state: &mut State, members: &[Member], all: &[usize]) {
    let known = all.iter().filter_map(|index| {
        let member = &members[*index];
        let load = f64::from(member.load?) / f64::from(WHOLE);
        let now = f64::from(state.memory(&member.name).factor) / f64::from(WHOLE);
        let factor = now / load.max(MIN_UTILIZATION).sqrt();
        Some((*index, f64::from(member.capacity), factor))
    });
    let known: Vec<_> = known.collect();
    let capacity: f64 = known.iter().map(|(_, capacity, _)| capacity).sum();
    let sum: f64 = known
        .iter()
        .map(|(_, capacity, factor)| capacity * factor)
        .sum();
    if sum <= 0.0 {
        return;
    }
    for index in all {
        let own = known.iter().find(|(other, _, _)| other == index);
        let factor = own.map_or(1.0, |(_, _, factor)| factor * capacity / sum);
        let factor = factor.clamp(FACTORS[0], FACTORS[1]) * f64::from(WHOLE);
        entry(state, &members[*index].name).factor = factor.round() as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::balance::{BalancePolicy as _, ConfiguredPolicy, Policy, SUM};

    const SETTINGS: Settings = Settings {
        policy: Policy::Capacity,
        floor: WHOLE / 20,
        spill_above: WHOLE / 5 * 4,
        spill_below: WHOLE / 2,
        max_shift: WHOLE / 20,
        warming: WHOLE / 10,
        split_step: WHOLE / 50,
        objective_us: None,
    };

    fn members(loads: [f64; 3]) -> Vec<Member> {
        let member = |(name, load): (&str, f64)| Member {
            name: name.to_owned(),
            healthy: true,
            capacity: 2,
            ring: usize::from(name == "far"),
            load: Some((load * f64::from(WHOLE)) as u32),
            ..Member::default()
        };
        ["a", "b", "far"]
            .into_iter()
            .zip(loads)
            .map(member)
            .collect()
    }

    fn shares(state: &State, members: &[Member]) -> Vec<f64> {
        let shares = ConfiguredPolicy.shares(state, &[Pool::default()], members);
        shares
            .members
            .iter()
            .map(|share| f64::from(*share) / f64::from(SUM))
            .collect()
    }

    fn step(state: &mut State, policy: Policy, members: &[Member]) -> Ticked {
        let settings = Settings { policy, ..SETTINGS };
        ConfiguredPolicy.step(state, &settings, &[Pool::default()], members, Cause::Time)
    }

    #[test]
    fn load_changes_nothing_by_capacity() {
        let mut state = State::default();
        for loads in [[0.1, 0.9, 0.0], [2.0, 2.0, 0.0]] {
            step(&mut state, Policy::Capacity, &members(loads));
            assert_eq!(shares(&state, &members(loads)), [0.5, 0.5, 0.0]);
        }
    }

    #[test]
    fn a_lost_member_leaves_its_share_to_its_peers() {
        let mut all = members([0.5; 3]);
        all[0].healthy = false;
        let mut state = State::default();
        step(&mut state, Policy::Capacity, &all);
        assert_eq!(shares(&state, &all), [0.0, 1.0, 0.0]);
        all[1].healthy = false;
        assert_eq!(shares(&state, &all), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn utilizations_become_equal() {
        // The second member is really three times as fast.
        let mut state = State::default();
        for _ in 0..40 {
            let now = shares(&state, &members([0.5; 3]));
            step(
                &mut state,
                Policy::Utilization,
                &members([now[0], now[1] / 3.0, 0.0]),
            );
        }
        let now = shares(&state, &members([0.5; 3]));
        assert!((now[1] / now[0] - 3.0).abs() < 0.05, "{now:?}");
    }

    #[test]
    fn another_policy_takes_over_what_is_there() {
        let mut state = State::default();
        for _ in 0..10 {
            step(&mut state, Policy::Adaptive, &members([0.9, 0.95, 0.1]));
        }
        assert_ne!(shares(&state, &members([0.5; 3])), [0.5, 0.5, 0.0]);
        step(&mut state, Policy::Capacity, &members([0.9, 0.95, 0.1]));
        assert_eq!(shares(&state, &members([0.5; 3])), [0.5, 0.5, 0.0]);
    }
}
