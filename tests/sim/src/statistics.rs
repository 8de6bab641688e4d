//! Means of several seeds, and how sure they are.

/// A mean with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Mean.
    pub mean: f64,
    /// Half of the width of the interval.
    pub margin: f64,
}

/// Quantiles of Student's t distribution for a two-sided 95 % interval, by degrees of freedom from 1 on.
const T: [f64; 29] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045,
];

impl Estimate {
    /// Estimates the mean of a population from samples. With one sample the interval is unknown and has no width.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let count = samples.len().max(1) as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let Some(freedom) = samples.len().checked_sub(1).filter(|f| *f > 0) else {
            return Self { mean, margin: 0.0 };
        };
        let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
        let error = (squares / freedom as f64 / count).sqrt();
        let t = T.get(freedom - 1).copied().unwrap_or(1.96);
        Self {
            mean,
            margin: t * error,
        }
    }

    /// Estimates the ratio of two policies from their samples of the same seeds.
    ///
    /// It is the geometric mean of the ratios: arrivals of one seed are the same, so the ratio varies less than its
    /// parts do.
    #[must_use]
    pub fn ratio(ours: &[f64], theirs: &[f64]) -> Self {
        let logs = ours.iter().zip(theirs).map(|(a, b)| (a / b).ln());
        let logs: Vec<f64> = logs.filter(|log| log.is_finite()).collect();
        let log = Self::of(&logs);
        let mean = log.mean.exp();
        Self {
            mean,
            margin: mean * (log.margin.exp() - 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Estimate;

    #[test]
    fn an_interval_follows_students_t() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]);
        assert_eq!(estimate.mean, 2.0);
        assert!((estimate.margin - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(Estimate::of(&[5.0]).margin, 0.0);
    }

    #[test]
    fn a_ratio_of_equal_samples_is_one_and_certain() {
        let ratio = Estimate::ratio(&[1.0, 10.0, 7.0], &[1.0, 10.0, 7.0]);
        assert_eq!((ratio.mean, ratio.margin), (1.0, 0.0));
        let twice = Estimate::ratio(&[2.0, 20.0], &[1.0, 10.0]);
        assert!((twice.mean - 2.0).abs() < 1e-9 && twice.margin < 1e-9);
    }
}
