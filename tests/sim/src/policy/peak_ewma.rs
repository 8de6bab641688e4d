//! Latency that rises at once and falls slowly.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Ask, End, Flow, Policy, Probed, Site, envoy::two, health::View};

/// Time in which a peak falls by a factor of e (Finagle: `decayTime` of 10 s).
const DECAY: Duration = Duration::from_secs(10);
/// Latency assumed of a failure.
const FAILURE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    seconds: f64,
    at: Duration,
}

impl Peak {
    fn observe(&mut self, sample: f64, now: Duration) {
        let weight = (-(now.saturating_sub(self.at)).as_secs_f64() / DECAY.as_secs_f64()).exp();
        self.seconds = if sample > self.seconds {
            sample
        } else {
            self.seconds * weight + sample * (1.0 - weight)
        };
        self.at = now;
    }
}

/// Finagle's `PeakEwma` in the nearest zone, with two choices: the cost is the smoothed latency, sensitive to peaks,
/// times the requests in flight and the one to come.
///
/// Finagle measures until the end of the response. Its length depends on the answer's, not on the server, so the time
/// to the first token is used: that makes it stronger here.
#[derive(Debug)]
pub struct PeakEwma {
    view: View,
    random: StdRng,
    peaks: Vec<Peak>,
}

impl PeakEwma {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
            peaks: vec![Peak::default(); site.servers.len()],
        }
    }

    fn cost(&mut self, server: usize, now: Duration) -> f64 {
        let peak = &mut self.peaks[server];
        let in_flight = self.view.in_flight[server];
        peak.observe(0.0, now);
        if peak.seconds == 0.0 && in_flight != 0 {
            // No history: new requests wait for its first answer.
            return 1e9 + f64::from(in_flight);
        }
        peak.seconds * f64::from(in_flight + 1)
    }
}

impl Policy for PeakEwma {
    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let draw = self.random.random();
        let usable = self.view.by_priority(ask, now, draw);
        if usable.is_empty() {
            return None;
        }
        let [a, b] = two(&mut self.random, &usable);
        let server = if self.cost(b, now) < self.cost(a, now) {
            b
        } else {
            a
        };
        self.view.start(server);
        Some(server)
    }

    fn answered(&mut self, server: usize, _flow: Flow, took: Duration, now: Duration) {
        self.peaks[server].observe(took.as_secs_f64(), now);
    }

    fn ended(&mut self, server: usize, end: End, _took: Duration, now: Duration) {
        self.view.end(server);
        self.view.result(server, end == End::Done, now);
        if end == End::Failed {
            self.peaks[server].observe(FAILURE.as_secs_f64(), now);
        }
    }
}
