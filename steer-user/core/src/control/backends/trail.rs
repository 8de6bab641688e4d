//! Trails: the last probes of backends, from which a replay decides again what they changed.

use std::collections::{HashMap, VecDeque};

use steer_probe::probe::Measurement;

use super::{change::Change, state::BackendState};
use crate::{
    control::record::recorder::Recorder,
    journal::{Event, Probe},
};

/// Probes of one backend that are written with a change. What came before them is in their base.
const MAX_PROBES: usize = 16;

/// Probes of a backend since its last change.
#[derive(Clone, Debug)]
struct Trail {
    /// State before the first of them.
    base: BackendState,
    probes: VecDeque<Probe>,
}

/// Trails by backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trails(HashMap<String, Trail>);

impl Trails {
    /// Keeps a measurement that `state` is about to take in, if there is a journal.
    pub(crate) fn push(
        &mut self,
        state: &BackendState,
        measurement: &Measurement,
        recorder: &Recorder,
    ) {
        if !recorder.is_on() {
            return;
        }
        let probe = Probe::from_measurement(measurement, recorder.micros(measurement.at));
        let new = || Trail {
            base: state.clone(),
            probes: VecDeque::with_capacity(MAX_PROBES),
        };
        let name = measurement.backend.clone();
        let trail = self.0.entry(name).or_insert_with(new);
        if trail.probes.len() == MAX_PROBES
            && let Some(first) = trail.probes.pop_front()
        {
            let first = first.measurement(&measurement.backend, recorder.epoch());
            trail.base.measure(&first);
        }
        trail.probes.push_back(probe);
    }

    /// Takes the trail that led to a change, as an event of it; `now` is the state behind the last probe.
    pub(crate) fn take(
        &mut self,
        backend: &str,
        change: &Change,
        now: &BackendState,
        recorder: &Recorder,
    ) -> Option<Event> {
        let trail = self.0.remove(backend)?;
        let base = BackendState {
            // What events of their own say is as it is now.
            watch: now.watch,
            verdict: now.verdict,
            ..trail.base
        };
        Some(Event::Backend {
            backend: backend.to_owned(),
            base: base.base(|at| recorder.micros(at)),
            probes: trail.probes.into(),
            health: change.health.map(|health| (health.from, health.to)),
            ring: change.ring,
            draining: change.draining,
            suppressed: change.suppressed,
            lossy: change.lossy,
            hot: change.hot,
            doubt: change.doubt,
        })
    }

    /// Forgets the probes of a backend: what is known of it does not follow from them any more.
    pub(crate) fn forget(&mut self, backend: &str) {
        self.0.remove(backend);
    }

    /// Forgets backends that are no longer configured.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }
}
