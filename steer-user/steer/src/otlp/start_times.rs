//! Start times of counters, which OpenTelemetry requires for each series.
//!
//! A daemon continues counters that the kernel kept before it started, so its own start is not
//! theirs. The start of a series that exists at the first snapshot is unknown; by OTLP's data model
//! its first point takes no time, so its start is that snapshot. A series that appears later, or
//! whose value has dropped, started after the previous snapshot.

use std::collections::HashMap;

use crate::api::Sample;

/// Identity of a series: family and labels.
type Key = (String, Vec<(String, String)>);

/// Starts of all series, in nanoseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct StartTimes {
    series: HashMap<Key, Series>,
    /// Time of the previous snapshot.
    last: Option<u64>,
}

#[derive(Debug)]
struct Series {
    start: u64,
    value: f64,
    seen: u64,
}

impl StartTimes {
    /// Returns the start of a series with `value` in the snapshot at `now`.
    pub(super) fn start_time(
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

    /// Ends the snapshot at `now`: series that are gone are removed.
    pub(super) fn end(&mut self, now: u64) {
        self.series.retain(|_, series| series.seen == now);
        self.last = Some(now);
    }
}

/// Returns labels without the bound of a bucket, so that all samples of a histogram have the same.
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
        let mut starts = StartTimes::default();
        assert_eq!(starts.start_time("a", &label("x"), 7.0, 100), 100);
        starts.end(100);
        assert_eq!(starts.start_time("a", &label("x"), 7.0, 200), 100);
        assert_eq!(starts.start_time("a", &label("y"), 3.0, 200), 100);
        assert_eq!(starts.start_time("b", &label("x"), 3.0, 200), 100);
        starts.end(200);
        assert_eq!(starts.start_time("a", &label("z"), 3.0, 300), 200);
    }

    #[test]
    fn what_becomes_less_or_comes_back_has_begun_anew() {
        let mut starts = StartTimes::default();
        for (now, value, start) in [
            (100, 7.0, 100),
            (200, 8.0, 100),
            (300, 1.0, 200),
            (400, 1.0, 200),
        ] {
            assert_eq!(
                starts.start_time("a", &label("x"), value, now),
                start,
                "{now}"
            );
            starts.end(now);
        }
        starts.end(500);
        assert_eq!(starts.start_time("a", &label("x"), 9.0, 600), 500);
    }
}
