//! Silence with work in flight: clients send requests, and a backend sends nothing for longer than
//! usual while others answer.
//!
//! A hung engine may still accept connections and send the heads of answers. A packet therefore
//! counts as an answer only if it exceeds the number of packets that start recent answers. If
//! answers usually have few packets, fewer of them count as such heads. The usual number is
//! learned: a backend that went on after a long silence is not suspected for the same length again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::outliers::Outlier;

/// Number of requests within [`BURST_WINDOW`] before silence counts.
const MIN_UNANSWERED: u64 = 4;
/// Period in which these requests must arrive; older and fewer ones do not count.
const BURST_WINDOW: Duration = Duration::from_secs(1);
/// Time for which a request explains the head of an answer, and half of the maximum.
const MIN_REQUEST_AGE: Duration = Duration::from_millis(60);
/// Unit of one packet when packets are compared with requests.
const MIN_PACKET_BYTES: u64 = 100;
/// Packets that start an answer: a head, and now and then a repeated or late packet.
const MIN_BYTES_PER_REQUEST: u64 = 150;
/// Number of samples required to know the usual number.
const MIN_LEARNED_ANSWERS: u64 = 64;
/// Number of samples from which old ones are halved.
const MAX_COUNTED_ANSWERS: u64 = 512;
/// Lower bound of the time until suspicion.
const MIN_SILENCE: Duration = Duration::from_millis(150);
/// Upper bound of the time until suspicion.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Multiple of the longest recent silence after which silence is suspicious.
const SILENCE_FACTOR: u32 = 2;
/// Half-life of the longest silence.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Traffic to and from a backend over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections started.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub flows: u64,
    /// Requests started, if visible.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub requests: u64,
    /// Packets that show that it answers: its own, or pure acknowledgements of its clients.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub answers: u64,
}

/// Other knowledge about a backend at the time of observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTraffic {
    /// Direct return: its own packets are invisible, so acknowledgements of its clients stand for
    /// them.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub direct: bool,
    /// Whether other backends answered meanwhile.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub others: bool,
    /// Whether its probes succeed.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub well: bool,
    /// Whether a connection of this node's own can tell that it refuses connections.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub confirmable: bool,
    /// Outlier, if it fails much more often than its peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Outlier>,
}

impl Traffic {
    /// Returns the difference to earlier counts; `None` if the counters were reset meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            flows: self.flows.checked_sub(before.flows)?,
            requests: self.requests.checked_sub(before.requests)?,
            answers: self.answers.checked_sub(before.answers)?,
        })
    }

    /// Returns the sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            flows: self.flows.wrapping_add(other.flows),
            requests: self.requests.wrapping_add(other.requests),
            answers: self.answers.wrapping_add(other.answers),
        }
    }

    /// Returns the number of questions: connections plus requests. Where requests are invisible, a
    /// connection stands for one.
    fn asked(&self, direct: bool) -> u64 {
        let requests = if direct { self.flows } else { self.requests };
        self.flows.saturating_add(requests)
    }

    /// Returns the number of answers. One acknowledgement per connection belongs to the handshake.
    fn heard(&self, direct: bool) -> u64 {
        self.answers.saturating_sub(self.begins(direct))
    }

    /// Returns the number of acknowledgements that only complete handshakes.
    fn begins(&self, direct: bool) -> u64 {
        if direct { self.flows } else { 0 }
    }

    /// Returns whether it contains an answer.
    #[must_use]
    pub fn answers(&self, direct: bool) -> bool {
        self.heard(direct) > 0
    }
}

/// A change of the silence detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The backend is silent.
    Silent,
    /// The backend answers again.
    Answers,
}

/// Silence detector of one backend. Serialized with times in microseconds of a clock of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence<T = Instant> {
    /// Traffic since the last answer.
    traffic: Traffic,
    /// Time of the first question of it.
    begun: Option<T>,
    /// Time at which enough questions were open.
    since: Option<T>,
    /// Parts of packets that recent questions explain, those that earlier questions explain, and
    /// the time at which the two were shifted.
    explained: [u64; 2],
    turned: Option<T>,
    /// Recent totals of questions and answers.
    usual: (u64, u64),
    /// Longest recent silence, and its end.
    longest: Option<(Duration, T)>,
    silent: bool,
    /// Whether others answered during its silence.
    alone: bool,
    /// Whether probes failed as well.
    confirmed: bool,
    /// Time of the last answer to its clients.
    answered_at: Option<T>,
    /// Requests are seen, so that connections without any wait for nothing.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    sees_requests: bool,
}

impl<T> Default for Silence<T> {
    fn default() -> Self {
        Self {
            traffic: Traffic::default(),
            begun: None,
            since: None,
            explained: [0; 2],
            turned: None,
            usual: (0, 0),
            longest: None,
            silent: false,
            alone: false,
            confirmed: false,
            answered_at: None,
            sees_requests: false,
        }
    }
}

impl<T: Copy> Silence<T> {
    /// Converts the times to another clock.
    #[must_use]
    pub fn on<U>(&self, clock: impl Fn(T) -> U) -> Silence<U> {
        Silence {
            traffic: self.traffic,
            begun: self.begun.map(&clock),
            since: self.since.map(&clock),
            explained: self.explained,
            turned: self.turned.map(&clock),
            usual: self.usual,
            longest: self.longest.map(|(time, at)| (time, clock(at))),
            silent: self.silent,
            alone: self.alone,
            confirmed: self.confirmed,
            answered_at: self.answered_at.map(&clock),
            sees_requests: self.sees_requests,
        }
    }

    /// Returns the time of the last answer to its clients, other than the head of one.
    #[must_use]
    pub fn answered_at(&self) -> Option<T> {
        self.answered_at
    }

    /// Returns whether a question is open.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.begun.is_some()
    }
}

impl Silence {
    /// Records the traffic since the last call.
    pub(super) fn observe(
        &mut self,
        new: &Traffic,
        around: PeerTraffic,
        now: Instant,
    ) -> Option<Change> {
        self.traffic = self.traffic.plus(new);
        self.sees_requests |= !around.direct && new.requests > 0;
        let asked = self.traffic.asked(around.direct);
        self.confirmed |= self.silent && !around.well;
        if self.is_answer(new, around.direct, now) {
            self.answered_at = Some(now);
            let heard = self.traffic.heard(around.direct);
            return self.answered(asked, heard, now).then_some(Change::Answers);
        }
        if asked == 0 {
            return None;
        }
        let begun = *self.begun.get_or_insert(now);
        // Whoever connects and asks nothing, as scanners and checks of ports do, waits for nothing.
        let has_work = !self.sees_requests || self.traffic.requests >= MIN_UNANSWERED / 2;
        if asked < MIN_UNANSWERED || !has_work {
            if now.saturating_duration_since(begun) > BURST_WINDOW {
                self.traffic = *new;
                self.begun = Some(now);
            }
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let lasts = now.saturating_duration_since(since);
        self.alone |= around.others && lasts >= MIN_SILENCE / 2;
        let knows = self.usual.0 >= MIN_LEARNED_ANSWERS;
        if self.silent || !knows || !around.others || lasts < self.limit(now) {
            return None;
        }
        self.silent = true;
        self.confirmed = !around.well;
        Some(Change::Silent)
    }

    /// Forgets open questions, and waits for new ones.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            usual: self.usual,
            longest: self.longest,
            explained: self.explained,
            turned: self.turned,
            answered_at: self.answered_at,
            sees_requests: self.sees_requests,
            ..Self::default()
        };
    }

    /// Returns whether there are more packets than recent questions explain: half of the usual
    /// number for each, and [`MIN_BYTES_PER_REQUEST`] at most.
    fn is_answer(&mut self, new: &Traffic, direct: bool, now: Instant) -> bool {
        let turned = *self.turned.get_or_insert(now);
        let passed = now.saturating_duration_since(turned);
        if passed >= MIN_REQUEST_AGE {
            let last = if passed < 2 * MIN_REQUEST_AGE {
                self.explained[0]
            } else {
                0
            };
            self.explained = [0, last];
            self.turned = Some(now);
        }
        let (of, usual) = self.usual;
        let each = (MIN_PACKET_BYTES * usual / (2 * of.max(1))).min(MIN_BYTES_PER_REQUEST);
        self.explained[0] += new.asked(direct) * each + new.begins(direct) * MIN_PACKET_BYTES;
        let mut rest = new.answers * MIN_PACKET_BYTES;
        for explained in self.explained.iter_mut().rev() {
            let taken = rest.min(*explained);
            *explained -= taken;
            rest -= taken;
        }
        rest > 0
    }

    /// Starts over after an answer, and returns whether it was suspected of silence.
    fn answered(&mut self, asked: u64, heard: u64, now: Instant) -> bool {
        if let Some(since) = self.since
            && self.alone
            && !self.confirmed
        {
            let lasted = now.saturating_duration_since(since);
            if lasted > self.longest(now) {
                self.longest = Some((lasted.min(MAX_SILENCE), now));
            }
        }
        self.usual = (self.usual.0 + asked, self.usual.1 + heard);
        if self.usual.0 > MAX_COUNTED_ANSWERS {
            self.usual = (self.usual.0 / 2, self.usual.1 / 2);
        }
        let was = self.silent;
        self.begin_anew();
        was
    }

    fn longest(&self, now: Instant) -> Duration {
        let Some((time, at)) = self.longest else {
            return Duration::ZERO;
        };
        let passed = now.saturating_duration_since(at).as_micros();
        let halves = (passed / HALF_LIFE.as_micros()).min(31) as u32;
        time / (1 << halves)
    }

    /// Returns the silence that is tolerated.
    #[must_use]
    pub fn limit(&self, now: Instant) -> Duration {
        (self.longest(now) * SILENCE_FACTOR).clamp(MIN_SILENCE, MAX_SILENCE)
    }

    /// Returns in words the questions and answers since the last full answer, the current wait, and
    /// the tolerated one.
    #[must_use]
    pub fn describe(&self, now: Instant) -> Vec<String> {
        let since = |at| now.saturating_duration_since(at).as_millis();
        let Traffic {
            flows,
            requests,
            answers,
        } = self.traffic;
        let mut words = vec![format!(
            "{flows} connections and {requests} requests since its last full answer, {answers} \
             packets of answers"
        )];
        words.extend(self.since.map(|at| {
            let limit = self.limit(now).as_millis();
            format!("silent for {} ms of {limit} ms", since(at))
        }));
        let (asked, heard) = self.usual;
        if asked > 0 {
            let each = heard as f64 / asked as f64;
            words.push(format!("usually {each:.1} packets for each"));
        }
        words
    }
}

#[cfg(test)]
mod tests;
