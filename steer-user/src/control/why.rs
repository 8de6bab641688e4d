//! The last decisions about each backend, with what led to them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// Decisions that are kept of all backends together, about.
const ALL: usize = 40_000;
/// And of each of them, at most.
const EACH: usize = 32;
/// Of each there are so many, however many backends there are.
const FEW: usize = 4;

/// A decision about a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Decision {
    /// When.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub at: SystemTime,
    /// The service, or `service/class`, if it concerns one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What was decided about: health, ring, weight, share, ...
    pub what: String,
    /// From which inputs.
    pub because: Vec<String>,
    /// To what effect.
    pub effect: String,
}

/// A decision to keep.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) backend: String,
    pub(super) service: Option<String>,
    pub(super) what: String,
    pub(super) because: Vec<String>,
    pub(super) effect: String,
}

/// The last decisions by backend.
#[derive(Clone, Debug, Default)]
pub(super) struct Decisions(BTreeMap<String, VecDeque<Decision>>);

impl Decisions {
    /// Keeps a decision; of its backend the oldest one goes.
    pub(super) fn note(&mut self, said: Said) {
        let most = (ALL / self.0.len().max(1)).clamp(FEW, EACH);
        let all = self.0.entry(said.backend).or_default();
        while all.len() >= most {
            all.pop_front();
        }
        all.push_back(Decision {
            at: SystemTime::now(),
            service: said.service,
            what: said.what,
            because: said.because,
            effect: said.effect,
        });
    }

    /// The decisions about a backend, the oldest first.
    pub(super) fn of(&self, backend: &str) -> Vec<Decision> {
        self.0.get(backend).into_iter().flatten().cloned().collect()
    }

    /// Forgets backends.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
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
                decisions.note(Said {
                    backend: backend.to_owned(),
                    service: None,
                    what: "health".to_owned(),
                    because: Vec::new(),
                    effect: format!("{backend} {number}"),
                });
            }
        }
        let of = decisions.of("a");
        assert_eq!(of.len(), EACH);
        assert_eq!(of.last().unwrap().effect, "a 99");
        decisions.retain(|name| name == "b");
        assert!(decisions.of("a").is_empty());
        assert!(!decisions.of("b").is_empty());
    }
}
