//! The load report of the xDS protocol (`xds.data.orca.v3.OrcaLoadReport`).

use std::collections::BTreeMap;

use super::{ProbeFailure, Trouble};

/// Named metric: 0 if the backend behind the beacon doesn't answer, 1 if it does.
pub const BACKEND_UP: &str = "backend_up";
/// Named metric: 1 if the backend's operator wants no new work, 0 if not.
pub const DRAINING: &str = "draining";
/// Named metric: what is wrong with an engine that takes connections, a [`Trouble`] by its number.
pub const TROUBLE: &str = "trouble";
/// Named metric: for how many seconds that has been so.
pub const TROUBLE_FOR: &str = "trouble_for";
/// Named metric: how many probes a second the beacon wants of one node at most.
pub const PROBE_BUDGET: &str = "probe_budget";

/// One load report, wire compatible with xDS.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrcaLoadReport {
    /// CPU use; 1 is all of it, and it may be more.
    #[prost(double, tag = "1")]
    pub cpu_utilization: f64,
    /// Memory use from 0 to 1.
    #[prost(double, tag = "2")]
    pub mem_utilization: f64,
    /// Costs of one request, by the application's own names.
    #[prost(btree_map = "string, double", tag = "4")]
    pub request_cost: BTreeMap<String, f64>,
    /// Use of resources, by the application's own names.
    #[prost(btree_map = "string, double", tag = "5")]
    pub utilization: BTreeMap<String, f64>,
    /// Requests a second.
    #[prost(double, tag = "6")]
    pub rps_fractional: f64,
    /// Errors a second.
    #[prost(double, tag = "7")]
    pub eps: f64,
    /// Any other metric.
    #[prost(btree_map = "string, double", tag = "8")]
    pub named_metrics: BTreeMap<String, f64>,
    /// The application's own idea of its use; may be more than 1.
    #[prost(double, tag = "9")]
    pub application_utilization: f64,
}

/// A number in a report that can't be a load.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("load report: {field} is {value}; a load is a finite number of 0 or more")]
pub struct ReportError {
    /// The field, with its key if it is a map.
    pub field: String,
    /// Its value.
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

    /// Why its backend is dead, if the beacon says that it is.
    pub fn failure(&self) -> Option<ProbeFailure> {
        let metric = |key: &str| self.named_metrics.get(key).copied();
        if let Some(trouble) = metric(TROUBLE).filter(|trouble| *trouble != 0.0) {
            let trouble = Trouble::from_number(trouble);
            // Of a valid report it is finite and not negative; a cast saturates.
            let seconds = metric(TROUBLE_FOR).unwrap_or(0.0) as u64;
            return Some(if trouble.is_unready() {
                ProbeFailure::NotReady { trouble, seconds }
            } else {
                ProbeFailure::Hung { trouble, seconds }
            });
        }
        (metric(BACKEND_UP) == Some(0.0)).then_some(ProbeFailure::BackendDown)
    }

    /// How many probes a second the beacon wants of one node at most.
    pub fn probe_budget(&self) -> Option<f64> {
        let budget = self.named_metrics.get(PROBE_BUDGET).copied();
        budget.filter(|budget| *budget > 0.0)
    }

    /// Whether the backend's operator wants no new work for it.
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
