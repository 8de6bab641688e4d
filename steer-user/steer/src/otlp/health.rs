//! Health of the collector, logged when it changes.

use steer_core::config::Otlp;
use tracing::{info, warn};

use super::outcome::{Accepted, Failure};

/// Result of the last export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Nothing,
    Whole,
    Partial,
    Failed,
}

#[derive(Debug, Default)]
pub(super) struct CollectorHealth {
    last: Last,
    worked: bool,
}

impl CollectorHealth {
    /// Returns whether the collector has accepted anything yet.
    pub(super) fn has_worked(&self) -> bool {
        self.worked
    }

    /// Records an outcome, and returns the label to count it under.
    pub(super) fn record(
        &mut self,
        collector: &Otlp,
        outcome: &Result<Accepted, Failure>,
    ) -> &'static str {
        let (now, word) = match outcome {
            Ok(Accepted::Whole) => (Last::Whole, "accepted"),
            Ok(Accepted::Partly { .. }) => (Last::Partial, "partial"),
            Err(failure) => (Last::Failed, failure.as_str()),
        };
        self.worked |= outcome.is_ok();
        if self.last != now {
            self.last = now;
            match outcome {
                Ok(Accepted::Whole) => info!(%collector, "metrics are being exported"),
                Ok(Accepted::Partly { rejected, why }) => {
                    warn!(
                        %collector,
                        rejected,
                        reason = %why.escape_debug(),
                        "the collector rejects some metrics"
                    );
                }
                Err(error) => warn!(
                    %collector, %error,
                    "metrics cannot be exported; trying again with increasing pauses: check \
                     `otlp` in [telemetry]"
                ),
            }
        }
        word
    }
}
