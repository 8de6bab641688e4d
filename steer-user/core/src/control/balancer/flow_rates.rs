//! Rates of new flows of services, for pools with a budget of them.

use std::time::Instant;

use anyhow::Result;

use crate::{control::site::Site, dataplane::Dataplane};

/// Part of a new rate that counts in the smoothed one.
const SMOOTHING: f64 = 0.5;

/// New flows per second, by the index of the service.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlowRates {
    last: Option<(Instant, Vec<u64>)>,
    per_second: Vec<f64>,
}

impl FlowRates {
    /// The rate of a service.
    pub(crate) fn per_second(&self, service: usize) -> f64 {
        self.per_second.get(service).copied().unwrap_or(0.0)
    }

    /// Reads counters, if a pool has a budget of new flows.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn read(
        &mut self,
        site: &Site,
        dataplane: &impl Dataplane,
        now: Instant,
    ) -> Result<()> {
        let mut pools = site.config.pools.iter();
        if pools.all(|pool| pool.max_new_flows.is_none()) {
            *self = Self::default();
            return Ok(());
        }
        let counters = dataplane.counters()?;
        let mut counts = vec![0; site.config.services.len()];
        for ((service, _), id) in &site.ids.members {
            let member = counters.members.get(usize::from(*id));
            counts[*service] += member.map_or(0, |member| member.flows);
        }
        self.observe(counts, now);
        Ok(())
    }

    fn observe(&mut self, counts: Vec<u64>, now: Instant) {
        if let Some((at, before)) = &self.last {
            let seconds = now.saturating_duration_since(*at).as_secs_f64();
            self.per_second.resize(counts.len(), 0.0);
            let pairs = counts.iter().zip(before);
            for (rate, (count, before)) in self.per_second.iter_mut().zip(pairs) {
                let new = count.saturating_sub(*before) as f64 / seconds.max(0.001);
                *rate += SMOOTHING * (new - *rate);
            }
        }
        self.last = Some((now, counts));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_follow_the_counts_smoothed() {
        let mut rates = FlowRates::default();
        let now = Instant::now();
        rates.observe(vec![100, 5], now);
        assert_eq!((rates.per_second(0), rates.per_second(7)), (0.0, 0.0));
        rates.observe(vec![300, 5], now + Duration::from_secs(2));
        assert_eq!((rates.per_second(0), rates.per_second(1)), (50.0, 0.0));
        // Counters that begin anew are no negative rate.
        rates.observe(vec![0, 5], now + Duration::from_secs(4));
        assert_eq!(rates.per_second(0), 25.0);
    }
}
