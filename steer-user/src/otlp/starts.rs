//! Since when series have been counted, which OpenTelemetry wants to know of each.
//!
//! A daemon takes over what the kernel has counted before it, so that its own start is not the start of
//! all that it has. What is there at the first look has begun nobody knows when, which OTLP's data model
//! tells by a first point that took no time: its start is the look. What appears at a later look,
//! or has become less, has begun after the look before.

use std::collections::HashMap;

use crate::api::Sample;

/// What tells series apart: family and labels.
type Key = (String, Vec<(String, String)>);

/// Starts of all series, in nanoseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Starts {
    series: HashMap<Key, Series>,
    /// The look before.
    last: Option<u64>,
}

#[derive(Debug)]
struct Series {
    start: u64,
    value: f64,
    seen: u64,
}

impl Starts {
    /// The start of a series that has come to `value` at the look at `now`.
    pub(super) fn of(
        &mut self,
        family: &str,
        labels: &[(String, String)],
        value: f64,
        now: u64,
    ) -> u64 {
        let begun = self.last.unwrap_or(now);
        let key = (family.to_owned(), labels.to_owned());
        let series = self.series.entry(key).or_insert(Series {
            start: begun,
            value,
            seen: now,
        });
        if value < series.value {
            series.start = begun;
        }
        series.value = value;
        series.seen = now;
        series.start
    }

    /// Ends the look at `now`: what was not seen is forgotten.
    pub(super) fn end(&mut self, now: u64) {
        self.series.retain(|_, series| series.seen == now);
        self.last = Some(now);
    }
}

/// Labels without the bound of a bucket, so that all samples of a histogram have the same.
pub(super) fn without_bound(sample: &Sample) -> Vec<(String, String)> {
    let labels = sample.labels.iter();
    labels.filter(|(name, _)| name != "le").cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(value: &str) -> Vec<(String, String)> {
        vec![("backend".to_owned(), value.to_owned())]
    }

    #[test]
    fn what_was_there_before_begins_with_the_first_look_and_keeps_its_start() {
        let mut starts = Starts::default();
        assert_eq!(starts.of("a", &label("x"), 7.0, 100), 100);
        starts.end(100);
        assert_eq!(starts.of("a", &label("x"), 7.0, 200), 100);
        assert_eq!(starts.of("a", &label("y"), 3.0, 200), 100);
        assert_eq!(starts.of("b", &label("x"), 3.0, 200), 100);
        starts.end(200);
        assert_eq!(starts.of("a", &label("z"), 3.0, 300), 200);
    }

    #[test]
    fn what_becomes_less_or_comes_back_has_begun_anew() {
        let mut starts = Starts::default();
        for (now, value, start) in [
            (100, 7.0, 100),
            (200, 8.0, 100),
            (300, 1.0, 200),
            (400, 1.0, 200),
        ] {
            assert_eq!(starts.of("a", &label("x"), value, now), start, "{now}");
            starts.end(now);
        }
        starts.end(500);
        assert_eq!(starts.of("a", &label("x"), 9.0, 600), 500);
    }
}
