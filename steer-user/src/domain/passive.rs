//! What the data path sees of a backend, besides all probes: connections that are refused, and those
//! that nobody answers.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// So many refused connections without an accepted one between them: nobody listens there.
const REFUSED: u64 = 2;
/// So many connections whose SYN had to be repeated, without an accepted one between them.
const UNANSWERED: u64 = 3;
/// How long a backend is left out the first time; then twice as long each time.
const FIRST: Duration = Duration::from_secs(1);
/// It is never left out for longer.
const LONGEST: Duration = Duration::from_secs(60);
/// After so long without trouble it begins anew.
const FORGIVEN: Duration = Duration::from_secs(300);

/// What was counted of a backend's connections, since some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that it refused.
    pub refused: u64,
    /// Connections whose SYN was repeated because no answer came.
    pub unanswered: u64,
    /// Connections that it accepted.
    pub accepted: u64,
}

impl Counts {
    /// What came since other counts; `None` if they began anew meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            refused: self.refused.checked_sub(before.refused)?,
            unanswered: self.unanswered.checked_sub(before.unanswered)?,
            accepted: self.accepted.checked_sub(before.accepted)?,
        })
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            refused: self.refused.wrapping_add(other.refused),
            unanswered: self.unanswered.wrapping_add(other.unanswered),
            accepted: self.accepted.wrapping_add(other.accepted),
        }
    }
}

/// Why a backend is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It refuses connections.
    Refused,
    /// It does not answer them.
    Unanswered,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "it refuses connections",
            Self::Unanswered => "it does not answer connections",
        })
    }
}

/// What connections tell of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    refused: u64,
    unanswered: u64,
    times: u32,
    out: Option<(Reason, Instant)>,
    last: Option<Instant>,
}

/// A change: left out for a time, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It gets no new flows for so long.
    Out(Reason, #[serde(with = "humantime_serde")] Duration),
    /// It may be tried again.
    Again,
}

/// The same with times of a clock of its own, in microseconds, to be written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    refused: u64,
    unanswered: u64,
    times: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    out: Option<(Reason, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
}

impl Watch {
    /// As it is written down.
    #[must_use]
    pub fn write(&self, micros: impl Fn(Instant) -> u64) -> Written {
        Written {
            refused: self.refused,
            unanswered: self.unanswered,
            times: self.times,
            out: self.out.map(|(reason, until)| (reason, micros(until))),
            last: self.last.map(micros),
        }
    }

    /// As it was written down.
    #[must_use]
    pub fn read(written: &Written, instant: impl Fn(u64) -> Instant) -> Self {
        Self {
            refused: written.refused,
            unanswered: written.unanswered,
            times: written.times,
            out: written.out.map(|(reason, until)| (reason, instant(until))),
            last: written.last.map(instant),
        }
    }

    /// Why it is left out, if it is.
    #[must_use]
    pub fn out(&self) -> Option<Reason> {
        self.out.map(|(reason, _)| reason)
    }

    /// Takes in what was counted since it was called last.
    pub fn observe(&mut self, new: &Counts, now: Instant) -> Option<Verdict> {
        if new.accepted > 0 {
            (self.refused, self.unanswered) = (0, 0);
        } else {
            self.refused = self.refused.saturating_add(new.refused);
            self.unanswered = self.unanswered.saturating_add(new.unanswered);
        }
        if let Some((_, until)) = self.out {
            if now < until {
                return None;
            }
            self.out = None;
            // The next ones are a trial.
            (self.refused, self.unanswered) = (0, 0);
            return Some(Verdict::Again);
        }
        let reason = if self.refused >= REFUSED {
            Reason::Refused
        } else if self.unanswered >= UNANSWERED {
            Reason::Unanswered
        } else {
            return None;
        };
        let quiet = |at: Instant| now.saturating_duration_since(at) >= FORGIVEN;
        if self.last.is_none_or(quiet) {
            self.times = 0;
        }
        let time = FIRST.saturating_mul(1 << self.times.min(6)).min(LONGEST);
        self.times += 1;
        self.last = Some(now);
        self.out = Some((reason, now + time));
        Some(Verdict::Out(reason, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(refused: u64, unanswered: u64, accepted: u64) -> Counts {
        Counts {
            refused,
            unanswered,
            accepted,
        }
    }

    #[test]
    fn connections_refused_in_a_row_take_a_backend_out() {
        let now = Instant::now();
        let mut watch = Watch::default();
        assert_eq!(watch.observe(&counts(1, 0, 0), now), None);
        assert_eq!(
            watch.observe(&counts(1, 0, 5), now),
            None,
            "it accepts others"
        );
        assert_eq!(watch.observe(&counts(1, 0, 0), now), None);
        let out = Verdict::Out(Reason::Refused, FIRST);
        assert_eq!(watch.observe(&counts(1, 0, 0), now), Some(out));
        assert_eq!(watch.out(), Some(Reason::Refused));
    }

    #[test]
    fn it_is_tried_again_and_left_out_for_longer_each_time() {
        let mut now = Instant::now();
        let mut watch = Watch::default();
        let mut times = Vec::new();
        for _ in 0..9 {
            let Some(Verdict::Out(Reason::Unanswered, time)) = watch.observe(&counts(0, 3, 0), now)
            else {
                panic!("{watch:?}");
            };
            times.push(time.as_secs());
            assert_eq!(watch.observe(&counts(0, 9, 0), now + time / 2), None);
            now += time;
            assert_eq!(watch.observe(&counts(0, 0, 0), now), Some(Verdict::Again));
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += FORGIVEN;
        let out = Verdict::Out(Reason::Refused, FIRST);
        assert_eq!(watch.observe(&counts(2, 0, 0), now), Some(out));
    }

    #[test]
    fn counts_that_began_anew_say_nothing() {
        let before = counts(5, 0, 7);
        assert_eq!(counts(6, 0, 9).since(&before), Some(counts(1, 0, 2)));
        assert_eq!(counts(0, 0, 9).since(&before), None);
        assert_eq!(counts(1, 2, 3).plus(&counts(1, 1, 1)), counts(2, 3, 4));
    }
}
