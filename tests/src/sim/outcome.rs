//! What came of a run.

use std::time::Duration;

use serde::Serialize;

/// The figures of a policy in a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Requests that began.
    pub requests: usize,
    /// Requests that failed, for whatever reason.
    pub failed: usize,
    /// Of these, requests that were under way at a server when it died: nobody can save them.
    pub doomed: usize,
    /// Time to the first token in milliseconds, of requests that got one: median, 95th and 99th
    /// percentile.
    pub first_ms: [f64; 3],
    /// The part of the tables that changed in a minute, in whole tables; none without tables.
    pub moved_per_minute: Option<f64>,
    /// Packets of open flows that would have left a server that lives.
    pub strayed: usize,
    /// Times that a server was kept from new flows although it served its clients.
    pub ejections: usize,
    /// Requests at servers outside the regions that the service may be served from.
    pub outside: usize,
    /// The share of each server in the flows of each second, for plots: by second, by server.
    #[serde(skip)]
    pub shares: Vec<Vec<f64>>,
    /// The 95th percentile of the time to the first token of flows of each second, in milliseconds.
    #[serde(skip)]
    pub first_by_second: Vec<f64>,
}

/// A percentile of times, in milliseconds: the smallest that at least so many percent don't exceed.
pub(super) fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    if times.is_empty() {
        return 0.0;
    }
    times.sort_unstable();
    let index = (times.len() * percent).div_ceil(100).max(1) - 1;
    times[index].as_secs_f64() * 1000.0
}
