//! Latencies as packets tell them, in histograms.

use std::{collections::VecDeque, time::Duration};

use steer_common::abi::{BUCKETS, Measure, Measured, Signals, bucket, bucket_start};

/// How often times fell into which bucket. The buckets are those of [`bucket`]: an eighth wide.
///
/// One without times takes no memory: of thousands of members few have new flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// All of them, or none.
    counts: Vec<u64>,
}

impl Histogram {
    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds a time.
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts.resize(BUCKETS as usize, 0);
        self.counts[bucket(ns) as usize] += 1;
    }

    /// What is in a reading of the kernel's counts since one before.
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

    /// Adds all times of another one.
    pub fn add(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
            return;
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// The time that this share of all times, from 0 to 1, does not exceed: the middle of its bucket.
    /// `None` if there is none.
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

    /// The buckets that hold any time, by where they end, with how many they hold.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        (1..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(next, count)| (Duration::from_nanos(bucket_start(next)), *count))
    }

    /// About the sum of all times: each counts as the middle of its bucket.
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
    /// From a connection's SYN to the SYN-ACK.
    pub connect: Histogram,
    /// From a request's first byte to the first byte that comes back.
    pub first_byte: Histogram,
    /// From a request's first byte to the second burst that comes back.
    pub second_burst: Histogram,
    /// Between later bursts.
    pub gap: Histogram,
}

impl Latencies {
    /// One of them.
    #[must_use]
    pub fn of(&self, measure: Measure) -> &Histogram {
        match measure {
            Measure::Connect => &self.connect,
            Measure::FirstByte => &self.first_byte,
            Measure::SecondBurst => &self.second_burst,
            Measure::Gap => &self.gap,
        }
    }

    fn of_mut(&mut self, measure: Measure) -> &mut Histogram {
        match measure {
            Measure::Connect => &mut self.connect,
            Measure::FirstByte => &mut self.first_byte,
            Measure::SecondBurst => &mut self.second_burst,
            Measure::Gap => &mut self.gap,
        }
    }

    /// Adds all times of others.
    pub fn add(&mut self, other: &Self) {
        for measure in Measure::ALL {
            self.of_mut(measure).add(other.of(measure));
        }
    }
}

/// One of the kernel's histograms.
pub type Counts = [u32; BUCKETS as usize];

/// How long "recent" is, in readings.
const RECENT: usize = 6;

/// What was read of a member, one reading after the other.
///
/// The kernel's counts are modulo 2^32, so what counts is what is new in each reading.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    last: Measured,
    total: Latencies,
    recent: VecDeque<Latencies>,
}

impl Readings {
    /// Takes a reading, summed over CPUs modulo 2^32.
    pub fn take(&mut self, reading: &Measured) {
        let new = self.news(reading);
        self.last = *reading;
        self.total.add(&new);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(new);
    }

    /// [`Self::total`] and [`Self::recent`] as they are with a reading besides those that are taken every ten seconds.
    #[must_use]
    pub fn with(&self, reading: &Measured) -> [Latencies; 2] {
        let new = self.news(reading);
        [self.total.clone(), self.recent()].map(|mut latencies| {
            latencies.add(&new);
            latencies
        })
    }

    /// What is new since the last reading.
    fn news(&self, reading: &Measured) -> Latencies {
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

    /// All since the first reading, and what the first one held.
    #[must_use]
    pub fn total(&self) -> &Latencies {
        &self.total
    }

    /// How many readings [`Self::recent`] consists of.
    #[must_use]
    pub fn recent_readings(&self) -> usize {
        self.recent.len()
    }

    /// Those of the last readings: a minute's, as they are taken every ten seconds.
    #[must_use]
    pub fn recent(&self) -> Latencies {
        let mut sum = Latencies::default();
        for latencies in &self.recent {
            sum.add(latencies);
        }
        sum
    }
}

/// What the packets of a member's flows tell of it, under mode `nat`.
#[derive(Clone, Debug, Default)]
pub struct Passive {
    /// Latencies since the daemon began, and what the maps held then.
    pub total: Latencies,
    /// Latencies of the last minute.
    pub recent: Latencies,
    /// Signs of trouble, counted since the maps were made: compare two readings.
    pub signals: Signals,
    /// Flows as the last sweep found them.
    pub waiting: Waiting,
}

/// Flows with a request that nothing came back for yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many there are.
    pub flows: u32,
    /// How many of them have waited for longer than `silence` of the configuration.
    pub silent: u32,
    /// How long the longest has waited.
    pub longest: Duration,
}

impl Waiting {
    /// Adds a flow that has waited for so long.
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
        let mut reading = Measured::default();
        reading.0[Measure::Gap as usize][20] = u32::MAX;
        readings.take(&reading);
        reading.0[Measure::Gap as usize][20] = 4;
        readings.take(&reading);
        let expected = u64::from(u32::MAX) + 5;
        assert_eq!(readings.total().gap.count(), expected);
        assert_eq!(readings.total().connect.count(), 0);
        // A minute later only the sum still knows of it.
        for _ in 0..RECENT {
            readings.take(&reading);
        }
        assert_eq!(readings.recent().gap.count(), 0);
        assert_eq!(readings.total().gap.count(), expected);
    }
}
