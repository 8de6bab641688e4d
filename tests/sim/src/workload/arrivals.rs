//! Arrivals of clients.

use std::time::Duration;

use rand::rngs::StdRng;

use super::random::{exponential, gamma};

/// A process of arrivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Independent arrivals.
    Poisson,
    /// Gaps of a gamma distribution. BurstGPT (arXiv 2401.17644) models gaps so; a shape below 1 is burstier than
    /// Poisson: the coefficient of variation is 1 / √shape.
    Gamma {
        /// Shape of the distribution.
        shape: f64,
    },
    /// Independent arrivals whose rate follows the hours of a day: a sine around the mean. The traces of Azure of 2024
    /// (DynamoLLM, HPCA 2025) show such days.
    Day {
        /// Largest deviation from the mean, relative to it.
        swing: f64,
        /// Length of a day; shorter in simulations.
        period: Duration,
    },
}

impl Arrivals {
    /// A coefficient of variation of 2, which is our choice for a bursty hour.
    pub const BURSTS: Self = Self::Gamma { shape: 0.25 };

    /// Draws the gap to the next arrival in seconds.
    #[must_use]
    pub fn gap(&self, random: &mut StdRng, rate: f64, now: Duration) -> f64 {
        match *self {
            Self::Poisson => exponential(random, 1.0 / rate),
            Self::Gamma { shape } => gamma(random, shape, 1.0 / rate),
            Self::Day { swing, period } => {
                let part = now.as_secs_f64() / period.as_secs_f64();
                let level = 1.0 - swing * (std::f64::consts::TAU * part).cos();
                exponential(random, 1.0 / (rate * level))
            }
        }
    }
}
