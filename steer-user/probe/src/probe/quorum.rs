//! Quorum: one outcome from several probes of one backend.

use super::{ProbeFailure, Sample};

/// The rule that combines several probes into one outcome.
#[derive(Debug)]
pub(super) struct Quorum {
    /// Number of probes that must succeed.
    require: usize,
    /// Last outcome of each probe; `None` before the first one.
    last: Vec<Option<bool>>,
}

impl Quorum {
    /// Creates the rule that `require` of `probes` probes must succeed.
    pub(super) fn new(probes: usize, require: usize) -> Self {
        Self {
            require: require.clamp(1, probes.max(1)),
            last: vec![None; probes],
        }
    }

    /// Records the outcome of a probe, and returns the outcome for the backend, if there is one:
    /// success if enough probes succeed, failure if not enough can. Only one probe reports each
    /// kind of outcome, so that `rise` and `fall` count probes of one kind.
    pub(super) fn record(
        &mut self,
        probe: usize,
        outcome: Result<Sample, ProbeFailure>,
    ) -> Option<Result<Sample, ProbeFailure>> {
        // A local failure says nothing about the backend.
        if matches!(outcome, Err(ProbeFailure::Local(_))) {
            return Some(outcome);
        }
        *self.last.get_mut(probe)? = Some(outcome.is_ok());
        let answered = self.last.iter().filter(|l| **l == Some(true)).count();
        let unknown = self.last.iter().filter(|l| l.is_none()).count();
        let counts = match &outcome {
            Err(_) => answered + unknown < self.require,
            // The first successful probe speaks for all: round trips stay comparable, and a beacon,
            // which is the first, knows the load.
            Ok(_) => {
                let first = self.last.iter().position(|l| *l == Some(true));
                answered >= self.require && first == Some(probe)
            }
        };
        counts.then_some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::{Load, OrcaLoadReport};

    /// Returns the outcomes after inputs like `0+` (the first one succeeds) and `1-` (the second
    /// one fails).
    fn run(probes: usize, require: usize, outcomes: &str) -> String {
        let mut combine = Quorum::new(probes, require);
        let each = outcomes.split_whitespace().map(|word| {
            let (probe, sign) = word.split_at(1);
            let outcome = match sign {
                "+" => Ok(Sample {
                    rtt: Duration::ZERO,
                    handshake: None,
                    report: OrcaLoadReport::default(),
                    load: Load::default(),
                }),
                _ => Err(ProbeFailure::Timeout),
            };
            match combine.record(probe.parse().unwrap(), outcome) {
                None => '.',
                Some(Ok(_)) => '+',
                Some(Err(_)) => '-',
            }
        });
        each.collect()
    }

    #[test]
    fn one_probe_is_what_it_is() {
        assert_eq!(run(1, 1, "0+ 0- 0- 0+"), "+--+");
    }

    #[test]
    fn all_have_to_be_answered() {
        assert_eq!(run(2, 2, "0+ 1+ 0+ 1+ 0+"), "..+.+");
        assert_eq!(run(2, 2, "0+ 1+ 1- 0+ 1- 0+ 1+ 0+"), "..-.-..+");
        assert_eq!(
            run(2, 2, "0- 1+"),
            "-.",
            "a failure need not wait for the other"
        );
    }

    #[test]
    fn any_answer_is_enough() {
        assert_eq!(run(2, 1, "0- 1+ 0- 1+"), ".+.+");
        assert_eq!(run(2, 1, "0- 1- 0- 1+ 1-"), ".--+-");
        assert_eq!(
            run(2, 1, "0+ 1+ 0+ 1-"),
            "+.+.",
            "the first speaks for both"
        );
    }

    #[test]
    fn two_of_three() {
        assert_eq!(run(3, 2, "0+ 1+ 2- 0+ 1- 0+ 2- 1+ 0+"), "...+-.-.+");
    }
}
