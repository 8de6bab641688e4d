//! Metric families from measurements of packets in mode `nat`.

use std::{fmt, time::Duration};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use steer_common::abi::{Measure, bucket_start};
use steer_core::{control::MemberPassive, domain::latency::Histogram};

use super::writer::{Writer, family};

/// Data-path buckets at which the page's buckets start: two per power of two, from 1 ms to 50 s.
/// Their bounds are bounds of the data path, so that nothing is counted in the wrong bucket.
const FIRST: u32 = 64;
const LAST: u32 = 188;
const STEP: usize = 4;

#[derive(Debug)]
pub(super) struct Passive(pub(super) Vec<MemberPassive>);

const fn described(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::Connect => (
            "steer_member_connect",
            "Time from a connection's SYN to the backend's SYN-ACK, seen by the node.",
        ),
        Measure::FirstByte => (
            "steer_member_first_byte",
            "Time from the first byte of a request to the first byte of its answer.",
        ),
        Measure::SecondBurst => (
            "steer_member_second_burst",
            "Time from the first byte of a request to the second burst of its answer.",
        ),
        Measure::Gap => (
            "steer_member_gap",
            "Time between later bursts of an answer: with streamed tokens, between tokens.",
        ),
    }
}

impl Collector for Passive {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Writer(encoder);
        for measure in Measure::ALL {
            let (name, help) = described(measure);
            // Members without flows are omitted: thousands of them would dominate the page.
            let each = self.0.iter().filter_map(|member| {
                let histogram = member.passive.total.histogram(measure);
                let sum = histogram.sum().as_secs_f64();
                (histogram.count() > 0).then(|| (labels(member), sum, buckets(histogram)))
            });
            page.histograms(family(name, help).seconds(), each)?;
        }
        let counts =
            |value: fn(&MemberPassive) -> u64| self.0.iter().map(move |m| (labels(m), value(m)));
        page.counters(
            family(
                "steer_member_accepted_flows",
                "Connections accepted by the backend.",
            ),
            counts(|m| m.passive.signals.accepted),
        )?;
        page.counters(
            family(
                "steer_member_refused_flows",
                "Connections refused by the backend: nothing listens on the port.",
            ),
            counts(|m| m.passive.signals.refused),
        )?;
        page.counters(
            family(
                "steer_member_unanswered_flows",
                "Connections whose SYN was repeated because no answer arrived in time.",
            ),
            counts(|m| m.passive.signals.unanswered),
        )?;
        page.counters(
            family(
                "steer_member_reset_flows",
                "Connections reset by the backend after it had answered.",
            ),
            counts(|m| m.passive.signals.resets),
        )?;
        let gauges = |value: fn(&MemberPassive) -> u32| {
            let each = self.0.iter();
            each.map(move |m| (labels(m), f64::from(value(m))))
        };
        page.gauges(
            family(
                "steer_member_waiting_flows",
                "Connections that wait for an answer.",
            ),
            gauges(|m| m.passive.waiting.flows),
        )?;
        page.gauges(
            family(
                "steer_member_silent_flows",
                "Connections that have waited for an answer for longer than `silence` of the \
                 configuration.",
            ),
            gauges(|m| m.passive.waiting.silent),
        )
    }
}

fn labels(member: &MemberPassive) -> [(&'static str, &str); 2] {
    [("service", &member.service), ("backend", &member.backend)]
}

/// Returns the cumulative counts by upper bound in seconds; the last bucket contains everything
/// longer.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounds = (FIRST..=LAST).step_by(STEP).map(bucket_start);
    let mut buckets: Vec<(u64, u64)> = bounds.map(|bound| (bound, 0)).collect();
    let mut longer = 0;
    for (end, count) in histogram.buckets() {
        let end = u64::try_from(Duration::as_nanos(&end)).unwrap_or(u64::MAX);
        let place = buckets.partition_point(|(bound, _)| *bound < end);
        match buckets.get_mut(place) {
            Some((_, sum)) => *sum += count,
            None => longer += count,
        }
    }
    let seconds = buckets
        .into_iter()
        .map(|(bound, count)| (bound as f64 / 1e9, count));
    seconds.chain([(f64::INFINITY, longer)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_buckets_that_their_bounds_say() {
        let mut histogram = Histogram::default();
        let times = [1, 900, 3_000, 3_000, 40_000, 900_000, 70_000_000];
        for micros in times {
            histogram.record(Duration::from_micros(micros));
        }
        let buckets = buckets(&histogram);
        assert_eq!(
            buckets.iter().map(|(_, count)| count).sum::<u64>(),
            times.len() as u64
        );
        assert_eq!(buckets.last().unwrap().1, 1);
        let mut below = 0;
        for (bound, count) in buckets {
            below += count;
            let really = times
                .iter()
                .filter(|micros| (**micros as f64) < bound * 1e6)
                .count();
            assert_eq!(below, really as u64, "{bound}");
        }
    }

    #[test]
    fn bounds_are_apart_by_half_at_most() {
        let bounds: Vec<f64> = buckets(&Histogram::default())
            .into_iter()
            .map(|(b, _)| b)
            .collect();
        assert!((0.001..0.0012).contains(&bounds[0]), "{bounds:?}");
        assert!(bounds[bounds.len() - 2] > 30.0, "{bounds:?}");
        let apart = bounds[..bounds.len() - 1].windows(2);
        assert!(apart.into_iter().all(|b| b[1] / b[0] <= 1.51), "{bounds:?}");
    }
}
