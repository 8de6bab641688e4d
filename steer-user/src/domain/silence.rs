//! Silence with work in flight: clients ask a backend, and nothing comes back for longer than is usual for it, while
//! others answer.
//!
//! An engine that hangs may still take connections, and say the heads of answers: so a packet counts as an answer if
//! it is one more than those that begin what was just asked. Where answers usually have few packets, fewer of them are
//! taken for such. What is usual is learned: a backend that was silent for long and went on is not suspected for as
//! much again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::outliers::Outlier;

/// So much has to be asked within [`TOGETHER`] before silence says anything.
const ASKED: u64 = 4;
/// What was asked longer ago than this, with little else, says nothing.
const TOGETHER: Duration = Duration::from_secs(1);
/// What was asked explains an answer's begin for this long, and twice that at most.
const BEGINS: Duration = Duration::from_millis(60);
/// A packet, as it is counted against what was asked.
const PACKET: u64 = 100;
/// What begins an answer: a head, and now and then a packet that is repeated or late.
const EACH: u64 = 150;
/// How much has to be known of what is usual.
const KNOWN: u64 = 64;
/// From here on what is known is forgotten by halves.
const ENOUGH: u64 = 512;
/// Nobody is suspected sooner.
const LEAST: Duration = Duration::from_millis(150);
/// Nor later than this.
const MOST: Duration = Duration::from_secs(10);
/// Silence is suspected when it lasts so many times as long as the longest of late.
const TIMES: u32 = 2;
/// The longest silence counts for half after this time.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// What went to a backend and came from it, since some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections that began.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flows: u64,
    /// Requests that began, as far as they are seen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    /// Packets that say that it answers: its own, or its clients' that do nothing but acknowledge.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub answers: u64,
}

/// What is known besides when a backend's traffic is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Around {
    /// Its own packets are not seen: what its clients acknowledge stands for them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub direct: bool,
    /// Other backends answered meanwhile.
    #[serde(default, skip_serializing_if = "is_false")]
    pub others: bool,
    /// Its probes say that it is well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub well: bool,
    /// A connection of this node's own can tell whether it refuses connections.
    #[serde(default, skip_serializing_if = "is_false")]
    pub confirmable: bool,
    /// It fails much more often than its peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Outlier>,
}

impl Traffic {
    /// What came since other counts; `None` if they began anew meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            flows: self.flows.checked_sub(before.flows)?,
            requests: self.requests.checked_sub(before.requests)?,
            answers: self.answers.checked_sub(before.answers)?,
        })
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            flows: self.flows.wrapping_add(other.flows),
            requests: self.requests.wrapping_add(other.requests),
            answers: self.answers.wrapping_add(other.answers),
        }
    }

    /// What was asked: a connection, and each request. Where requests are not seen a connection stands for
    /// one.
    fn asked(&self, direct: bool) -> u64 {
        let requests = if direct { self.flows } else { self.requests };
        self.flows.saturating_add(requests)
    }

    /// What was answered. Of acknowledgements one belongs to each connection's begin.
    fn heard(&self, direct: bool) -> u64 {
        self.answers.saturating_sub(self.begins(direct))
    }

    /// Acknowledgements that only end the begin of connections.
    fn begins(&self, direct: bool) -> u64 {
        if direct { self.flows } else { 0 }
    }

    /// Whether there is an answer in it.
    #[must_use]
    pub fn answers(&self, direct: bool) -> bool {
        self.heard(direct) > 0
    }
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is silent.
    Silent,
    /// It answers again.
    Answers,
}

/// How silent one backend is. Written down with times in microseconds of a clock of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence<T = Instant> {
    /// Since it answered last.
    traffic: Traffic,
    /// When the first of that was seen.
    begun: Option<T>,
    /// When so much had been asked that it counts.
    since: Option<T>,
    /// Parts of packets that what was asked of late explains, and what was asked before that; and when the latter
    /// became that.
    explained: [u64; 2],
    turned: Option<T>,
    /// What was asked and answered in all, of late.
    usual: (u64, u64),
    /// The longest silence of late, and when that ended.
    longest: Option<(Duration, T)>,
    silent: bool,
    /// Others answered while it was silent.
    alone: bool,
    /// Probes found something, too.
    confirmed: bool,
    /// When its clients were answered last.
    answered_at: Option<T>,
    /// Requests are seen, so that connections without any wait for nothing.
    #[serde(default, skip_serializing_if = "is_false")]
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
    /// The same with times of another clock.
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

    /// When its clients were answered last, by more than the begin of an answer.
    #[must_use]
    pub fn answered_at(&self) -> Option<T> {
        self.answered_at
    }

    /// Whether something was asked that is not answered.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.begun.is_some()
    }
}

impl Silence {
    /// Takes in what went by since it was called last.
    pub(super) fn observe(
        &mut self,
        new: &Traffic,
        around: Around,
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
        let has_work = !self.sees_requests || self.traffic.requests >= ASKED / 2;
        if asked < ASKED || !has_work {
            if now.saturating_duration_since(begun) > TOGETHER {
                self.traffic = *new;
                self.begun = Some(now);
            }
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let lasts = now.saturating_duration_since(since);
        self.alone |= around.others && lasts >= LEAST / 2;
        let knows = self.usual.0 >= KNOWN;
        if self.silent || !knows || !around.others || lasts < self.limit(now) {
            return None;
        }
        self.silent = true;
        self.confirmed = !around.well;
        Some(Change::Silent)
    }

    /// Forgets what was asked, to wait for what is asked from now on.
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

    /// Whether there is a packet more than what was asked of late explains: for each half of what is usual, and
    /// [`EACH`] at most.
    fn is_answer(&mut self, new: &Traffic, direct: bool, now: Instant) -> bool {
        let turned = *self.turned.get_or_insert(now);
        let passed = now.saturating_duration_since(turned);
        if passed >= BEGINS {
            let last = if passed < 2 * BEGINS {
                self.explained[0]
            } else {
                0
            };
            self.explained = [0, last];
            self.turned = Some(now);
        }
        let (of, usual) = self.usual;
        let each = (PACKET * usual / (2 * of.max(1))).min(EACH);
        self.explained[0] += new.asked(direct) * each + new.begins(direct) * PACKET;
        let mut rest = new.answers * PACKET;
        for explained in self.explained.iter_mut().rev() {
            let taken = rest.min(*explained);
            *explained -= taken;
            rest -= taken;
        }
        rest > 0
    }

    /// Begins anew after an answer, and says whether it had been taken for silent.
    fn answered(&mut self, asked: u64, heard: u64, now: Instant) -> bool {
        if let Some(since) = self.since
            && self.alone
            && !self.confirmed
        {
            let lasted = now.saturating_duration_since(since);
            if lasted > self.longest(now) {
                self.longest = Some((lasted.min(MOST), now));
            }
        }
        self.usual = (self.usual.0 + asked, self.usual.1 + heard);
        if self.usual.0 > ENOUGH {
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

    /// How long it may be silent.
    #[must_use]
    pub fn limit(&self, now: Instant) -> Duration {
        (self.longest(now) * TIMES).clamp(LEAST, MOST)
    }

    /// What was asked and answered since it answered enough, for how long it is waited for, and for how
    /// long it may be.
    #[must_use]
    pub fn words(&self, now: Instant) -> Vec<String> {
        let since = |at| now.saturating_duration_since(at).as_millis();
        let Traffic {
            flows,
            requests,
            answers,
        } = self.traffic;
        let mut words = vec![format!(
            "{flows} connections and {requests} requests since it answered as usual, {answers} packets of answers"
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests;
