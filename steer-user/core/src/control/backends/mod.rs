//! States of backends, and what the operator wants of them.

pub(crate) mod change;
mod decisions;
pub(crate) mod drains;
pub(crate) mod state;
mod trail;

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use steer_common::tables::NextHop;
use steer_probe::probe::Measurement;
use tracing::info;

use self::{
    change::Change,
    drains::{Drain, Draining},
    state::{BackendState, rules},
    trail::Trails,
};
use super::{error::CommandError, host::WallClock, record::recorder::Recorder};
use crate::{
    config::{Backend, Config, MAX_CAPACITY},
    domain::health::State,
    journal::Event,
};

/// Drains and weights by the operator, by the names of backends, which need not be configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// Backends that are drained.
    pub drains: BTreeMap<String, Drain>,
    /// Weights in place of backends' capacities.
    pub weights: BTreeMap<String, u32>,
}

/// All backends of the configuration, by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backends {
    states: HashMap<String, BackendState>,
    operator: Operator,
    trails: Trails,
}

impl Backends {
    /// Begins with what the operator wanted before.
    pub(crate) fn new(operator: Operator) -> Self {
        Self {
            states: HashMap::new(),
            operator,
            trails: Trails::default(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&BackendState> {
        self.states.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut BackendState> {
        self.states.get_mut(name)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.states.contains_key(name)
    }

    /// All of them, in no order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut BackendState)> {
        self.states.iter_mut()
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Takes the backends of another configuration. One that is elsewhere now has to be measured anew.
    pub(crate) fn reconfigure(
        &mut self,
        before: &Config,
        config: &Config,
        clock: WallClock,
        now: Instant,
    ) {
        let before: HashMap<_, _> = before.backends.iter().map(|b| (&b.name, b)).collect();
        let place = |b: &Backend| (b.address, b.beacon, b.region.clone(), b.probes.clone());
        let (rise, fall) = (config.probe.rise, config.probe.fall);
        let mut states = HashMap::new();
        for backend in &config.backends {
            let name = &backend.name;
            let old = before.get(name).filter(|b| place(b) == place(backend));
            let known = old.and_then(|_| self.states.get(name)).cloned();
            let mut state = known.unwrap_or_else(|| {
                let drain = self.operator.drains.get(name).copied();
                BackendState {
                    drain: drain.map(|drain| Draining::start(drain, clock, now)),
                    weight: self.operator.weights.get(name).copied(),
                    ..BackendState::new(config)
                }
            });
            if old.is_none()
                || !state.health.has_thresholds(rise, fall)
                || state.rules != rules(config)
            {
                // Its earlier probes no longer explain what is known of it.
                self.trails.forget(name);
            }
            state.health.set_thresholds(rise, fall);
            state.rules = rules(config);
            states.insert(name.clone(), state);
        }
        self.states = states;
        self.trails.retain(|name| self.states.contains_key(name));
    }

    /// Returns whether all backends of a configuration are measured.
    pub(crate) fn all_measured(&self, config: &Config) -> bool {
        config
            .backends
            .iter()
            .all(|backend| self.is_measured(backend))
    }

    /// Returns whether a backend is measured.
    pub(crate) fn is_measured(&self, backend: &Backend) -> bool {
        let state = self.get(&backend.name);
        state.is_some_and(|state| state.health(backend) != State::Unknown)
    }

    /// Returns whether new flows may go to a backend by what is known of it, or was concluded before.
    pub(crate) fn is_sound(&self, backend: &Backend) -> bool {
        self.get(&backend.name).is_some_and(|state| !state.is_out())
    }

    /// Takes in a measurement; returns what it changed, `None` if its backend is not configured.
    pub(crate) fn measure(
        &mut self,
        measurement: &Measurement,
        recorder: &Recorder,
    ) -> Option<Change> {
        let state = self.states.get_mut(&measurement.backend)?;
        self.trails.push(state, measurement, recorder);
        Some(state.measure(measurement))
    }

    /// Records what a measurement changed.
    pub(crate) fn record(
        &mut self,
        measurement: &Measurement,
        change: &Change,
        recorder: &mut Recorder,
    ) {
        let (name, at) = (measurement.backend.as_str(), measurement.at);
        let Some(state) = self.states.get(name) else {
            return;
        };
        if let Some(event) = self.trails.take(name, change, state, recorder) {
            recorder.tell_at(at, event);
        }
        info!(
            backend = name,
            changes = %change,
            rtt_us = state.rtt().map(|rtt| rtt.as_micros() as u64),
            failure = state.failure.as_ref().map(ToString::to_string),
            "backend changed"
        );
        for decision in decisions::of_change(name, change, state) {
            recorder.decision(decision, at);
        }
    }

    /// Sets the next hop to a backend; false if it is that already, or the backend is not configured.
    pub(crate) fn set_next_hop(
        &mut self,
        name: &str,
        next_hop: Option<NextHop>,
        recorder: &mut Recorder,
    ) -> bool {
        let Some(state) = self.states.get_mut(name) else {
            return false;
        };
        if state.next_hop.replace(next_hop) == Some(next_hop) {
            return false;
        }
        let interface = next_hop.map(|hop| hop.interface);
        let mtu = next_hop.map(|hop| hop.mtu);
        info!(
            backend = name,
            interface, mtu, "next hop to backend changed"
        );
        recorder.record(Event::NextHop {
            backend: name.to_owned(),
            interface,
        });
        true
    }

    /// Drains a backend, or ends its drain; `by` says who wants it.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn drain(
        &mut self,
        name: &str,
        drain: Option<Drain>,
        by: &str,
        recorder: &mut Recorder,
        (clock, now): (WallClock, Instant),
    ) -> Result<(), CommandError> {
        let Some(state) = self.states.get_mut(name) else {
            return Err(CommandError::Unknown(name.to_owned()));
        };
        state.drain = drain.map(|drain| Draining::start(drain, clock, now));
        set(&mut self.operator.drains, name, drain);
        let (drained, until) = (drain.is_some(), drain.and_then(|drain| drain.until));
        let words = until.map(|until| format_rfc3339_seconds(until).to_string());
        info!(
            backend = name,
            drained,
            until = words,
            by,
            "drain set by the operator"
        );
        let effect = if drained {
            "drains"
        } else {
            "drains no longer"
        };
        recorder.decision(decisions::of_operator(name, by, effect.to_owned()), now);
        recorder.record(Event::Drained {
            by: by.to_owned(),
            backend: name.to_owned(),
            drained,
            until,
        });
        Ok(())
    }

    /// Gives a backend a weight in place of its capacity, or takes it back; `by` says who wants it.
    ///
    /// # Errors
    /// If there is none of that name, or the weight is out of range.
    pub(crate) fn weigh(
        &mut self,
        name: &str,
        weight: Option<u32>,
        by: &str,
        recorder: &mut Recorder,
        now: Instant,
    ) -> Result<(), CommandError> {
        let Some(state) = self.states.get_mut(name) else {
            return Err(CommandError::Unknown(name.to_owned()));
        };
        if weight.is_some_and(|weight| !(1..=MAX_CAPACITY).contains(&weight)) {
            return Err(CommandError::Weight);
        }
        state.weight = weight;
        set(&mut self.operator.weights, name, weight);
        info!(backend = name, weight, by, "weight set by the operator");
        let effect = weight.map_or("its capacity counts".to_owned(), |w| format!("weighs {w}"));
        recorder.decision(decisions::of_operator(name, by, effect), now);
        recorder.record(Event::WeightSet {
            by: by.to_owned(),
            backend: name.to_owned(),
            weight,
        });
        Ok(())
    }

    /// Ends drains whose deadline has passed: open flows are ended. Returns whether there are any.
    pub(crate) fn end_drains(&mut self, recorder: &mut Recorder, now: Instant) -> bool {
        let mut ended = Vec::new();
        for (name, state) in &mut self.states {
            if let Some(drain) = &mut state.drain
                && !drain.over
                && drain.deadline.is_some_and(|deadline| now >= deadline)
            {
                drain.over = true;
                ended.push(name.clone());
            }
        }
        ended.sort();
        let any = !ended.is_empty();
        for backend in ended {
            info!(backend, "drain ended by its deadline: open flows are ended");
            recorder.record(Event::DrainDeadline { backend });
        }
        any
    }
}

fn set<T>(all: &mut BTreeMap<String, T>, name: &str, value: Option<T>) {
    match value {
        Some(value) => drop(all.insert(name.to_owned(), value)),
        None => drop(all.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> Config {
        let text = "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n[nat]\n\
             addresses = [\"10.0.0.1\"]\n[[backend]]\nname = \"b\"\naddress = \"10.0.1.1\"\nmode = \"nat\"\n\
             [[pool]]\nname = \"p\"\nbackends = [\"b\"]\n[[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\n\
             port = 80\npools = [\"p\"]\n";
        Config::parse(text, "f.toml".as_ref()).unwrap()
    }

    #[test]
    fn what_the_operator_wants_outlives_the_backend_and_a_drain_ends_once() {
        let now = Instant::now();
        let clock = WallClock::new(now, SystemTime::UNIX_EPOCH);
        let mut recorder = Recorder::silent(clock);
        let mut backends = Backends::default();
        let config = config();
        backends.reconfigure(&config, &config, clock, now);
        let until = Some(SystemTime::UNIX_EPOCH + SECOND * 5);
        let drain = Some(Drain { until });
        let nobody = backends.drain("nobody", drain, "me", &mut recorder, (clock, now));
        assert!(matches!(nobody, Err(CommandError::Unknown(_))));
        let done = backends.drain("b", drain, "me", &mut recorder, (clock, now));
        assert!(done.is_ok());
        let none = backends.weigh("b", Some(0), "me", &mut recorder, now);
        assert!(matches!(none, Err(CommandError::Weight)));
        assert!(
            backends
                .weigh("b", Some(7), "me", &mut recorder, now)
                .is_ok()
        );
        assert!(!backends.end_drains(&mut recorder, now + SECOND * 4));
        assert!(backends.end_drains(&mut recorder, now + SECOND * 5));
        assert!(!backends.end_drains(&mut recorder, now + SECOND * 6));
        // Another daemon takes up what the operator said.
        let mut next = Backends::new(backends.operator().clone());
        next.reconfigure(&config, &config, clock, now + SECOND * 9);
        assert_eq!(next.get("b").unwrap().weight, Some(7));
        assert!(next.end_drains(&mut recorder, now + SECOND * 9));
    }
}
