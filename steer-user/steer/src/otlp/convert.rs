//! Conversion of metric families to OTLP messages.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    message::{
        CUMULATIVE, Data, Gauge, Histogram, HistogramDataPoint, KeyValue, Metric, Number,
        NumberDataPoint, Sum, attribute,
    },
    start_times::{StartTimes, without_bound},
};
use crate::api::{Family, Sample};

/// Conversion of one snapshot of all families.
pub(super) struct Conversion<'s> {
    now: u64,
    starts: &'s mut StartTimes,
}

impl<'s> Conversion<'s> {
    pub(super) fn new(now: SystemTime, starts: &'s mut StartTimes) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Self { now, starts }
    }

    /// Converts families. Those without samples are skipped, because OTLP has no metrics without
    /// points.
    pub(super) fn metrics(mut self, families: &[Family]) -> Vec<Metric> {
        let described = families.iter().filter(|family| !family.samples.is_empty());
        let metrics = described.filter_map(|family| self.metric(family)).collect();
        self.starts.end(self.now);
        metrics
    }

    fn metric(&mut self, family: &Family) -> Option<Metric> {
        let data = match family.kind.as_str() {
            "counter" => Data::Sum(Sum {
                data_points: self.numbers(family, true),
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            "gauge" => Data::Gauge(Gauge {
                data_points: self.numbers(family, false),
            }),
            "histogram" => Data::Histogram(Histogram {
                data_points: self.histograms(family),
                aggregation_temporality: CUMULATIVE,
            }),
            _ => return None,
        };
        Some(Metric {
            name: family.name.clone(),
            description: family.help.clone(),
            unit: unit(&family.unit).to_owned(),
            data: Some(data),
        })
    }

    fn numbers(&mut self, family: &Family, with_starts: bool) -> Vec<NumberDataPoint> {
        let mut points = Vec::with_capacity(family.samples.len());
        for sample in &family.samples {
            let Some(number) = number(&sample.value) else {
                continue;
            };
            let start = if with_starts {
                let value = match number {
                    Number::AsDouble(value) => value,
                    Number::AsInt(value) => value as f64,
                };
                self.starts
                    .start_time(&family.name, &sample.labels, value, self.now)
            } else {
                0
            };
            points.push(NumberDataPoint {
                attributes: attributes(&sample.labels),
                start_time_unix_nano: start,
                time_unix_nano: self.now,
                value: Some(number),
            });
        }
        points
    }

    fn histograms(&mut self, family: &Family) -> Vec<HistogramDataPoint> {
        // The format requires the samples of one histogram in one piece.
        let pieces = family
            .samples
            .chunk_by(|one, next| without_bound(one) == without_bound(next));
        pieces
            .filter_map(|piece| self.histogram(&family.name, piece))
            .collect()
    }

    fn histogram(&mut self, name: &str, samples: &[Sample]) -> Option<HistogramDataPoint> {
        let labels = without_bound(samples.first()?);
        let mut point = HistogramDataPoint {
            attributes: attributes(&labels),
            time_unix_nano: self.now,
            ..HistogramDataPoint::default()
        };
        // The page has cumulative counts, OTLP has counts per bucket.
        let mut below = 0_u64;
        for sample in samples {
            match sample.suffix.as_str() {
                "_sum" => point.sum = sample.value.parse().ok(),
                "_count" => point.count = sample.value.parse().ok()?,
                "_bucket" => {
                    let (_, bound) = sample.labels.iter().find(|(name, _)| name == "le")?;
                    let bound: f64 = bound.parse().ok()?;
                    let count: u64 = sample.value.parse().ok()?;
                    point.bucket_counts.push(count.checked_sub(below)?);
                    below = count;
                    if bound.is_finite() {
                        point.explicit_bounds.push(bound);
                    }
                }
                _ => {}
            }
        }
        // The last bucket has no bound.
        if point.bucket_counts.len() != point.explicit_bounds.len() + 1 {
            return None;
        }
        // The data path counts between two reads of one histogram's samples.
        point.count = below;
        point.start_time_unix_nano = self
            .starts
            .start_time(name, &labels, below as f64, self.now);
        Some(point)
    }
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    let labels = labels.iter();
    labels.map(|(name, value)| attribute(name, value)).collect()
}

/// Parses a number. One without a fraction is an integer, so that a series keeps its kind.
fn number(text: &str) -> Option<Number> {
    match text.parse::<i64>() {
        Ok(whole) => Some(Number::AsInt(whole)),
        Err(_) => text.parse().ok().map(Number::AsDouble),
    }
}

/// Returns the unit in the notation of OpenTelemetry.
fn unit(of_page: &str) -> &str {
    match of_page {
        "seconds" => "s",
        "bytes" => "By",
        other => other,
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
