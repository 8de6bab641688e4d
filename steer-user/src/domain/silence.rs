//! Silence with work in flight: clients ask a backend, and nothing comes back for longer than is usual for it, while
//! others answer.
//!
//! An engine that hangs may still take connections, and say the heads of answers: so a packet counts as an answer if
//! it is one more than those that begin what was just asked. Where answers usually have few packets, fewer of them are
//! taken for such. What is usual is learned: a backend that was silent for long and went on is not suspected for as
//! much again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

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
        }
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
        let asked = self.traffic.asked(around.direct);
        self.confirmed |= self.silent && !around.well;
        if self.is_answer(new, around.direct, now) {
            let heard = self.traffic.heard(around.direct);
            return self.answered(asked, heard, now).then_some(Change::Answers);
        }
        if asked == 0 {
            return None;
        }
        let begun = *self.begun.get_or_insert(now);
        if asked < ASKED {
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
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const WELL: Around = Around {
        direct: false,
        others: true,
        well: true,
    };

    fn traffic(flows: u64, requests: u64, answers: u64) -> Traffic {
        Traffic {
            flows,
            requests,
            answers,
        }
    }

    /// A backend, and a clock that goes on by 20 ms at a time.
    struct Bench {
        silence: Silence,
        now: Instant,
        around: Around,
    }

    impl Bench {
        /// One of which it is known that there are ten packets for each connection.
        fn new(direct: bool) -> Self {
            let mut bench = Self {
                silence: Silence::default(),
                now: Instant::now(),
                around: Around { direct, ..WELL },
            };
            for _ in 0..100 {
                assert_eq!(bench.step(bench.usual()), None);
            }
            bench
        }

        fn usual(&self) -> Traffic {
            match self.around.direct {
                false => traffic(1, 1, 10),
                // Of acknowledgements one is the connection's.
                true => traffic(1, 0, 11),
            }
        }

        fn step(&mut self, new: Traffic) -> Option<Change> {
            self.now += 20 * MS;
            self.silence.observe(&new, self.around, self.now)
        }

        /// How long it takes until something changes, in milliseconds, if it does within so many steps.
        fn until(&mut self, steps: u64, new: Traffic) -> Option<(u64, Change)> {
            (1..=steps).find_map(|n| Some((n * 20, self.step(new)?)))
        }
    }

    #[test]
    fn a_backend_that_says_nothing_any_more_is_silent() {
        for direct in [false, true] {
            let mut bench = Bench::new(direct);
            let asked = match direct {
                false => traffic(1, 1, 0),
                true => traffic(1, 0, 1),
            };
            let (after, change) = bench.until(50, asked).unwrap();
            assert_eq!(change, Change::Silent);
            assert!((150..=250).contains(&after), "{after} ms, direct: {direct}");
            assert_eq!(bench.until(100, asked), None, "it is said once");
            let (_, change) = bench.until(3, traffic(0, 0, 500)).unwrap();
            assert_eq!(change, Change::Answers);
        }
    }

    #[test]
    fn connections_that_nobody_takes_are_silence() {
        let mut bench = Bench::new(true);
        let (after, change) = bench.until(50, traffic(1, 0, 0)).unwrap();
        assert_eq!(change, Change::Silent);
        assert!(after <= 250, "{after} ms");
    }

    #[test]
    fn heads_of_answers_are_no_answers() {
        for direct in [false, true] {
            let mut bench = Bench::new(direct);
            // One packet for each connection.
            let heads = match direct {
                false => traffic(1, 1, 1),
                true => traffic(1, 0, 2),
            };
            let found = bench.until(50, heads);
            assert!(matches!(found, Some((_, Change::Silent))), "{direct}");
            // Where answers are one packet that is as it should be.
            let mut short = Bench {
                silence: Silence::default(),
                ..bench
            };
            assert_eq!(short.until(500, heads), None, "{direct}");
        }
    }

    #[test]
    fn few_requests_and_long_ones_are_no_silence() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.step(traffic(1, 1, 0)), None);
        assert_eq!(bench.until(200, traffic(0, 0, 0)), None);
        // One each second, that takes as long.
        for _ in 0..20 {
            assert_eq!(bench.step(traffic(1, 1, 0)), None);
            assert_eq!(bench.until(59, traffic(0, 0, 0)), None);
        }
    }

    #[test]
    fn it_takes_others_that_answer_and_something_known() {
        let mut bench = Bench::new(false);
        bench.around.others = false;
        assert_eq!(bench.until(500, traffic(1, 1, 0)), None);
        bench.around.others = true;
        assert_eq!(bench.step(traffic(1, 1, 0)), Some(Change::Silent));
        let mut unknown = Bench {
            silence: Silence::default(),
            ..bench
        };
        assert_eq!(unknown.until(500, traffic(1, 1, 0)), None);
    }

    #[test]
    fn who_went_on_after_a_silence_is_waited_for_twice_as_long() {
        let mut bench = Bench::new(false);
        let mut waited = Vec::new();
        for _ in 0..2 {
            let (after, _) = bench.until(500, traffic(1, 1, 0)).unwrap();
            waited.push(after);
            assert_eq!(bench.until(30, traffic(1, 1, 0)), None);
            while bench.step(bench.usual()).is_none() {}
        }
        assert!(waited[1] >= 2 * waited[0], "{waited:?}");
        // A minute later it is half as long, and one that was dead teaches nothing.
        let before = bench.silence.limit(bench.now);
        bench.now += HALF_LIFE;
        assert_eq!(bench.silence.limit(bench.now), before / 2);
        bench.silence = Bench::new(false).silence;
        bench.around.well = false;
        assert!(bench.until(500, traffic(1, 1, 0)).is_some());
        bench.around.well = true;
        while bench.step(bench.usual()).is_none() {}
        assert_eq!(bench.silence.limit(bench.now), LEAST);
    }

    #[test]
    fn a_backend_that_streams_is_never_silent_however_much_is_asked() {
        let mut bench = Bench::new(false);
        for step in 0..2000_u64 {
            // Bursts of requests that wait for long, and one stream that goes on.
            let burst = if step % 100 == 0 { 30 } else { 0 };
            assert_eq!(bench.step(traffic(burst, burst, 4)), None, "{step}");
        }
    }
}
