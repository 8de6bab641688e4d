//! Limit of open files, raised as far as the system allows if needed.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use steer_core::config::Config;
use tracing::{info, warn};

use super::error::{Exit, Failure};
use crate::{api::MAX_CONNECTIONS, preflight};

/// Files that a daemon opens without clients and backends: programs, maps, sockets, journal.
const MIN_FILES: u64 = 128;

/// Raises the limit to the need of a configuration. Logs a warning if the system does not allow
/// that.
///
/// # Errors
///
/// Returns an error if no daemon could work within the limit.
pub(super) fn raise(config: &Config) -> Result<(), Failure> {
    let needed = MIN_FILES + MAX_CONNECTIONS + preflight::probe_files(config);
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            warn!(%error, "cannot query the limit of open files");
            return Ok(());
        }
    };
    let Some(limit) = raised(soft, hard, needed) else {
        return Ok(());
    };
    let allowed = match setrlimit(Resource::RLIMIT_NOFILE, limit, hard) {
        Ok(()) => limit,
        Err(error) => {
            warn!(%error, limit, "cannot raise the limit of open files");
            soft
        }
    };
    if allowed < MIN_FILES {
        let text = format!(
            "the limit of open files is {allowed}, but this configuration needs {needed}; `ulimit \
             -n {needed}`, or LimitNOFILE={needed} in the unit"
        );
        return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)));
    }
    if allowed < needed {
        warn!(
            allowed,
            needed,
            "the limit of open files is too low: probes and clients of the API may fail; raise \
             `ulimit -Hn`, or LimitNOFILE= of the unit"
        );
    } else {
        info!(before = soft, now = allowed, "limit of open files raised");
    }
    Ok(())
}

/// Returns the limit to set, if the current one is too low.
fn raised(soft: u64, hard: u64, needed: u64) -> Option<u64> {
    (soft < needed).then_some(needed.min(hard).max(soft))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_is_needed_and_allowed() {
        for (soft, hard, needed, wanted) in [
            (1024, 4096, 1000, None),
            (1024, 4096, 1024, None),
            (1024, 4096, 2000, Some(2000)),
            (1024, 4096, 9000, Some(4096)),
            (40, 40, 700, Some(40)),
        ] {
            assert_eq!(raised(soft, hard, needed), wanted, "{soft} {hard} {needed}");
        }
    }
}
