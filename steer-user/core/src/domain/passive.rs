//! Passive health of a backend, seen by the data path: refused connections, unanswered connections,
//! and silence.

mod reason;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steer_probe::probe::confirmation::Outcome;

pub use self::reason::Reason;
use super::{
    confirmation::Confirmation,
    evidence::{Evidence, Proof, Testimony},
    silence::{self, PeerTraffic, Silence, Traffic},
};

/// Consecutive refused connections after which a backend counts as refusing.
const MIN_REFUSED: u64 = 2;
/// Consecutive connections with a repeated SYN after which a backend counts as unanswering.
const MIN_UNANSWERED: u64 = 3;
/// The same threshold if a connection of this node's own was unanswered as well.
const MIN_CORROBORATED: u64 = 1;
/// Longest interval between connections to a backend that refuses this node's connections.
const RETRY_WINDOW: Duration = Duration::from_secs(2);
/// Duration of the first ejection; doubled each time.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// Duration of the first ejection for silence: a late answer ends it at once.
const FIRST_SILENT_EJECTION: Duration = Duration::from_secs(5);
/// Duration of an outlier's ejection, multiplied by the number of its ejections.
const FIRST_OUTLIER_EJECTION: Duration = Duration::from_secs(30);
/// Upper bound of an outlier's ejection.
const MAX_OUTLIER_EJECTION: Duration = Duration::from_secs(300);
/// Upper bound of other ejections.
const MAX_EJECTION: Duration = Duration::from_secs(60);
/// Time without trouble after which the duration is reset.
const EJECTION_MEMORY: Duration = Duration::from_secs(300);

/// Counts of a backend's connections over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections refused.
    pub refused: u64,
    /// Connections whose SYN was repeated because no answer came.
    pub unanswered: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Requests and answers.
    #[serde(flatten)]
    pub traffic: Traffic,
}

impl Counts {
    /// Returns the difference to earlier counts; `None` if the counters were reset meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            refused: self.refused.checked_sub(before.refused)?,
            unanswered: self.unanswered.checked_sub(before.unanswered)?,
            accepted: self.accepted.checked_sub(before.accepted)?,
            traffic: self.traffic.since(&before.traffic)?,
        })
    }

    /// Returns the sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            refused: self.refused.wrapping_add(other.refused),
            unanswered: self.unanswered.wrapping_add(other.unanswered),
            accepted: self.accepted.wrapping_add(other.accepted),
            traffic: self.traffic.plus(&other.traffic),
        }
    }
}

/// Passive health of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    refused: u64,
    unanswered: u64,
    times: u32,
    /// Ejections as an outlier, which last longer and are counted apart.
    outlier_times: u32,
    out: Option<(Reason, Instant)>,
    /// Whether a connection of this node's own confirmed the ejection.
    proven: bool,
    last: Option<Instant>,
    silence: Silence,
    confirmation: Confirmation,
}

/// A change of passive health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Ejected for a time: no new flows.
    Out(Reason, #[serde(with = "humantime_serde")] Duration),
    /// The ejection ended; new flows test the backend.
    Again,
    /// The backend answers again.
    Answers,
    /// The backend accepts connections of this node's own again.
    Accepts,
    /// The backend accepts a connection of this node's own, contrary to what packets suggest.
    Contradicted,
    /// A connection of this node's own confirms what packets suggest.
    Proven,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Out(reason, time) => write!(f, "ejected for {} s: {reason}", time.as_secs()),
            Self::Again => f.write_str("recovered: new flows test it"),
            Self::Answers => f.write_str("recovered: it answers its clients"),
            Self::Accepts => f.write_str("recovered: it accepts connections"),
            Self::Contradicted => {
                f.write_str("contradicted: it accepts a connection of this node's own")
            }
            Self::Proven => f.write_str("confirmed: it refuses a connection of this node's own"),
        }
    }
}

/// The serialized state, with times in microseconds of a clock of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    refused: u64,
    unanswered: u64,
    times: u32,
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    outlier_times: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    out: Option<(Reason, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(default, skip_serializing_if = "is_unknown")]
    silence: Silence<u64>,
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    proven: bool,
    #[serde(default, skip_serializing_if = "is_unasked")]
    confirmation: Confirmation<u64>,
}

fn is_unasked(confirmation: &Confirmation<u64>) -> bool {
    *confirmation == Confirmation::default()
}

fn is_unknown(silence: &Silence<u64>) -> bool {
    *silence == Silence::default()
}

impl Watch {
    /// Returns the state in serialized form.
    #[must_use]
    pub fn write(&self, micros: impl Fn(Instant) -> u64) -> Written {
        Written {
            refused: self.refused,
            unanswered: self.unanswered,
            times: self.times,
            outlier_times: self.outlier_times,
            out: self.out.map(|(reason, until)| (reason, micros(until))),
            last: self.last.map(&micros),
            silence: self.silence.on(&micros),
            proven: self.proven,
            confirmation: self.confirmation.on(micros),
        }
    }

    /// Restores the state from its serialized form.
    #[must_use]
    pub fn read(written: &Written, instant: impl Fn(u64) -> Instant) -> Self {
        Self {
            refused: written.refused,
            unanswered: written.unanswered,
            times: written.times,
            outlier_times: written.outlier_times,
            out: written.out.map(|(reason, until)| (reason, instant(until))),
            last: written.last.map(&instant),
            silence: written.silence.on(&instant),
            proven: written.proven,
            confirmation: written.confirmation.on(instant),
        }
    }

    /// Returns the reason of the current ejection.
    #[must_use]
    pub fn ejected(&self) -> Option<Reason> {
        self.out.map(|(reason, _)| reason)
    }

    /// Returns whether it is ejected as an outlier.
    #[must_use]
    pub fn is_outlier(&self) -> bool {
        self.ejected().is_some_and(Reason::is_outlier)
    }

    /// Returns whether the passage of time alone may change the state.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.out.is_some() || self.silence.is_waiting() || self.confirmation.is_waiting()
    }

    /// Returns the evidence from packets and this node's own connections while it is ejected.
    #[must_use]
    pub fn evidence(&self) -> Option<Evidence> {
        let (reason, _) = self.out?;
        Some(match reason {
            Reason::Refused if self.proven => Evidence::Proof(Proof::ConnectionRefused),
            Reason::Refused => Evidence::Testimony(Testimony::RefusedPackets),
            Reason::Unanswered => Evidence::Testimony(Testimony::UnansweredPackets),
            Reason::Silent => Evidence::Testimony(Testimony::SilentPackets),
            Reason::Resets | Reason::EndsEarly | Reason::TinyAnswers => {
                Evidence::Testimony(Testimony::Outlier)
            }
        })
    }

    /// Returns the silence detector.
    #[must_use]
    pub fn silence(&self) -> &Silence {
        &self.silence
    }

    /// Records the counts since the last call.
    pub fn observe(&mut self, new: &Counts, around: PeerTraffic, now: Instant) -> Option<Verdict> {
        let silence = self.silence.observe(&new.traffic, around, now);
        self.confirmation.expire(now);
        if new.accepted > 0 {
            (self.refused, self.unanswered) = (0, 0);
        } else {
            self.refused = self.refused.saturating_add(new.refused);
            self.unanswered = self.unanswered.saturating_add(new.unanswered);
        }
        if let Some((reason, until)) = self.out {
            let answers = match reason {
                Reason::Silent => silence == Some(silence::Change::Answers),
                // It was busy with long prompts after all.
                Reason::TinyAnswers => {
                    let settled = |at: Instant| now.saturating_duration_since(at) >= FIRST_EJECTION;
                    self.last.is_some_and(settled) && self.silence.answered_at() == Some(now)
                }
                _ => false,
            };
            if !answers && now < until {
                return None;
            }
            self.recover();
            return Some(if answers {
                Verdict::Answers
            } else {
                Verdict::Again
            });
        }
        if silence == Some(silence::Change::Silent) {
            return Some(self.eject(Reason::Silent, now));
        }
        if let Some(outlier) = around.outlier {
            return Some(self.eject(outlier.reason.into(), now));
        }
        // Such packets can be forged by anyone: confirm them by a connection of this node's own
        // first.
        let waits = around.confirmable && !self.confirmation.is_unanswered();
        let reason = self.by_connections().filter(|_| !waits)?;
        Some(self.eject(reason, now))
    }

    /// Returns the reason that consecutive connections give, if there are enough.
    fn by_connections(&self) -> Option<Reason> {
        let unanswered = if self.confirmation.is_unanswered() {
            MIN_CORROBORATED
        } else {
            MIN_UNANSWERED
        };
        if self.refused >= MIN_REFUSED {
            Some(Reason::Refused)
        } else if self.unanswered >= unanswered {
            Some(Reason::Unanswered)
        } else {
            None
        }
    }

    /// Returns whether a connection of this node's own is useful now. `is_reported` tells that
    /// another source reports refused connections.
    #[must_use]
    pub fn wants_connection(&self, is_reported: bool, now: Instant) -> bool {
        let in_doubt = match self.out {
            Some((reason, _)) => reason.is_confirmable() || is_reported,
            None => self.refused + self.unanswered > 0 || is_reported,
        };
        in_doubt && self.confirmation.is_ready(now)
    }

    /// Records the start of a connection of this node's own.
    pub fn begin_connection(&mut self, now: Instant) {
        self.confirmation.start(now);
    }

    /// Records the outcome of a connection of this node's own.
    pub fn confirm(&mut self, outcome: Outcome, now: Instant) -> Option<Verdict> {
        self.confirmation.end(outcome, now);
        let out = self.out.map(|(reason, _)| reason);
        match outcome {
            Outcome::Connected => {
                let in_doubt = self.refused + self.unanswered > 0;
                (self.refused, self.unanswered) = (0, 0);
                if out.is_some_and(Reason::is_confirmable) {
                    self.recover();
                    return Some(Verdict::Accepts);
                }
                in_doubt.then_some(Verdict::Contradicted)
            }
            Outcome::Refused if out == Some(Reason::Refused) => {
                // Clients need not test what is already proven.
                self.out = Some((Reason::Refused, now + RETRY_WINDOW));
                let known = std::mem::replace(&mut self.proven, true);
                (!known).then_some(Verdict::Proven)
            }
            Outcome::Refused => {
                let verdict = self.eject(Reason::Refused, now);
                self.proven = true;
                Some(verdict)
            }
            Outcome::NoAnswer if out.is_none() => {
                let reason = self.by_connections()?;
                Some(self.eject(reason, now))
            }
            Outcome::NoAnswer | Outcome::NotTried => None,
        }
    }

    /// Ends an outlier's ejection: its counts result from the backend's end.
    pub fn forgive_outlier(&mut self) {
        if self.out.is_some_and(|(reason, _)| reason.is_outlier()) {
            self.out = None;
        }
    }

    fn recover(&mut self) {
        self.out = None;
        self.proven = false;
        // The next connections are a new test.
        (self.refused, self.unanswered) = (0, 0);
        self.silence.begin_anew();
    }

    fn eject(&mut self, reason: Reason, now: Instant) -> Verdict {
        let quiet = |at: Instant| now.saturating_duration_since(at) >= EJECTION_MEMORY;
        if self.last.is_none_or(quiet) {
            (self.times, self.outlier_times) = (0, 0);
        }
        let time = if reason.is_outlier() {
            self.outlier_times += 1;
            FIRST_OUTLIER_EJECTION
                .saturating_mul(self.outlier_times)
                .min(MAX_OUTLIER_EJECTION)
        } else {
            let first = match reason {
                Reason::Silent => FIRST_SILENT_EJECTION,
                _ => FIRST_EJECTION,
            };
            let time = first.saturating_mul(1 << self.times.min(6));
            self.times += 1;
            time.min(MAX_EJECTION)
        };
        self.last = Some(now);
        self.proven = false;
        self.out = Some((reason, now + time));
        Verdict::Out(reason, time)
    }
}
