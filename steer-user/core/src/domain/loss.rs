//! Probe loss: a backend that answers most but not all probes is degraded.

use serde::{Deserialize, Serialize};

/// Minimum number of results for a judgement.
const MIN_PROBES: u32 = 10;
/// Divisor of the loss threshold: a backend is lossy if one in this many probes failed.
const LOSSY_PART: u32 = 5;

/// The last 32 results of one backend's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// One bit per result, 1 for a failure.
    failures: u32,
    /// Number of results.
    results: u32,
    lossy: bool,
}

impl Loss {
    /// Returns whether a fifth of the results were failures, with no recovery to at most one of 32
    /// since.
    #[must_use]
    pub fn lossy(&self) -> bool {
        self.lossy
    }

    /// Clears all results, as for a new backend. Returns the new judgement if that changed it.
    pub fn forget(&mut self) -> Option<bool> {
        let was = std::mem::take(self).lossy;
        was.then_some(false)
    }

    /// Records a result, and returns whether the backend is lossy if that changed.
    pub fn observe(&mut self, ok: bool) -> Option<bool> {
        self.failures = self.failures << 1 | u32::from(!ok);
        self.results = (self.results + 1).min(u32::BITS);
        let failed = self.failures.count_ones();
        let lossy = if self.lossy {
            failed > 1
        } else {
            self.results >= MIN_PROBES && failed * LOSSY_PART >= self.results
        };
        (std::mem::replace(&mut self.lossy, lossy) != lossy).then_some(lossy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_lost_is_too_much_and_one_of_32_is_fine() {
        let mut loss = Loss::default();
        let mut changes = Vec::new();
        for index in 0..200u32 {
            // One of ten, then one of four, then none.
            let ok = match index {
                0..80 => index % 10 != 0,
                80..120 => index % 4 != 0,
                _ => true,
            };
            changes.extend(loss.observe(ok).map(|lossy| (index, lossy)));
        }
        let [(since, true), (until, false)] = changes[..] else {
            panic!("{changes:?}");
        };
        assert!((80..120).contains(&since), "{since}");
        assert!((120..152).contains(&until), "{until}");
    }

    #[test]
    fn few_results_say_nothing() {
        let mut loss = Loss::default();
        for _ in 1..MIN_PROBES {
            assert_eq!(loss.observe(false), None);
        }
        assert_eq!(loss.observe(false), Some(true));
        assert_eq!(loss.forget(), Some(false));
        assert_eq!(loss.forget(), None);
    }
}
