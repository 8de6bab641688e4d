//! Last decisions about each backend, with their inputs.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// Decisions kept of all backends together, about.
const MAX_DECISIONS: usize = 40_000;
/// Decisions kept of one backend, at most.
const MAX_OF_BACKEND: usize = 32;
/// Decisions kept of one backend, however many backends there are.
const MIN_OF_BACKEND: usize = 4;

/// A decision about a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Decision {
    /// Time of the decision.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub at: SystemTime,
    /// The service, or `service/class`, if it concerns one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Subject: health, ring, weight, share, ...
    pub what: String,
    /// Inputs.
    pub because: Vec<String>,
    /// Effect.
    pub effect: String,
}

/// A decision that is to be kept.
#[derive(Clone, Debug)]
pub(crate) struct NewDecision {
    pub(crate) backend: String,
    pub(crate) service: Option<String>,
    pub(crate) what: String,
    pub(crate) because: Vec<String>,
    pub(crate) effect: String,
}

/// Last decisions by backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decisions(BTreeMap<String, VecDeque<Decision>>);

impl Decisions {
    /// Records a decision; the oldest one of its backend may go.
    pub(crate) fn record(&mut self, decision: NewDecision, at: SystemTime) {
        let most = (MAX_DECISIONS / self.0.len().max(1)).clamp(MIN_OF_BACKEND, MAX_OF_BACKEND);
        let all = self.0.entry(decision.backend).or_default();
        while all.len() >= most {
            all.pop_front();
        }
        all.push_back(Decision {
            at,
            service: decision.service,
            what: decision.what,
            because: decision.because,
            effect: decision.effect,
        });
    }

    /// The decisions about a backend, the oldest first.
    pub(crate) fn about(&self, backend: &str) -> Vec<Decision> {
        self.0.get(backend).into_iter().flatten().cloned().collect()
    }

    /// Forgets backends.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_decisions_are_kept_of_each() {
        let mut decisions = Decisions::default();
        for number in 0..100 {
            for backend in ["a", "b"] {
                let decision = NewDecision {
                    backend: backend.to_owned(),
                    service: None,
                    what: "health".to_owned(),
                    because: Vec::new(),
                    effect: format!("{backend} {number}"),
                };
                decisions.record(decision, SystemTime::UNIX_EPOCH);
            }
        }
        let of = decisions.about("a");
        assert_eq!(of.len(), MAX_OF_BACKEND);
        assert_eq!(of.last().unwrap().effect, "a 99");
        decisions.retain(|name| name == "b");
        assert!(decisions.about("a").is_empty());
        assert!(!decisions.about("b").is_empty());
    }
}
