//! Room of pools for ejections: weak evidence never ejects most of a pool at once.

use std::time::{Duration, Instant};

use crate::{
    control::{
        backends::{Backends, state::BackendState},
        site::Site,
    },
    domain::{evidence::Proof, health::State},
};

/// Span in which at most a third of a pool is ejected by hints and their questions.
const QUESTION_WINDOW: Duration = Duration::from_secs(60);
/// Part of a pool that weak evidence may eject: one in that many.
const EJECTABLE_PART: usize = 3;

/// Returns whether pools of a backend have room for one more ejection by a hint and its question: no more than a third
/// of a pool within a minute, and never the last one that serves.
pub(crate) fn for_question(site: &Site, backends: &Backends, backend: &str, now: Instant) -> bool {
    let state = backends.get(backend);
    if state.is_some_and(|state| state.verdict.proof() == Some(Proof::CompletionFailed)) {
        return true;
    }
    let recently = |at: Instant| now.saturating_duration_since(at) < QUESTION_WINDOW;
    where_others(site, backends, backend, |other| {
        other.questioned.is_some_and(recently)
    })
}

/// Returns whether in each pool of a backend less than a third of the others is so, and one of them serves.
pub(crate) fn where_others(
    site: &Site,
    backends: &Backends,
    backend: &str,
    is_so: impl Fn(&BackendState) -> bool,
) -> bool {
    let Some(index) = site.backend(backend) else {
        return true;
    };
    let pools = site.config.pools.iter();
    let mut pools = pools.filter(|pool| pool.backends.contains(&index));
    pools.all(|pool| {
        let others = pool.backends.iter().filter(|other| **other != index);
        let (mut so, mut serve) = (0, false);
        for other in others.map(|other| &site.config.backends[*other]) {
            let Some(state) = backends.get(&other.name) else {
                continue;
            };
            so += usize::from(is_so(state));
            let is_measured = state.health(other) != State::Unknown;
            serve |= is_measured && !state.is_out() && state.takes_new();
        }
        serve && so < (pool.backends.len() / EJECTABLE_PART).max(1)
    })
}
