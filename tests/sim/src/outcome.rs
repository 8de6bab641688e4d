//! Outcome of a run.

use std::time::Duration;

use serde::Serialize;

/// Figures of a policy in a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Number of requests.
    pub requests: usize,
    /// Number of requests that failed, after their retries.
    pub failed: usize,
    /// Number of retries.
    pub retries: usize,
    /// Requests that were in progress at a server when it died, which no policy can avoid.
    pub doomed: usize,
    /// Time to the first token in milliseconds: median, 95th and 99th percentile.
    pub first_ms: [f64; 3],
    /// Changes of the tables per minute, in whole tables; none without tables.
    pub moved_per_minute: Option<f64>,
    /// Packets of open flows that would have gone to another server although theirs was alive.
    pub strayed: usize,
    /// Number of ejections of servers that served their clients.
    pub ejections: usize,
    /// Requests at servers outside the allowed regions of the service.
    pub outside: usize,
    /// Sequences that engines preempted because their KV cache was full.
    pub preemptions: u64,
    /// Share of each server in the requests of each second, for plots: by second, by server.
    #[serde(skip)]
    pub shares: Vec<Vec<f64>>,
    /// 95th percentile of the time to the first token of requests of each second, in milliseconds.
    #[serde(skip)]
    pub first_by_second: Vec<f64>,
}

/// Returns a percentile of times in milliseconds: the smallest that at least this percentage does
/// not exceed.
pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    if times.is_empty() {
        return 0.0;
    }
    times.sort_unstable();
    let index = (times.len() * percent).div_ceil(100).max(1) - 1;
    times[index].as_secs_f64() * 1000.0
}
