//! The rule of evidence: the strength of each signal about a backend, and the action that it
//! allows.
//!
//! - A hint ([`Evidence::Hint`]) makes the beacon ask the engine for a tiny completion, and changes
//!   nothing by itself.
//! - [`Testimony`] that nothing contradicts allows an [`Ejection`]: no new flows, open flows
//!   continue.
//! - A [`Proof`], or two testimonies of different [`Source`]s ([`Corroborated`]), allows [`Down`]:
//!   open flows are reset.
//!
//! The actions have no other constructors, so a weak signal cannot cause a strong action. Whatever
//! the signals against a backend, answers to its clients prove that it works: it is never down
//! while it answers them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Age up to which an answer to a client contradicts a probe timeout: the probe was pending for as
/// long.
pub const RECENTLY_ANSWERED: Duration = Duration::from_millis(150);
/// Age up to which an answer to a client keeps a backend from being down.
pub const RECENTLY_SERVED: Duration = Duration::from_secs(1);
/// Duration of failing probes without an answer to any client after which a backend is down.
pub const GONE_AFTER: Duration = Duration::from_secs(5);
/// Upper bound of [`Inputs::patience`].
pub const MAX_QUESTION_WAIT: Duration = Duration::from_secs(10);

/// Signals that only the backend itself can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A TCP connection of this node's own was refused.
    ConnectionRefused,
    /// The engine did not answer a tiny completion on a fresh connection.
    CompletionFailed,
}

/// Signals reported by others, or that a third party could cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Testimony {
    /// Probes time out.
    ProbeTimeout,
    /// Probes are rejected, for instance by an ICMP error.
    ProbeRejected,
    /// Answers to probes cannot be trusted: the certificate, identity or format is wrong.
    Untrusted,
    /// The beacon reports that its backend refuses connections.
    ReportedDown,
    /// The backend reports that it takes no requests: by a status, or because it loads its model or
    /// sleeps.
    NotReady,
    /// The beacon reports that its backend accepts connections and does not answer.
    ReportedSilent,
    /// Packets suggest that the backend refuses connections.
    RefusedPackets,
    /// Packets suggest that connections are unanswered.
    UnansweredPackets,
    /// No packet comes back while work is in flight.
    SilentPackets,
    /// The backend fails much more often than its peers.
    Outlier,
    /// No client was answered for [`GONE_AFTER`].
    NobodyAnswered,
}

/// Source of a testimony. Two testimonies of one source count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Probes, and the beacon's answers to them.
    Probes,
    /// Packets of clients and backends.
    Packets,
}

/// A signal against a backend, with its strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Allows the backend to be down.
    Proof(Proof),
    /// Allows an ejection.
    Testimony(Testimony),
    /// Allows a question, which the beacon asks.
    Hint,
}

/// Two testimonies of different sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corroborated(Testimony, Testimony);

impl Corroborated {
    /// Joins two testimonies; returns `None` if they come from one source.
    #[must_use]
    pub fn join(one: Testimony, other: Testimony) -> Option<Self> {
        (one.source() != other.source()).then_some(Self(one, other))
    }
}

/// The decision to keep new flows away from a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection(Grounds);

/// The decision that a backend is down: its open flows are reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down(Grounds);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Grounds {
    Proof(Proof),
    Testimony(Testimony),
    Corroborated(Corroborated),
}

impl From<Testimony> for Ejection {
    fn from(testimony: Testimony) -> Self {
        Self(Grounds::Testimony(testimony))
    }
}

impl From<Proof> for Ejection {
    fn from(proof: Proof) -> Self {
        Self(Grounds::Proof(proof))
    }
}

impl From<Proof> for Down {
    fn from(proof: Proof) -> Self {
        Self(Grounds::Proof(proof))
    }
}

impl From<Corroborated> for Down {
    fn from(both: Corroborated) -> Self {
        Self(Grounds::Corroborated(both))
    }
}

/// A signal that overrules evidence against a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contradiction {
    /// Its clients receive answers.
    ClientsAnswered,
    /// The backend accepted a connection of this node's own.
    ConnectionAccepted,
    /// Too many backends of its pool were ejected within a minute for the same weak reason.
    PoolLimit,
}

/// Conclusion about a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No evidence against it.
    #[default]
    Serving,
    /// The evidence is contradicted, so it still takes new flows.
    Contradicted(Contradiction),
    /// The backend takes no new flows; open flows continue.
    Ejected(Ejection),
    /// The backend takes no new flows; open flows are reset.
    Down(Down),
}

/// All inputs of a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inputs {
    /// Evidence from failing probes; `None` while enough probes are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<Evidence>,
    /// Duration of the current series of failing probes.
    #[serde(with = "humantime_serde")]
    pub failing_for: Duration,
    /// Evidence from packets and this node's own connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<Evidence>,
    /// Time since the last answer to a client; `None` if none was seen.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub answered: Option<Duration>,
    /// Whether it accepted a connection of this node's own since probes began to fail.
    pub connected: bool,
    /// Whether its pool allows one more ejection by a hint and its question.
    pub pool_has_room: bool,
    /// Age up to which an answer contradicts testimony. Grows with each contradiction that came
    /// late.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Inputs {
    fn answered_within(&self, time: Duration) -> bool {
        self.answered.is_some_and(|ago| ago <= time)
    }

    fn nobody_answered(&self) -> Option<Testimony> {
        let long = self.failing_for >= GONE_AFTER && !self.answered_within(GONE_AFTER);
        long.then_some(Testimony::NobodyAnswered)
    }
}

/// Returns the verdict on a backend.
#[must_use]
pub fn verdict(inputs: &Inputs) -> Verdict {
    let served = inputs.answered_within(RECENTLY_SERVED);
    let refused = Evidence::Proof(Proof::ConnectionRefused);
    if [inputs.probes, inputs.packets].contains(&Some(refused)) {
        // A listener may be closed while open flows are still served to their end.
        return if served {
            Verdict::Ejected(Proof::ConnectionRefused.into())
        } else {
            Verdict::Down(Proof::ConnectionRefused.into())
        };
    }
    let packets = match inputs.packets {
        Some(Evidence::Testimony(testimony)) => Some(testimony),
        Some(Evidence::Proof(_) | Evidence::Hint) | None => None,
    };
    let by_probes = match inputs.probes {
        Some(Evidence::Proof(proof)) => by_completion(inputs, proof),
        Some(Evidence::Testimony(testimony)) => by_testimony(inputs, testimony, packets),
        Some(Evidence::Hint) | None => Verdict::Serving,
    };
    match (by_probes, packets) {
        (Verdict::Serving | Verdict::Contradicted(_), Some(testimony)) => {
            Verdict::Ejected(testimony.into())
        }
        (verdict, _) => verdict,
    }
}

fn by_completion(inputs: &Inputs, proof: Proof) -> Verdict {
    if inputs.answered_within(RECENTLY_SERVED.max(inputs.patience)) {
        Verdict::Contradicted(Contradiction::ClientsAnswered)
    } else if !inputs.pool_has_room {
        Verdict::Contradicted(Contradiction::PoolLimit)
    } else if inputs.answered_within(GONE_AFTER) {
        Verdict::Ejected(proof.into())
    } else {
        Verdict::Down(proof.into())
    }
}

fn by_testimony(inputs: &Inputs, testimony: Testimony, packets: Option<Testimony>) -> Verdict {
    let contradiction = match testimony {
        // Answers on open flows do not prove that new ones are accepted.
        Testimony::ReportedDown => inputs
            .connected
            .then_some(Contradiction::ConnectionAccepted),
        // It accepts connections while it loads.
        Testimony::NotReady => None,
        _ => inputs
            .answered_within(RECENTLY_ANSWERED.max(inputs.patience))
            .then_some(Contradiction::ClientsAnswered),
    };
    if let Some(contradiction) = contradiction {
        return Verdict::Contradicted(contradiction);
    }
    let other = match testimony {
        // The machine responds.
        Testimony::Untrusted | Testimony::NotReady => packets,
        _ => packets.or_else(|| inputs.nobody_answered()),
    };
    let both = other.and_then(|other| Corroborated::join(testimony, other));
    match both.filter(|_| !inputs.answered_within(RECENTLY_SERVED)) {
        Some(both) => Verdict::Down(both.into()),
        None => Verdict::Ejected(testimony.into()),
    }
}

impl Verdict {
    /// Returns whether the backend takes new flows.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self, Self::Serving | Self::Contradicted(_))
    }

    /// Returns whether open flows are reset.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Down(_))
    }

    /// Returns the proof behind an ejection or a down verdict, if there is one.
    #[must_use]
    pub fn proof(&self) -> Option<Proof> {
        match self {
            Self::Ejected(Ejection(Grounds::Proof(proof)))
            | Self::Down(Down(Grounds::Proof(proof))) => Some(*proof),
            _ => None,
        }
    }
}

impl Testimony {
    /// Returns the source of this testimony.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Self::ProbeTimeout
            | Self::ProbeRejected
            | Self::Untrusted
            | Self::ReportedDown
            | Self::NotReady
            | Self::ReportedSilent => Source::Probes,
            Self::RefusedPackets
            | Self::UnansweredPackets
            | Self::SilentPackets
            | Self::Outlier
            | Self::NobodyAnswered => Source::Packets,
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionRefused => "it refuses a connection of this node's own",
            Self::CompletionFailed => "it does not answer a tiny completion",
        })
    }
}

impl fmt::Display for Testimony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProbeTimeout => "probes time out",
            Self::ProbeRejected => "probes are rejected",
            Self::Untrusted => "answers to probes cannot be trusted",
            Self::ReportedDown => "its beacon reports that it refuses connections",
            Self::NotReady => "it reports that it takes no requests yet",
            Self::ReportedSilent => "its beacon reports that it does not answer",
            Self::RefusedPackets => "it refuses connections",
            Self::UnansweredPackets => "it does not answer connections",
            Self::SilentPackets => "it is silent with work in flight",
            Self::Outlier => "it fails much more often than its peers",
            Self::NobodyAnswered => "no client was answered for 5 s",
        })
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientsAnswered => "its clients are being answered",
            Self::ConnectionAccepted => "it accepts connections of this node's own",
            Self::PoolLimit => {
                "a third of its pool was ejected for the same reason within a minute"
            }
        })
    }
}

impl fmt::Display for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proof(proof) => proof.fmt(f),
            Self::Testimony(testimony) => testimony.fmt(f),
            Self::Corroborated(Corroborated(one, other)) => write!(f, "{one}, and {other}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::Contradicted(by) => write!(f, "serving: contradicted, {by}"),
            Self::Ejected(Ejection(grounds)) => write!(f, "ejected: {grounds}"),
            Self::Down(Down(grounds)) => write!(f, "down: {grounds}"),
        }
    }
}

#[cfg(test)]
mod tests;
