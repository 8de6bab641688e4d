//! Rates per second from two statuses.

use std::{collections::HashMap, time::Instant};

use steer_core::control::{MemberStatus, Status};

/// A status, with the rates since the previous one.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: Status,
    /// Rates by service and backend, in the order of the status.
    pub(super) members: Vec<Vec<Rate>>,
    /// Drops per second by reason; those with a positive rate come first.
    pub(super) drops: Vec<(String, u64, f64)>,
}

/// Rates of a member. Absent without a previous status.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) flows: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

/// Members by the names of service and backend.
type Members = HashMap<(String, String), MemberStatus>;

/// State of the rate computation.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: Option<(Instant, Members, Status)>,
}

impl Rates {
    pub(super) fn next(&mut self, status: Status, now: Instant) -> Seen {
        let seconds = self.last.as_ref().map(|(at, ..)| (now - *at).as_secs_f64());
        // A counter that was reset by a new daemon or a new member starts over.
        let rate = |before: u64, after: u64| match seconds {
            Some(seconds) if seconds > 0.0 => after.saturating_sub(before) as f64 / seconds,
            _ => 0.0,
        };
        let key =
            |service: &str, member: &MemberStatus| (service.to_owned(), member.backend.clone());
        let mut now_seen = HashMap::new();
        let mut members = Vec::new();
        for service in &status.services {
            let mut rates = Vec::new();
            for member in &service.members {
                let key = key(&service.name, member);
                let before = self.last.as_ref().and_then(|(_, seen, _)| seen.get(&key));
                rates.push(before.map_or_else(Rate::default, |before| Rate {
                    flows: rate(before.flows, member.flows),
                    packets: rate(before.packets, member.packets),
                    bytes: rate(before.bytes, member.bytes),
                }));
                now_seen.insert(key, member.clone());
            }
            members.push(rates);
        }
        let mut drops: Vec<(String, u64, f64)> = Vec::new();
        for (reason, count) in &status.drops {
            let before = self.last.as_ref().map_or(*count, |(.., last)| {
                last.drops.get(reason).copied().unwrap_or(0)
            });
            drops.push((reason.clone(), *count, rate(before, *count)));
        }
        drops.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.cmp(&a.1)));
        self.last = Some((now, now_seen, status.clone()));
        Seen {
            status,
            members,
            drops,
        }
    }
}
