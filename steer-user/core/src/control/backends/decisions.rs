//! Decisions about backends, with their inputs, for `steer why`.

use super::{change::Change, state::BackendState};
use crate::control::record::decisions::NewDecision;

/// Decisions that follow from a measurement.
pub(crate) fn of_change(backend: &str, change: &Change, state: &BackendState) -> Vec<NewDecision> {
    let inputs = measured_inputs(state);
    let bounds = state.rules.hot;
    let by_utilization = state.used.map(|used| {
        format!(
            "use {:.0} % as reported last; hot from {:.0} %, until below {:.0} %",
            percent(used),
            percent(bounds.above),
            percent(bounds.below)
        )
    });
    let decision = |(what, effect): (&str, String)| {
        let mut because = inputs.clone();
        if what == "hot" {
            because.extend(by_utilization.clone());
        }
        NewDecision {
            backend: backend.to_owned(),
            service: None,
            what: what.to_owned(),
            because,
            effect,
        }
    };
    effects(change).into_iter().map(decision).collect()
}

/// A decision of the operator.
pub(crate) fn of_operator(backend: &str, by: &str, effect: String) -> NewDecision {
    NewDecision {
        backend: backend.to_owned(),
        service: None,
        what: "operator".to_owned(),
        because: vec![format!("said by {by}")],
        effect,
    }
}

fn percent(part: u32) -> f64 {
    f64::from(part) / 10_000.0
}

/// Inputs of decisions that follow from measurements, in words.
fn measured_inputs(state: &BackendState) -> Vec<String> {
    let mut inputs = Vec::new();
    inputs.extend(state.failure.as_ref().map(ToString::to_string));
    inputs.extend(
        state
            .rtt()
            .map(|rtt| format!("smoothed round trip {:.2} ms", rtt.as_secs_f64() * 1e3)),
    );
    inputs.extend(
        state
            .load
            .last()
            .map(|(load, _)| format!("smoothed use {:.0} %", percent(load))),
    );
    inputs
}

/// Effects of a change, each with its subject.
fn effects(change: &Change) -> Vec<(&'static str, String)> {
    let mut effects = Vec::new();
    effects.extend(
        change
            .health
            .map(|t| ("health", format!("{} -> {}", t.from, t.to))),
    );
    effects.extend(change.ring.map(|(from, to)| {
        let from = from.map_or("none".to_owned(), |ring| ring.to_string());
        ("ring", format!("{from} -> {to}"))
    }));
    let flags = [
        ("draining", change.draining),
        ("ejected for flapping", change.suppressed),
        ("degraded by loss", change.lossy),
        ("hot", change.hot),
    ];
    effects.extend(flags.into_iter().filter_map(|(what, flag)| {
        let word = if flag? { "yes" } else { "no longer" };
        Some((what, word.to_owned()))
    }));
    effects
}
