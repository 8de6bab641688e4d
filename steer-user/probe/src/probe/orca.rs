//! Load report of the xDS protocol (`xds.data.orca.v3.OrcaLoadReport`).

use std::collections::BTreeMap;

use super::{ProbeFailure, Trouble};

/// Named metric: 0 if the backend behind the beacon does not answer, 1 if it does.
pub const BACKEND_UP: &str = "backend_up";
/// Named metric: 1 if the backend's operator wants no new work, 0 if not.
pub const DRAINING: &str = "draining";
/// Named metric: trouble with an engine that accepts connections, the number of a [`Trouble`].
pub const TROUBLE: &str = "trouble";
/// Named metric: duration of the trouble in seconds.
pub const TROUBLE_FOR: &str = "trouble_for";
/// Named metric: the most probes per second that the beacon wants from one node.
pub const PROBE_BUDGET: &str = "probe_budget";

/// A load report, wire compatible with xDS.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrcaLoadReport {
    /// CPU utilization; 1 is full, and it may be more.
    #[prost(double, tag = "1")]
    pub cpu_utilization: f64,
    /// Memory utilization from 0 to 1.
    #[prost(double, tag = "2")]
    pub mem_utilization: f64,
    /// Cost of one request, by names that the application defines.
    #[prost(btree_map = "string, double", tag = "4")]
    pub request_cost: BTreeMap<String, f64>,
    /// Utilization of resources, by names that the application defines.
    #[prost(btree_map = "string, double", tag = "5")]
    pub utilization: BTreeMap<String, f64>,
    /// Requests per second.
    #[prost(double, tag = "6")]
    pub rps_fractional: f64,
    /// Errors per second.
    #[prost(double, tag = "7")]
    pub eps: f64,
    /// Other metrics.
    #[prost(btree_map = "string, double", tag = "8")]
    pub named_metrics: BTreeMap<String, f64>,
    /// Utilization by the application's own measure; may exceed 1.
    #[prost(double, tag = "9")]
    pub application_utilization: f64,
}

/// Error for a number in a report that cannot be a load.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("load report: {field} is {value}; a load is a finite number of 0 or more")]
pub struct ReportError {
    /// Field, with its key in a map.
    pub field: String,
    /// Value.
    pub value: f64,
}

impl OrcaLoadReport {
    /// Checks that every number is finite and not negative.
    pub fn validate(&self) -> Result<(), ReportError> {
        let fields = [
            ("cpu_utilization", self.cpu_utilization),
            ("mem_utilization", self.mem_utilization),
            ("rps_fractional", self.rps_fractional),
            ("eps", self.eps),
            ("application_utilization", self.application_utilization),
        ];
        for (field, value) in fields {
            check(value, || field.to_owned())?;
        }
        let maps = [
            ("request_cost", &self.request_cost),
            ("utilization", &self.utilization),
            ("named_metrics", &self.named_metrics),
        ];
        for (field, map) in maps {
            for (key, value) in map {
                check(*value, || format!("{field}[{key:?}]"))?;
            }
        }
        Ok(())
    }

    /// Returns the reason why the backend is down, if the beacon reports that.
    pub fn failure(&self) -> Option<ProbeFailure> {
        let metric = |key: &str| self.named_metrics.get(key).copied();
        if let Some(trouble) = metric(TROUBLE).filter(|trouble| *trouble != 0.0) {
            let trouble = Trouble::from_number(trouble);
            // A valid report has a finite number that is not negative; the cast saturates.
            let seconds = metric(TROUBLE_FOR).unwrap_or(0.0) as u64;
            return Some(if trouble.is_unready() {
                ProbeFailure::NotReady { trouble, seconds }
            } else {
                ProbeFailure::Hung { trouble, seconds }
            });
        }
        (metric(BACKEND_UP) == Some(0.0)).then_some(ProbeFailure::BackendDown)
    }

    /// Returns the most probes per second that the beacon wants from one node.
    pub fn probe_budget(&self) -> Option<f64> {
        let budget = self.named_metrics.get(PROBE_BUDGET).copied();
        budget.filter(|budget| *budget > 0.0)
    }

    /// Returns whether the backend's operator wants no new work for it.
    pub fn draining(&self) -> bool {
        self.named_metrics
            .get(DRAINING)
            .is_some_and(|draining| *draining != 0.0)
    }
}

fn check(value: f64, field: impl FnOnce() -> String) -> Result<(), ReportError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(ReportError {
        field: field(),
        value,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn numbers_that_are_no_load_are_refused() {
        assert_eq!(OrcaLoadReport::default().validate(), Ok(()));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            let report = OrcaLoadReport {
                eps: value,
                ..Default::default()
            };
            assert_eq!(report.validate().unwrap_err().field, "eps");
            let mut report = OrcaLoadReport::default();
            report.named_metrics.insert("kv".to_owned(), value);
            assert_eq!(
                report.validate().unwrap_err().field,
                "named_metrics[\"kv\"]"
            );
        }
    }

    #[test]
    fn field_numbers_are_those_of_xds() {
        let mut report = OrcaLoadReport {
            application_utilization: 1.0,
            ..Default::default()
        };
        report.utilization.insert("k".to_owned(), 1.0);
        let one = 1.0_f64.to_le_bytes();
        let mut expected = vec![0x2a, 12, 0x0a, 1, b'k', 0x11];
        expected.extend(one);
        expected.push(0x49);
        expected.extend(one);
        assert_eq!(report.encode_to_vec(), expected);
    }
}
