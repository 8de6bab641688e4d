use std::time::Duration;

use super::*;
use crate::api::read;

const NOW: Duration = Duration::from_nanos(1_700_000_000_000_000_123);

/// Returns the result for a page with one family whose samples all begin with its name, `x`.
fn at(now: Duration, starts: &mut StartTimes, kind: &str, samples: &str) -> Option<Metric> {
    let page = format!("# HELP x What it is.\n# TYPE x {kind}\n{samples}\n# EOF\n");
    Conversion::new(UNIX_EPOCH + now, starts)
        .metrics(&read(&page))
        .pop()
}

fn converted(kind: &str, samples: &str) -> Option<Metric> {
    at(NOW, &mut StartTimes::default(), kind, samples)
}

fn histograms(samples: &str) -> Vec<HistogramDataPoint> {
    match converted("histogram", samples).unwrap().data {
        Some(Data::Histogram(histogram)) => {
            assert_eq!(histogram.aggregation_temporality, CUMULATIVE);
            histogram.data_points
        }
        other => panic!("{other:?}"),
    }
}

/// Returns the samples of a histogram with these cumulative counts.
fn samples(backend: &str, below: [u64; 3]) -> String {
    let [first, second, all] = below;
    format!(
        "x_sum{{backend=\"{backend}\"}} 0.75\nx_count{{backend=\"{backend}\"}} 5\n\
         x_bucket{{le=\"0.001\",backend=\"{backend}\"}} {first}\n\
         x_bucket{{le=\"0.5\",backend=\"{backend}\"}} {second}\n\
         x_bucket{{le=\"+Inf\",backend=\"{backend}\"}} {all}\n"
    )
}

#[test]
fn names_descriptions_and_units_are_kept() {
    for (page, otlp) in [("seconds", "s"), ("bytes", "By"), ("ratio", "ratio")] {
        let metric = converted("gauge", &format!("# UNIT x {page}\nx 1.0")).unwrap();
        assert_eq!(metric.unit, otlp);
        assert_eq!((&*metric.name, &*metric.description), ("x", "What it is."));
    }
    assert_eq!(converted("gauge", "x 1.0").unwrap().unit, "");
}

#[test]
fn counters_are_monotonic_sums_that_have_a_start() {
    let mut starts = StartTimes::default();
    let later = NOW + Duration::from_secs(1);
    let mut seen = Vec::new();
    for (now, value) in [(NOW, 18_000), (later, 18_003)] {
        let sample = format!("x_total{{backend=\"a\"}} {value}");
        let Some(Data::Sum(sum)) = at(now, &mut starts, "counter", &sample).unwrap().data else {
            panic!("no sum");
        };
        assert!(sum.is_monotonic && sum.aggregation_temporality == CUMULATIVE);
        let point = &sum.data_points[0];
        assert_eq!(point.attributes, [attribute("backend", "a")]);
        let times = (point.start_time_unix_nano, point.time_unix_nano);
        seen.push((times, point.value));
    }
    let [now, later] = [NOW, later].map(|time| u64::try_from(time.as_nanos()).unwrap());
    let expected = [
        ((now, now), Some(Number::AsInt(18_000))),
        ((now, later), Some(Number::AsInt(18_003))),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn gauges_have_no_start_and_whole_numbers_stay_whole() {
    for (text, number) in [
        ("4.0", Number::AsDouble(4.0)),
        ("4", Number::AsInt(4)),
        ("-4", Number::AsInt(-4)),
        ("0.0015", Number::AsDouble(0.0015)),
        ("18446744073709551615", Number::AsDouble(u64::MAX as f64)),
        ("+Inf", Number::AsDouble(f64::INFINITY)),
    ] {
        let metric = converted("gauge", &format!("x {text}")).unwrap();
        let Some(Data::Gauge(gauge)) = metric.data else {
            panic!("{metric:?}");
        };
        let point = &gauge.data_points[0];
        assert_eq!((point.value, point.start_time_unix_nano), (Some(number), 0));
    }
}

#[test]
fn buckets_count_what_is_in_them_and_the_last_has_no_bound() {
    let both = samples("a", [2, 4, 5]) + &samples("b", [0, 0, 1]);
    let points = histograms(&both);
    let point = &points[0];
    assert_eq!(points.len(), 2);
    assert_eq!(point.explicit_bounds, [0.001, 0.5]);
    assert_eq!(point.bucket_counts, [2, 2, 1]);
    assert_eq!((point.count, point.sum), (5, Some(0.75)));
    assert_eq!(point.attributes, [attribute("backend", "a")]);
    assert_eq!(point.start_time_unix_nano, point.time_unix_nano);
    assert_eq!(points[1].bucket_counts, [0, 0, 1]);
    assert_eq!(points[1].attributes, [attribute("backend", "b")]);
}

#[test]
fn a_count_is_always_that_of_all_buckets() {
    let point = &histograms(&samples("a", [2, 4, 7]))[0];
    assert_eq!(point.count, 7);
    assert_eq!(point.count, point.bucket_counts.iter().sum::<u64>());
}

#[test]
fn histograms_that_do_not_hold_are_left_out() {
    let whole = samples("a", [2, 4, 5]);
    let cut: Vec<&str> = whole.lines().take(4).collect();
    assert!(histograms(&cut.join("\n")).is_empty());
    assert!(histograms(&samples("a", [2, 1, 5])).is_empty());
}

#[test]
fn families_without_samples_and_of_other_kinds_are_left_out() {
    assert_eq!(converted("counter", ""), None);
    assert_eq!(converted("info", "x_info 1"), None);
}
