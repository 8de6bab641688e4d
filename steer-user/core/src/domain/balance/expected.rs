//! Expected time to the first token, by which a new flow chooses among its candidates.
//!
//! A node that translates both directions sees when a flow begins to wait and when the first byte of its answer passes.
//! Flows that wait are those in the engine's prefill and queue, and each adds about the same time for the next one.
//! The node counts them itself, so the signal is never old, and its own flows cannot all follow one report.

/// Weight of a new sample of a service time.
const SAMPLE: f64 = 0.1;
/// Part of the difference to its peers that a service time without samples loses in a step.
const FORGET: f64 = 0.05;
/// Shortest service time in microseconds, so that waiting flows always count.
const MIN_SERVICE_US: f64 = 1000.0;

/// Number of members that a table offers to all of its slots, besides the slots' own choices.
pub const OFFERS: usize = 4;

/// Knowledge of a member when a flow chooses. All of it fits a map's value, and the cost needs integers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signal {
    /// Flows that wait for the first byte of an answer.
    pub waiting: u32,
    /// Flows or requests in flight.
    pub in_flight: u32,
    /// Requests that the member processes at a time.
    pub capacity: u32,
    /// Time that each waiting flow adds to the next one's, in microseconds.
    pub service_us: u32,
    /// Time between two ends of flows while the member is full, in microseconds.
    pub drain_us: u32,
    /// Time of the round trips before the first token, in microseconds.
    pub distance_us: u32,
}

impl Signal {
    /// Returns the expected time to the first token of one more flow, in microseconds.
    ///
    /// A full batch counts as one more waiting flow: decode slows prefill, and a fuller member has less room for what
    /// comes next. Beyond its capacity a flow waits for others to end.
    #[must_use]
    pub const fn expected_us(&self) -> u64 {
        let capacity = if self.capacity == 0 { 1 } else { self.capacity };
        let service = self.service_us as u64;
        let ahead = service * (self.waiting as u64 + 1);
        let batch = service * self.in_flight as u64 / capacity as u64;
        let over = (self.in_flight + 1).saturating_sub(capacity) as u64;
        self.distance_us as u64 + ahead + batch + over * self.drain_us as u64
    }
}

/// Time that each waiting flow adds at a member, learned from answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServiceTime {
    micros: Option<f64>,
}

impl ServiceTime {
    /// Records answers of an interval: the sum of their times to the first byte without the path's round trips, and the
    /// sum of flows that waited when each of them began, with itself.
    pub fn observe(&mut self, took_us: u64, waited: u64, answers: u32) {
        if answers == 0 || waited == 0 {
            return;
        }
        let sample = (took_us as f64 / waited as f64).max(MIN_SERVICE_US);
        let weight = 1.0 - (1.0 - SAMPLE).powi(i32::try_from(answers).unwrap_or(i32::MAX));
        let before = self.micros.unwrap_or(sample);
        self.micros = Some(before + weight * (sample - before));
    }

    /// Moves the time towards that of its peers, because nothing was answered in a step: a member that was slow once
    /// must get flows again.
    pub fn forget(&mut self, peers_us: Option<u32>) {
        if let (Some(micros), Some(peers)) = (self.micros, peers_us) {
            self.micros = Some(micros + FORGET * (f64::from(peers) - micros));
        }
    }

    /// Returns the time in microseconds, if it is known.
    #[must_use]
    pub fn micros(&self) -> Option<u32> {
        self.micros.map(|micros| micros.round() as u32)
    }
}

/// Returns the positions of the members with the lowest expected times, lowest first, at most [`OFFERS`].
#[must_use]
pub fn offers(signals: &[Signal]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..signals.len()).collect();
    order.sort_by_key(|position| signals[*position].expected_us());
    order.truncate(OFFERS);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Signal = Signal {
        waiting: 0,
        in_flight: 0,
        capacity: 10,
        service_us: 100_000,
        drain_us: 50_000,
        distance_us: 1_000,
    };

    #[test]
    fn an_idle_member_takes_its_distance_and_one_service_time() {
        assert_eq!(IDLE.expected_us(), 101_000);
    }

    #[test]
    fn more_of_anything_is_never_less_time() {
        let cost = |signal: Signal| signal.expected_us();
        for waiting in 0..5 {
            for in_flight in waiting..20 {
                let signal = Signal {
                    waiting,
                    in_flight,
                    ..IDLE
                };
                let more = |waiting, in_flight| {
                    cost(Signal {
                        waiting,
                        in_flight,
                        ..signal
                    })
                };
                assert!(more(waiting + 1, in_flight) > cost(signal));
                assert!(more(waiting, in_flight + 1) >= cost(signal));
            }
        }
        assert!(
            cost(Signal {
                capacity: 0,
                ..IDLE
            }) >= cost(IDLE)
        );
    }

    #[test]
    fn a_near_member_with_a_short_queue_wins_over_a_far_idle_one() {
        let far = Signal {
            distance_us: 140_000,
            ..IDLE
        };
        let near = |waiting| Signal { waiting, ..IDLE };
        assert!(near(1).expected_us() < far.expected_us());
        assert!(near(2).expected_us() > far.expected_us());
    }

    #[test]
    fn a_service_time_follows_answers_and_forgets_without() {
        let mut time = ServiceTime::default();
        assert_eq!(time.micros(), None);
        time.observe(300_000, 3, 2);
        assert_eq!(time.micros(), Some(100_000));
        for _ in 0..100 {
            time.observe(200_000, 1, 1);
        }
        assert!(time.micros().unwrap() > 199_000);
        for _ in 0..200 {
            time.forget(Some(50_000));
        }
        assert!(time.micros().unwrap() < 51_000);
        time.observe(0, 0, 0);
        assert!(time.micros().unwrap() < 51_000);
    }

    #[test]
    fn the_best_are_offered() {
        let signals = [3, 1, 2, 0, 5].map(|waiting| Signal { waiting, ..IDLE });
        assert_eq!(offers(&signals), [3, 1, 2, 0]);
        assert_eq!(offers(&signals[..1]), [0]);
    }
}
