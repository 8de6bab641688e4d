//! Metric families whose values are computed on request.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};

/// Type annotation for the absence of exemplars.
const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], f64>> = None;

pub(super) struct Writer<'e>(pub(super) DescriptorEncoder<'e>);

/// Description of a family.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Name without unit and `_total`.
    pub(super) name: &'static str,
    /// Help text.
    pub(super) help: &'static str,
    pub(super) unit: Option<&'static Unit>,
}

impl Writer<'_> {
    /// Writes a family of counters.
    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let Family { name, help, unit } = family;
        let mut encoder = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in samples {
            encoder
                .encode_family(&labels)?
                .encode_counter(&value, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    /// Writes a family of gauges.
    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let Family { name, help, unit } = family;
        let mut encoder = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in samples {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes a family of histograms: sums, and counts by upper bound.
    pub(super) fn histograms<L: EncodeLabelSet>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = (L, f64, Vec<(f64, u64)>)>,
    ) -> fmt::Result {
        let Family { name, help, unit } = family;
        let mut encoder = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, sum, buckets) in samples {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder
                .encode_family(&labels)?
                .encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    /// Writes a gauge without labels.
    pub(super) fn gauge(&mut self, family: Family, value: f64) -> fmt::Result {
        let Family { name, help, unit } = family;
        self.0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    /// Writes a counter without labels.
    pub(super) fn counter(&mut self, family: Family, value: f64) -> fmt::Result {
        let Family { name, help, unit } = family;
        self.0
            .encode_descriptor(name, help, unit, MetricType::Counter)?
            .encode_counter(&value, NO_EXEMPLAR)
    }
}

pub(super) const fn family(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        unit: None,
    }
}

impl Family {
    pub(super) const fn seconds(self) -> Self {
        Self {
            unit: Some(&Unit::Seconds),
            ..self
        }
    }

    pub(super) const fn bytes(self) -> Self {
        Self {
            unit: Some(&Unit::Bytes),
            ..self
        }
    }
}
