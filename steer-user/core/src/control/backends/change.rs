//! Changes by a measurement, and the evidence of a failed probe.

use steer_probe::probe::{ProbeFailure, Trouble};

use crate::domain::{
    evidence::{Evidence, Proof, Testimony},
    health::{State, Transition},
    rules::Doubt,
};

/// Changes of what is known of a backend by one measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) health: Option<Transition>,
    /// The rings before and after.
    pub(crate) ring: Option<(Option<usize>, usize)>,
    pub(crate) draining: Option<bool>,
    /// Whether it is ejected for flapping.
    pub(crate) suppressed: Option<bool>,
    pub(crate) lossy: Option<bool>,
    pub(crate) hot: Option<bool>,
    /// Doubt that the last failure leaves.
    pub(crate) doubt: Option<Doubt>,
}

impl Change {
    pub(crate) fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Returns whether nothing but the hot bit changed.
    pub(crate) fn is_only_hot(&self) -> bool {
        let only_hot = Self {
            hot: self.hot,
            ..Self::default()
        };
        *self == only_hot
    }

    /// Returns whether nothing but the ring changed, and it was known before.
    pub(crate) fn is_only_ring(&self) -> bool {
        let only_ring = Self {
            ring: self.ring,
            ..Self::default()
        };
        *self == only_ring && self.ring.is_some_and(|(before, _)| before.is_some())
    }

    /// Returns whether it recovered.
    pub(crate) fn recovered(&self) -> bool {
        let rose = |t: Transition| t.from == State::Down && t.to == State::Up;
        self.health.is_some_and(rose) || self.suppressed == Some(false)
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        words.extend(
            self.health
                .map(|t| format!("health {} -> {}", t.from, t.to)),
        );
        words.extend(self.ring.map(|(from, to)| match from {
            Some(from) => format!("ring {from} -> {to}"),
            None => format!("ring {to}"),
        }));
        let flags = [
            ("draining", self.draining),
            ("ejected for flapping", self.suppressed),
            ("lossy", self.lossy),
            ("hot", self.hot),
        ];
        words.extend(flags.iter().filter_map(|(what, flag)| {
            let no = if (*flag)? { "" } else { "no longer " };
            Some(format!("{no}{what}"))
        }));
        if words.is_empty() {
            words.push("fails in another way".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

/// Doubt that a failure leaves.
pub(crate) fn doubt(failure: &ProbeFailure) -> Doubt {
    match failure {
        ProbeFailure::Tls(_) | ProbeFailure::Identity(_) | ProbeFailure::Malformed(_) => {
            Doubt::Untrusted
        }
        // Its counters may stand still, or its beacon be wrong.
        ProbeFailure::Hung { trouble, .. } if !trouble.is_unready() => Doubt::Untrusted,
        // An ICMP error comes from anybody on the way.
        ProbeFailure::Timeout | ProbeFailure::Refused(_) => Doubt::Silent,
        _ => Doubt::None,
    }
}

/// Strength of a failed probe as evidence.
pub(crate) fn evidence_of(failure: &ProbeFailure) -> Evidence {
    Evidence::Testimony(match failure {
        ProbeFailure::ConnectionRefused => return Evidence::Proof(Proof::ConnectionRefused),
        ProbeFailure::Hung { trouble, .. } => match trouble {
            Trouble::NoCompletion => return Evidence::Proof(Proof::CompletionFailed),
            Trouble::NoProgress => return Evidence::Hint,
            Trouble::Loading | Trouble::Asleep => Testimony::NotReady,
            Trouble::Silent | Trouble::Other => Testimony::ReportedSilent,
        },
        // It says so itself.
        ProbeFailure::NotReady { .. } | ProbeFailure::Status { .. } => Testimony::NotReady,
        ProbeFailure::BackendDown => Testimony::ReportedDown,
        ProbeFailure::Identity(_) | ProbeFailure::Tls(_) | ProbeFailure::Malformed(_) => {
            Testimony::Untrusted
        }
        ProbeFailure::Refused(_) => Testimony::ProbeRejected,
        ProbeFailure::Timeout | ProbeFailure::Local(_) => Testimony::ProbeTimeout,
    })
}
