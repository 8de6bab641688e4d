//! Latencies measured from packets, as histograms.

use std::{collections::VecDeque, time::Duration};

use steer_common::abi::{BUCKETS, LatencyBuckets, Measure, Signals, bucket, bucket_start};

/// A histogram with the buckets of [`bucket`], each an eighth wide.
///
/// An empty histogram takes no memory: few of thousands of members have new flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// All counts, or an empty vector.
    counts: Vec<u64>,
}

impl Histogram {
    /// Returns the number of samples.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds a sample.
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts.resize(BUCKETS as usize, 0);
        self.counts[bucket(ns) as usize] += 1;
    }

    /// Returns the difference of two readings of the kernel's counts.
    #[must_use]
    pub fn since(now: &Counts, before: &Counts) -> Self {
        if now == before {
            return Self::default();
        }
        let each = now.iter().zip(before);
        Self {
            counts: each
                .map(|(now, before)| u64::from(now.wrapping_sub(*before)))
                .collect(),
        }
    }

    /// Adds all samples of another histogram.
    pub fn add(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
            return;
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Returns the quantile for a share from 0 to 1, as the middle of its bucket; `None` without
    /// samples.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.count();
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        let start = bucket_start(found as u32);
        let end = bucket_start(found as u32 + 1);
        Some(Duration::from_nanos(start.midpoint(end)))
    }

    /// Returns the buckets with samples: upper bound and count.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        (1..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(next, count)| (Duration::from_nanos(bucket_start(next)), *count))
    }

    /// Returns the approximate sum of all samples: each counts as the middle of its bucket.
    #[must_use]
    pub fn sum(&self) -> Duration {
        let nanoseconds = (0..).zip(&self.counts).map(|(number, count)| {
            let middle = bucket_start(number).midpoint(bucket_start(number + 1));
            u128::from(middle) * u128::from(*count)
        });
        let total: u128 = nanoseconds.sum();
        Duration::from_nanos(u64::try_from(total).unwrap_or(u64::MAX))
    }
}

/// The histograms of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Time from the SYN of a connection to the SYN-ACK.
    pub connect: Histogram,
    /// Time from the first byte of a request to the first byte of the answer.
    pub first_byte: Histogram,
    /// Time from the first byte of a request to the second burst of the answer.
    pub second_burst: Histogram,
    /// Time between later bursts.
    pub gap: Histogram,
}

impl Latencies {
    /// Returns the histogram of a measure.
    #[must_use]
    pub fn histogram(&self, measure: Measure) -> &Histogram {
        match measure {
            Measure::Connect => &self.connect,
            Measure::FirstByte => &self.first_byte,
            Measure::SecondBurst => &self.second_burst,
            Measure::Gap => &self.gap,
        }
    }

    fn histogram_mut(&mut self, measure: Measure) -> &mut Histogram {
        match measure {
            Measure::Connect => &mut self.connect,
            Measure::FirstByte => &mut self.first_byte,
            Measure::SecondBurst => &mut self.second_burst,
            Measure::Gap => &mut self.gap,
        }
    }

    /// Adds all samples of other histograms.
    pub fn add(&mut self, other: &Self) {
        for measure in Measure::ALL {
            self.histogram_mut(measure).add(other.histogram(measure));
        }
    }
}

/// Counts of one kernel histogram.
pub type Counts = [u32; BUCKETS as usize];

/// Number of readings that count as recent.
const RECENT_READINGS: usize = 6;

/// Successive readings of the histograms of a member.
///
/// The kernel's counts are modulo 2^32, so only differences between readings are used.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    last: LatencyBuckets,
    total: Latencies,
    recent: VecDeque<Latencies>,
}

impl Readings {
    /// Records a reading, summed over CPUs modulo 2^32.
    pub fn add_reading(&mut self, reading: &LatencyBuckets) {
        let new = self.news(reading);
        self.last = *reading;
        self.total.add(&new);
        if self.recent.len() == RECENT_READINGS {
            self.recent.pop_front();
        }
        self.recent.push_back(new);
    }

    /// Returns [`Self::total`] and [`Self::recent`] including one reading outside the ten-second
    /// schedule.
    #[must_use]
    pub fn with(&self, reading: &LatencyBuckets) -> [Latencies; 2] {
        let new = self.news(reading);
        [self.total.clone(), self.recent()].map(|mut latencies| {
            latencies.add(&new);
            latencies
        })
    }

    /// Returns the difference to the last reading.
    fn news(&self, reading: &LatencyBuckets) -> Latencies {
        let of = |measure: Measure| {
            let index = measure as usize;
            Histogram::since(&reading.0[index], &self.last.0[index])
        };
        Latencies {
            connect: of(Measure::Connect),
            first_byte: of(Measure::FirstByte),
            second_burst: of(Measure::SecondBurst),
            gap: of(Measure::Gap),
        }
    }

    /// Returns all samples since the first reading, including those of the first one.
    #[must_use]
    pub fn total(&self) -> &Latencies {
        &self.total
    }

    /// Returns the number of readings in [`Self::recent`].
    #[must_use]
    pub fn recent_readings(&self) -> usize {
        self.recent.len()
    }

    /// Returns the samples of the last readings: one minute, at one reading every ten seconds.
    #[must_use]
    pub fn recent(&self) -> Latencies {
        let mut sum = Latencies::default();
        for latencies in &self.recent {
            sum.add(latencies);
        }
        sum
    }
}

/// Measurements of a member from the packets of its flows, in mode `nat`.
#[derive(Clone, Debug, Default)]
pub struct Passive {
    /// Latencies since the daemon started, plus the contents of the maps at that time.
    pub total: Latencies,
    /// Latencies of the last minute.
    pub recent: Latencies,
    /// Signs of trouble, counted since the maps were created; only differences are meaningful.
    pub signals: Signals,
    /// Flows that wait for an answer, from the last garbage collection.
    pub waiting: Waiting,
}

/// Flows with a request that has had no answer yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Number of such flows.
    pub flows: u32,
    /// Number of those that have waited longer than `silence` of the configuration.
    pub silent: u32,
    /// Longest wait.
    pub longest: Duration,
}

impl Waiting {
    /// Adds a flow with its wait.
    pub fn add(&mut self, waited: Duration, silence: Duration) {
        self.flows += 1;
        self.silent += u32::from(waited > silence);
        self.longest = self.longest.max(waited);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(times: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for time in times {
            histogram.record(Duration::from_micros(*time));
        }
        histogram
    }

    #[test]
    fn an_empty_one_has_no_quantile() {
        let empty = Histogram::default();
        assert_eq!(empty.quantile(0.5), None);
        assert_eq!((empty.count(), empty.sum()), (0, Duration::ZERO));
        assert_eq!(empty.buckets().count(), 0);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_bucket_of_the_true_one(
            mut times in proptest::collection::vec(20_u64..100_000_000, 1..200),
            share in 0.0_f64..=1.0,
        ) {
            let histogram = of(&times);
            times.sort_unstable();
            let rank = ((share * times.len() as f64).ceil() as usize).clamp(1, times.len());
            let exact = times[rank - 1] as f64;
            let found = histogram.quantile(share).unwrap().as_nanos() as f64 / 1000.0;
            prop_assert!((found - exact).abs() <= exact * 0.125, "{found} for {exact}");
            prop_assert_eq!(histogram.count(), times.len() as u64);
            let sum: u64 = times.iter().sum();
            let about = histogram.sum().as_micros() as f64;
            prop_assert!((about - sum as f64).abs() <= sum as f64 * 0.0625 + 1.0);
        }
    }

    #[test]
    fn readings_go_on_where_the_kernels_counts_wrap() {
        let mut readings = Readings::default();
        let mut reading = LatencyBuckets::default();
        reading.0[Measure::Gap as usize][20] = u32::MAX;
        readings.add_reading(&reading);
        reading.0[Measure::Gap as usize][20] = 4;
        readings.add_reading(&reading);
        let expected = u64::from(u32::MAX) + 5;
        assert_eq!(readings.total().gap.count(), expected);
        assert_eq!(readings.total().connect.count(), 0);
        // A minute later, only the total still contains it.
        for _ in 0..RECENT_READINGS {
            readings.add_reading(&reading);
        }
        assert_eq!(readings.recent().gap.count(), 0);
        assert_eq!(readings.total().gap.count(), expected);
    }
}
