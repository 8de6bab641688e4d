//! Ejections of backends by their connections, and their ends.

use std::time::Instant;

use super::connections;
use crate::{
    control::{backends::state::BackendState, record::decisions::NewDecision},
    domain::{
        outliers::Outlier,
        passive::{Counts, Reason, Verdict},
    },
};

/// An ejection of a backend by its connections, or the end of one.
pub(crate) struct Ejection {
    pub(crate) backend: String,
    pub(crate) counts: Counts,
    pub(crate) outlier: Option<Outlier>,
    pub(crate) verdict: Verdict,
    pub(crate) at: Instant,
}

impl Ejection {
    /// The decision with its inputs, for `steer why`.
    pub(crate) fn decision(&self, state: Option<&BackendState>) -> NewDecision {
        let silent = matches!(self.verdict, Verdict::Out(Reason::Silent, _));
        let because = match (self.outlier, state.filter(|_| silent)) {
            (_, Some(state)) => state.watch.silence().describe(self.at),
            (Some(outlier), None) => connections::words(outlier),
            (None, None) => vec![
                format!("{} refused", self.counts.refused),
                format!("{} unanswered", self.counts.unanswered),
                format!("{} accepted", self.counts.accepted),
            ],
        };
        NewDecision {
            backend: self.backend.clone(),
            service: None,
            what: "connections".to_owned(),
            because,
            effect: self.verdict.to_string(),
        }
    }
}
