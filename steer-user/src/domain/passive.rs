//! What the data path sees of a backend, besides all probes: connections that are refused, those that
//! nobody answers, and silence.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steer_probe::probe::confirmation::Outcome;

use super::{
    confirmation::Confirmation,
    evidence::{Evidence, Proof, Testimony},
    outliers::Reason as OutlierReason,
    silence::{self, Around, Silence, Traffic},
};

/// So many refused connections without an accepted one between them: nobody listens there.
const REFUSED: u64 = 2;
/// So many connections whose SYN had to be repeated, without an accepted one between them.
const UNANSWERED: u64 = 3;
/// The same where a connection of this node's own was not answered either.
const CORROBORATED: u64 = 1;
/// Longest time from one trial of a backend that refuses this node's connections to the next.
const RETRIED: Duration = Duration::from_secs(2);
/// How long a backend is left out the first time; then twice as long each time.
const FIRST: Duration = Duration::from_secs(1);
/// The same of one that is silent: if it answers what it was asked before, it is back at once.
const FIRST_SILENT: Duration = Duration::from_secs(5);
/// An outlier is ejected for so long, times the number of its ejections.
const FIRST_OUTLIER: Duration = Duration::from_secs(30);
/// And for no longer than this.
const LONGEST_OUTLIER: Duration = Duration::from_secs(300);
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
    /// What went by.
    #[serde(flatten)]
    pub traffic: Traffic,
}

impl Counts {
    /// What came since other counts; `None` if they began anew meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            refused: self.refused.checked_sub(before.refused)?,
            unanswered: self.unanswered.checked_sub(before.unanswered)?,
            accepted: self.accepted.checked_sub(before.accepted)?,
            traffic: self.traffic.since(&before.traffic)?,
        })
    }

    /// The sum of both.
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

/// Why a backend is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It refuses connections.
    Refused,
    /// It does not answer them.
    Unanswered,
    /// It is silent with work in flight.
    Silent,
    /// It resets connections after it accepted them.
    Resets,
    /// It ends connections without an answer.
    EndsEarly,
    /// It answers much less than its peers, and faster or not to the end.
    TinyAnswers,
}

impl From<OutlierReason> for Reason {
    fn from(reason: OutlierReason) -> Self {
        match reason {
            OutlierReason::Resets => Self::Resets,
            OutlierReason::EndsEarly => Self::EndsEarly,
            OutlierReason::TinyAnswers => Self::TinyAnswers,
        }
    }
}

impl Reason {
    /// Whether it is judged by comparison with its peers.
    fn is_outlier(self) -> bool {
        matches!(self, Self::Resets | Self::EndsEarly | Self::TinyAnswers)
    }

    /// Its name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Silent => "silent",
            Self::Resets => "resets",
            Self::EndsEarly => "ends_early",
            Self::TinyAnswers => "tiny_answers",
        }
    }

    /// Whether a connection of this node's own says more.
    fn is_confirmable(self) -> bool {
        matches!(self, Self::Refused | Self::Unanswered)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "it refuses connections",
            Self::Unanswered => "it does not answer connections",
            Self::Silent => "it is silent with work in flight",
            Self::Resets => "it resets connections that it accepted",
            Self::EndsEarly => "it ends connections without an answer",
            Self::TinyAnswers => "its answers are much smaller than its peers'",
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
    /// Whether a connection of this node's own says the same.
    proven: bool,
    last: Option<Instant>,
    silence: Silence,
    confirmation: Confirmation,
}

/// A change: left out for a time, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It gets no new flows for so long.
    Out(Reason, #[serde(with = "humantime_serde")] Duration),
    /// It may be tried again.
    Again,
    /// It answers again.
    Answers,
    /// It accepts connections of this node's own again.
    Accepts,
    /// It accepts a connection of this node's own, whatever packets look like.
    Contradicted,
    /// A connection of this node's own says the same as packets.
    Proven,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Out(reason, time) => write!(f, "ejected for {} s: {reason}", time.as_secs()),
            Self::Again => f.write_str("recovered: it is tried again"),
            Self::Answers => f.write_str("recovered: it answers its clients"),
            Self::Accepts => f.write_str("recovered: it accepts connections"),
            Self::Contradicted => {
                f.write_str("contradicted: it accepts a connection of this node's own")
            }
            Self::Proven => f.write_str("confirmed: it refuses a connection of this node's own"),
        }
    }
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
    #[serde(default, skip_serializing_if = "is_unknown")]
    silence: Silence<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    proven: bool,
    #[serde(default, skip_serializing_if = "is_unasked")]
    confirmation: Confirmation<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_unasked(confirmation: &Confirmation<u64>) -> bool {
    *confirmation == Confirmation::default()
}

fn is_unknown(silence: &Silence<u64>) -> bool {
    *silence == Silence::default()
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
            last: self.last.map(&micros),
            silence: self.silence.on(&micros),
            proven: self.proven,
            confirmation: self.confirmation.on(micros),
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
            last: written.last.map(&instant),
            silence: written.silence.on(&instant),
            proven: written.proven,
            confirmation: written.confirmation.on(instant),
        }
    }

    /// Why it is left out, if it is.
    #[must_use]
    pub fn out(&self) -> Option<Reason> {
        self.out.map(|(reason, _)| reason)
    }

    /// Whether it is ejected for failing more often than its peers.
    #[must_use]
    pub fn is_outlier(&self) -> bool {
        self.out().is_some_and(Reason::is_outlier)
    }

    /// Whether time alone may change something.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.out.is_some() || self.silence.is_waiting() || self.confirmation.is_waiting()
    }

    /// What packets and this node's own connections amount to while it is ejected.
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

    /// How silent it is.
    #[must_use]
    pub fn silence(&self) -> &Silence {
        &self.silence
    }

    /// Takes in what was counted since it was called last.
    pub fn observe(&mut self, new: &Counts, around: Around, now: Instant) -> Option<Verdict> {
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
                    let settled = |at: Instant| now.saturating_duration_since(at) >= FIRST;
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
        // Anybody can make packets that look so: this node asks before it believes them.
        let waits = around.confirmable && !self.confirmation.is_unanswered();
        let reason = self.by_connections().filter(|_| !waits)?;
        Some(self.eject(reason, now))
    }

    /// The reason that connections in a row give, if they are enough.
    fn by_connections(&self) -> Option<Reason> {
        let unanswered = if self.confirmation.is_unanswered() {
            CORROBORATED
        } else {
            UNANSWERED
        };
        if self.refused >= REFUSED {
            Some(Reason::Refused)
        } else if self.unanswered >= unanswered {
            Some(Reason::Unanswered)
        } else {
            None
        }
    }

    /// Whether a connection of this node's own would say more now. `is_reported` if somebody else says that it refuses
    /// connections.
    #[must_use]
    pub fn wants_connection(&self, is_reported: bool, now: Instant) -> bool {
        let in_doubt = match self.out {
            Some((reason, _)) => reason.is_confirmable() || is_reported,
            None => self.refused + self.unanswered > 0 || is_reported,
        };
        in_doubt && self.confirmation.is_ready(now)
    }

    /// Notes that a connection of this node's own is tried.
    pub fn begin_connection(&mut self, now: Instant) {
        self.confirmation.begin(now);
    }

    /// Takes in how a connection of this node's own ended.
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
                // Its clients need not try what is known.
                self.out = Some((Reason::Refused, now + RETRIED));
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

    /// Ends an ejection as an outlier: what was counted comes of its death.
    pub fn forgive_outlier(&mut self) {
        if self.out.is_some_and(|(reason, _)| reason.is_outlier()) {
            self.out = None;
        }
    }

    fn recover(&mut self) {
        self.out = None;
        self.proven = false;
        // The next ones are a trial.
        (self.refused, self.unanswered) = (0, 0);
        self.silence.begin_anew();
    }

    fn eject(&mut self, reason: Reason, now: Instant) -> Verdict {
        let quiet = |at: Instant| now.saturating_duration_since(at) >= FORGIVEN;
        if self.last.is_none_or(quiet) {
            self.times = 0;
        }
        let time = if reason.is_outlier() {
            FIRST_OUTLIER
                .saturating_mul(self.times + 1)
                .min(LONGEST_OUTLIER)
        } else {
            let first = match reason {
                Reason::Silent => FIRST_SILENT,
                _ => FIRST,
            };
            first.saturating_mul(1 << self.times.min(6)).min(LONGEST)
        };
        self.times += 1;
        self.last = Some(now);
        self.proven = false;
        self.out = Some((reason, now + time));
        Verdict::Out(reason, time)
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
            ..Counts::default()
        }
    }

    fn observe(watch: &mut Watch, counts: Counts, now: Instant) -> Option<Verdict> {
        watch.observe(&counts, Around::default(), now)
    }

    #[test]
    fn connections_refused_in_a_row_take_a_backend_out() {
        let now = Instant::now();
        let mut watch = Watch::default();
        assert_eq!(observe(&mut watch, counts(1, 0, 0), now), None);
        assert_eq!(
            observe(&mut watch, counts(1, 0, 5), now),
            None,
            "it accepts others"
        );
        assert_eq!(observe(&mut watch, counts(1, 0, 0), now), None);
        let out = Verdict::Out(Reason::Refused, FIRST);
        assert_eq!(observe(&mut watch, counts(1, 0, 0), now), Some(out));
        assert_eq!(watch.out(), Some(Reason::Refused));
    }

    #[test]
    fn it_is_tried_again_and_left_out_for_longer_each_time() {
        let mut now = Instant::now();
        let mut watch = Watch::default();
        let mut times = Vec::new();
        for _ in 0..9 {
            let Some(Verdict::Out(Reason::Unanswered, time)) =
                observe(&mut watch, counts(0, 3, 0), now)
            else {
                panic!("{watch:?}");
            };
            times.push(time.as_secs());
            assert_eq!(observe(&mut watch, counts(0, 9, 0), now + time / 2), None);
            now += time;
            assert_eq!(
                observe(&mut watch, counts(0, 0, 0), now),
                Some(Verdict::Again)
            );
        }
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += FORGIVEN;
        let out = Verdict::Out(Reason::Refused, FIRST);
        assert_eq!(observe(&mut watch, counts(2, 0, 0), now), Some(out));
    }

    #[test]
    fn a_silent_one_is_back_once_it_answers_and_tried_after_a_while() {
        let mut now = Instant::now();
        let mut watch = Watch::default();
        let around = Around {
            direct: false,
            others: true,
            well: true,
            ..Around::default()
        };
        let mut step = |watch: &mut Watch, asked, answers| {
            now += Duration::from_millis(20);
            let traffic = Traffic {
                flows: asked,
                requests: asked,
                answers,
            };
            let counts = Counts {
                traffic,
                ..Counts::default()
            };
            watch.observe(&counts, around, now)
        };
        let mut silent = |watch: &mut Watch, time: u64| {
            for _ in 0..50 {
                assert_eq!(step(watch, 1, 9), None);
            }
            let out = (0..200).find_map(|_| step(watch, 1, 0));
            let time = Duration::from_secs(time);
            assert_eq!(out, Some(Verdict::Out(Reason::Silent, time)));
        };
        silent(&mut watch, 5);
        let mut answering = watch;
        now += Duration::from_millis(500);
        assert_eq!(observe(&mut answering, counts(0, 0, 0), now), None);
        let answer = Counts {
            traffic: Traffic {
                answers: 1,
                ..Traffic::default()
            },
            ..Counts::default()
        };
        let verdict = answering.observe(&answer, around, now);
        assert_eq!((verdict, answering.out()), (Some(Verdict::Answers), None));
        now += Duration::from_secs(5);
        let verdict = observe(&mut watch, counts(0, 0, 0), now);
        assert_eq!(verdict, Some(Verdict::Again));
        assert!(!watch.is_waiting());
    }

    #[test]
    fn counts_that_began_anew_say_nothing() {
        let before = counts(5, 0, 7);
        assert_eq!(counts(6, 0, 9).since(&before), Some(counts(1, 0, 2)));
        assert_eq!(counts(0, 0, 9).since(&before), None);
        assert_eq!(counts(1, 2, 3).plus(&counts(1, 1, 1)), counts(2, 3, 4));
    }
}
