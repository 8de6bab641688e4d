//! Random numbers of distributions.

use rand::{Rng as _, rngs::StdRng};

/// Returns a number of the standard normal distribution (Box and Muller).
pub fn normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Returns a number of the exponential distribution.
pub fn exponential(random: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - random.random::<f64>()).ln()
}

/// Returns a number of the gamma distribution (Marsaglia and Tsang, "A simple method for generating gamma variables",
/// 2000).
pub fn gamma(random: &mut StdRng, shape: f64, mean: f64) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - random.random::<f64>()).powf(1.0 / shape);
        return gamma(random, shape + 1.0, mean * (shape + 1.0) / shape) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        let u: f64 = 1.0 - random.random::<f64>();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v * mean / shape;
        }
    }
}

/// Returns a number of trials up to the first success, with a given mean of at least one.
pub fn geometric(random: &mut StdRng, mean: f64) -> u32 {
    if mean <= 1.0 {
        return 1;
    }
    let u: f64 = 1.0 - random.random::<f64>();
    1 + (u.ln() / (1.0 - 1.0 / mean).ln()) as u32
}
