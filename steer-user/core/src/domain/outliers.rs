//! Outlier detection: finds backends that fail much more often than their peers, from counts of the
//! data path.
//!
//! A backend is compared with the median of the other backends of its pool. One liar or one broken
//! peer therefore changes nothing, and a failure that all of them share is not blamed on one.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::load::WHOLE;

/// Span of the counts that are compared.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Interval between the snapshots of a window.
pub const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);
/// Number of failures below which weights stay unchanged.
const MIN_FAILURES: u64 = 3;
/// Number of failures that ejects a backend if most of its connections fail.
const MIN_EJECTING_FAILURES: u64 = 5;
/// Share of failed connections that an ejection requires.
const MIN_EJECTING_SHARE: u32 = WHOLE / 2;
/// Excess over the share of its peers that an ejection requires.
const MIN_EXCESS: u32 = WHOLE / 10;
/// Connections or requests that a backend needs for its ratios to be compared.
const MIN_VOLUME: u64 = 4;
/// Divisor of the peers' answer size below which answers are tiny.
const TINY_ANSWER_FACTOR: u64 = 4;
/// Divisor of the peers' time to answer below which answers are fast.
const FAST_ANSWER_FACTOR: u32 = 4;

/// Counts of a backend over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Connections that it accepted.
    pub accepted: u64,
    /// Connections that it reset after it accepted them.
    pub resets: u64,
    /// Connections that it ended before it sent an answer.
    pub ended_early: u64,
    /// Requests started.
    pub requests: u64,
    /// Bytes of answers.
    pub answer_bytes: u64,
}

impl Tally {
    /// Returns the difference to earlier counts; a counter that was reset counts as zero.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            accepted: self.accepted.saturating_sub(before.accepted),
            resets: self.resets.saturating_sub(before.resets),
            ended_early: self.ended_early.saturating_sub(before.ended_early),
            requests: self.requests.saturating_sub(before.requests),
            answer_bytes: self.answer_bytes.saturating_sub(before.answer_bytes),
        }
    }

    /// Returns the number of failed connections.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.resets + self.ended_early
    }

    /// Returns the share of failed connections, in parts of [`WHOLE`]. Connections that began
    /// before the window may end in it.
    #[must_use]
    pub fn failure_share(&self) -> u32 {
        let all = self.accepted.max(self.failures()).max(1);
        (self.failures() * u64::from(WHOLE) / all) as u32
    }

    fn bytes_per_request(&self) -> Option<u64> {
        (self.requests >= MIN_VOLUME).then(|| self.answer_bytes / self.requests)
    }
}

/// Snapshots of the last [`WINDOW`].
#[derive(Clone, Debug, Default)]
pub struct Window(VecDeque<Tally>);

impl Window {
    /// Adds a snapshot of all counts, once per [`SNAPSHOT_EVERY`].
    pub fn push(&mut self, all: Tally) {
        let most = (WINDOW.as_millis() / SNAPSHOT_EVERY.as_millis()) as usize;
        if self.0.len() >= most {
            self.0.pop_front();
        }
        self.0.push_back(all);
    }

    /// Returns the counts of the window, given the current totals.
    #[must_use]
    pub fn tally(&self, all: &Tally) -> Tally {
        let before = self.0.front().unwrap_or(all);
        all.since(before)
    }

    /// Clears the window.
    pub fn clear(&mut self, all: Tally) {
        self.0.clear();
        self.0.push_back(all);
    }
}

/// Medians of a backend's peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Number of peers with enough connections for a comparison.
    pub count: u32,
    /// Share of failed connections, in parts of [`WHOLE`].
    pub failure_share: u32,
    /// Bytes of answers per request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_request: Option<u64>,
}

impl Peers {
    /// Returns the medians of peers, which must not include the backend itself.
    #[must_use]
    pub fn summarize(peers: impl Iterator<Item = Tally>) -> Self {
        let mut shares = Vec::new();
        let mut bytes = Vec::new();
        for peer in peers {
            if peer.accepted.max(peer.requests) >= MIN_VOLUME {
                shares.push(peer.failure_share());
            }
            bytes.extend(peer.bytes_per_request());
        }
        Self {
            count: shares.len() as u32,
            failure_share: median(&mut shares).unwrap_or(0),
            bytes_per_request: median(&mut bytes),
        }
    }
}

/// Returns the median. With two values in the middle it returns the larger one, because only a
/// large difference counts in either direction.
#[must_use]
pub fn median<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Answer times of a backend with tiny answers and of its peers, as the data path measured them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// Median of its times to the first byte in microseconds.
    pub own_us: u32,
    /// Median of its peers' medians.
    pub peers_us: u32,
    /// Whether all of its answers end after the first burst, for much longer than its peers take
    /// until the second one.
    pub ends_at_once: bool,
}

/// Kind of an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The backend resets connections that it accepted.
    Resets,
    /// The backend ends connections without an answer.
    EndsEarly,
    /// Its answers are much smaller than its peers', and faster or incomplete.
    TinyAnswers,
}

/// An outlier, with the figures it was judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlier {
    /// Kind of the outlier.
    pub reason: Reason,
    /// Its recent connections and requests.
    pub own: Tally,
    /// Medians of its peers.
    pub peers: Peers,
    /// Comparison of answer times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
}

/// Compares the recent connections and requests of a backend with those of its peers.
#[must_use]
pub fn compare(recent: &Tally, peers: &Peers, speed: Option<Speed>) -> Option<Outlier> {
    if peers.count == 0 {
        return None;
    }
    let found = |reason| {
        Some(Outlier {
            reason,
            own: *recent,
            peers: *peers,
            speed,
        })
    };
    let share = recent.failure_share();
    let is_worse = share >= peers.failure_share.saturating_add(MIN_EJECTING_SHARE / 2);
    if recent.failures() >= MIN_EJECTING_FAILURES && share >= MIN_EJECTING_SHARE && is_worse {
        let reason = if recent.resets >= recent.ended_early {
            Reason::Resets
        } else {
            Reason::EndsEarly
        };
        return found(reason);
    }
    let is_fast = speed.is_some_and(|s| {
        s.ends_at_once || s.own_us.saturating_mul(FAST_ANSWER_FACTOR) < s.peers_us
    });
    if is_fast && is_tiny(recent, peers) {
        return found(Reason::TinyAnswers);
    }
    None
}

/// Returns whether its answers are so much smaller than its peers' that answer times must be
/// compared.
#[must_use]
pub fn is_tiny(own: &Tally, peers: &Peers) -> bool {
    match (own.bytes_per_request(), peers.bytes_per_request) {
        (Some(own), Some(peers)) => own.saturating_mul(TINY_ANSWER_FACTOR) < peers,
        _ => false,
    }
}

/// Returns the part of its weight that a backend loses because it fails more often than its peers,
/// in parts of [`WHOLE`], rounded to tenths: fast failure must not attract flows.
#[must_use]
pub fn lost_weight(own: &Tally, peers: &Peers) -> u32 {
    let excess = own.failure_share().saturating_sub(peers.failure_share);
    if own.failures() < MIN_FAILURES || peers.count == 0 || excess < MIN_EXCESS {
        return 0;
    }
    excess / MIN_EXCESS * MIN_EXCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(accepted: u64, resets: u64, ended_early: u64) -> Tally {
        Tally {
            accepted,
            resets,
            ended_early,
            requests: accepted,
            answer_bytes: accepted * 20_000,
        }
    }

    #[test]
    fn resets_and_early_ends_above_the_peers_make_an_outlier() {
        let well = [tally(60, 0, 0), tally(50, 1, 0)];
        let peers = Peers::summarize(well.into_iter());
        let reason = |own| compare(&own, &peers, None).map(|outlier| outlier.reason);
        assert_eq!(reason(tally(6, 5, 0)), Some(Reason::Resets));
        assert_eq!(reason(tally(6, 0, 6)), Some(Reason::EndsEarly));
        assert_eq!(reason(tally(4, 4, 0)), None, "four may be chance");
        assert_eq!(reason(tally(60, 20, 0)), None, "a third only lowers it");
        assert_eq!(lost_weight(&tally(60, 20, 0), &peers), 3 * WHOLE / 10);
        assert_eq!(lost_weight(&tally(60, 3, 0), &peers), 0);
        // All of them do it: this is normal for the service.
        let peers = Peers::summarize([tally(60, 50, 0), tally(50, 44, 0)].into_iter());
        assert_eq!(compare(&tally(60, 55, 0), &peers, None), None);
        assert_eq!(compare(&tally(60, 60, 0), &Peers::default(), None), None);
    }

    #[test]
    fn small_answers_count_only_if_they_are_fast_as_well() {
        let peers = Peers::summarize([tally(50, 0, 0); 2].into_iter());
        let own = Tally {
            answer_bytes: 8 * 250,
            ..tally(8, 0, 0)
        };
        assert!(is_tiny(&own, &peers));
        let speed = |own_us| {
            Some(Speed {
                own_us,
                peers_us: 60_000,
                ends_at_once: false,
            })
        };
        let reason = |speed| compare(&own, &peers, speed).map(|outlier| outlier.reason);
        assert_eq!(reason(None), None, "it may be at a long prompt");
        assert_eq!(reason(speed(50_000)), None);
        assert_eq!(reason(speed(900)), Some(Reason::TinyAnswers));
        let ends_at_once = speed(60_000).map(|speed| Speed {
            ends_at_once: true,
            ..speed
        });
        assert_eq!(reason(ends_at_once), Some(Reason::TinyAnswers));
        let usual = Tally {
            answer_bytes: 8 * 9_000,
            ..own
        };
        assert_eq!(compare(&usual, &peers, speed(900)), None, "it is just fast");
    }

    #[test]
    fn a_window_forgets() {
        let mut window = Window::default();
        let mut all = Tally::default();
        for second in 0..30 {
            all.accepted += 10;
            all.resets += u64::from(second < 5);
            window.push(all);
        }
        let found = window.tally(&all);
        assert_eq!((found.accepted, found.resets), (90, 0));
        window.clear(all);
        assert_eq!(window.tally(&all), Tally::default());
    }
}
