//! Verdicts about backends: from all signals, by the rule of evidence ([`crate::domain::evidence`]).

mod claims;
mod confirmations;
mod outlier_detection;
mod panic_mode;

use std::time::{Duration, Instant};

use anyhow::Result;
use tracing::info;

pub(super) use self::claims::{View, limit_claims};
pub use self::confirmations::ConnectionRequest;
pub(super) use self::confirmations::Ports;
pub(super) use self::outlier_detection::OutlierDetection;
use super::{Controller, backend::Known, why::Said};
use crate::{
    dataplane::Dataplane,
    domain::{
        evidence::{Evidence, Inputs, Proof, Verdict},
        health::State,
    },
    journal::Event,
};

/// Span in which at most a third of a pool is ejected by hints and their questions.
const QUESTION_WINDOW: Duration = Duration::from_secs(60);
/// A pool's part that weak signals may eject: one in so many.
const EJECTABLE_PART: usize = 3;

impl<D: Dataplane> Controller<D> {
    /// Concludes anew about a backend, and journals another verdict with its inputs. Returns whether there is one.
    pub(super) fn rejudge(&mut self, backend: &str, now: Instant) -> bool {
        // The journal has the verdicts when it is decided again.
        if !self.steps {
            return false;
        }
        let Some(known) = self.known.get(backend) else {
            return false;
        };
        let asked = known.evidence == Some(Evidence::Proof(Proof::CompletionFailed));
        let has_room = !asked || self.pool_has_room(backend, now);
        let Some(known) = self.known.get_mut(backend) else {
            return false;
        };
        let inputs = known.inputs(has_room, now);
        let before = known.verdict;
        let Some(verdict) = known.rejudge(&inputs) else {
            return false;
        };
        if verdict.proof() == Some(Proof::CompletionFailed) {
            known.questioned = known.questioned.or(Some(now));
        } else if known.health.state() == State::Up {
            known.questioned = None;
        }
        self.contradicted += u64::from(matches!(verdict, Verdict::Contradicted(_)));
        info!(backend, from = %before, to = %verdict, "verdict about backend changed");
        let event = Event::Verdict {
            backend: backend.to_owned(),
            inputs,
            verdict,
        };
        self.recorder.tell_at(now, event);
        self.note_verdict(backend, &inputs, verdict);
        if !verdict.serves() {
            // Connections that a dying backend resets say nothing of the one that comes back.
            self.forget_failures(backend);
        }
        true
    }

    /// Begins anew to count what a backend fails.
    pub(super) fn forget_failures(&mut self, backend: &str) {
        if let Some(place) = self.concern.place(backend) {
            let all = self.seen.tally(place);
            self.outliers.forget(place, all);
        }
    }

    /// Keeps a verdict with its inputs for `steer why`.
    pub(super) fn note_verdict(&mut self, backend: &str, inputs: &Inputs, verdict: Verdict) {
        let failure = self.known.get(backend).and_then(|k| k.failure.as_ref());
        let mut because: Vec<String> = failure.map(ToString::to_string).into_iter().collect();
        if !inputs.failing_for.is_zero() {
            because.push(format!(
                "probes fail for {} ms",
                inputs.failing_for.as_millis()
            ));
        }
        because.push(match inputs.answered {
            Some(ago) => format!("clients answered {} ms ago", ago.as_millis()),
            None => "no answers to clients were seen".to_owned(),
        });
        self.why.note(Said {
            backend: backend.to_owned(),
            service: None,
            what: "verdict".to_owned(),
            because,
            effect: verdict.to_string(),
        });
    }

    /// Concludes anew about backends that time, or what clients get, may have changed.
    pub(super) fn rejudge_questionable(&mut self, now: Instant) -> Result<()> {
        let mut done = Ok(());
        for index in std::mem::take(&mut self.questionable) {
            let Some(backend) = self.config.backends.get(index) else {
                continue;
            };
            let name = backend.name.clone();
            if self.rejudge(&name, self.recorder.on_clock(now)) {
                done = done.and(self.replan_of(&name, now));
            }
            if self.known.get(&name).is_some_and(Known::is_in_question) {
                self.questionable.insert(index);
            }
        }
        done
    }

    /// Whether pools of a backend have room for one more ejection by a hint and its question: no more than a third
    /// of a pool within a minute, and never the last one that serves.
    fn pool_has_room(&self, backend: &str, now: Instant) -> bool {
        let known = self.known.get(backend);
        if known.is_some_and(|k| k.verdict.proof() == Some(Proof::CompletionFailed)) {
            return true;
        }
        let recently = |at: Instant| now.saturating_duration_since(at) < QUESTION_WINDOW;
        self.has_room_where(backend, |known| known.questioned.is_some_and(recently))
    }

    /// Whether in each pool of a backend less than a third of the others is so, and one of them serves.
    fn has_room_where(&self, backend: &str, is_so: impl Fn(&Known) -> bool) -> bool {
        let Some(place) = self.concern.place(backend) else {
            return true;
        };
        let pools = self.config.pools.iter();
        pools
            .filter(|pool| pool.backends.contains(&place))
            .all(|pool| {
                let others = pool.backends.iter().filter(|other| **other != place);
                let (mut so, mut serve) = (0, false);
                for backend in others.map(|other| &self.config.backends[*other]) {
                    let Some(known) = self.known.get(&backend.name) else {
                        continue;
                    };
                    so += usize::from(is_so(known));
                    let is_known = known.health(backend) != State::Unknown;
                    serve |= is_known && !known.is_out() && known.takes_new();
                }
                serve && so < (pool.backends.len() / EJECTABLE_PART).max(1)
            })
    }
}
