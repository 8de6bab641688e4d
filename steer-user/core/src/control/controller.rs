//! The controller: brings events to the components, and what changes by them to the data path. It takes the clock as an
//! argument, and waits for nothing.

use std::time::Instant;

use anyhow::Result;
use steer_common::tables::NextHop;
use steer_probe::probe::{Measurement, confirmation::Outcome};

use super::{
    admission::Admission,
    backends::{Backends, drains::Drain},
    error::CommandError,
    evidence::Evidence,
    health::{Health, confirmations::ConnectionRequest, passive_latency::PassiveLatency},
    host::{Host, WallClock},
    planner::{Planner, Scene},
    publish::{self, plan, tuning::Tuning},
    record::recorder::Recorder,
    report::view::View,
    site::Site,
    start::Start,
    tables::gc::GarbageCollection,
};
use crate::{config::Config, dataplane::Dataplane};

/// Components over a data path.
pub struct Controller<D> {
    pub(crate) site: Site,
    /// The data path.
    pub dataplane: D,
    pub(crate) backends: Backends,
    pub(crate) health: Health,
    pub(crate) passive: PassiveLatency,
    pub(crate) planner: Planner,
    pub(crate) admission: Admission,
    pub(crate) gc: GarbageCollection,
    /// Journal and last decisions.
    pub recorder: Recorder,
    pub(crate) tuning: Tuning,
    pub(crate) host: Host,
}

impl<D: Dataplane> Controller<D> {
    /// Makes the data path what the configuration says. Members and tables that it has already go on.
    ///
    /// # Errors
    /// If the configuration needs more than the data path holds.
    pub fn new(config: Config, dataplane: D, now: Instant) -> Result<Self> {
        Self::start(config, dataplane, Start::simulated(now), now)
    }

    /// Begins as [`Self::new`] does, with a journal, a machine and what the operator set before.
    pub fn start(config: Config, dataplane: D, start: Start, now: Instant) -> Result<Self> {
        let mut controller = Self {
            site: Site::unpublished(config.clone()),
            backends: Backends::new(start.operator),
            health: Health::default(),
            passive: PassiveLatency::default(),
            planner: Planner::new(&dataplane, start.policy, now),
            admission: Admission::default(),
            gc: GarbageCollection::new(now),
            recorder: start.recorder,
            tuning: Tuning::default(),
            host: start.host,
            dataplane,
        };
        controller.reconfigure(config, now)?;
        Ok(controller)
    }

    /// Takes another configuration. On an error nothing has changed.
    ///
    /// # Errors
    /// If it needs more than the data path holds.
    pub fn reconfigure(&mut self, config: Config, now: Instant) -> Result<()> {
        let tuning = (&self.tuning, self.host.cpus);
        let regions = &self.site.regions;
        let publication = publish::prepare(config, regions, tuning, &mut self.dataplane)?;
        let before = std::mem::replace(&mut self.site, publication.site).config;
        let (config, clock) = (&self.site.config, self.host.clock);
        self.backends.reconfigure(&before, config, clock, now);
        self.health.reconfigure(&before, &self.site);
        self.admission.shedding.reconfigure(&self.site);
        let (planner, scene) = self.scene(now);
        planner.reconfigure(&scene);
        let mut ops = publication.ops;
        ops.extend(planner.members(&scene).all());
        plan::execute(scene.dataplane, ops)?;
        planner.tables.adopt_slots(scene.site, scene.dataplane, now);
        self.passive
            .measure_members(&self.site, &mut self.dataplane);
        let (backends, policies) = (&self.backends, self.site.policy_names());
        let is_backend = |name: &str| backends.contains(name);
        self.recorder
            .retain(is_backend, |name| policies.contains(name));
        self.replan(now, "configuration")
    }

    /// Takes a measurement. Members' states change at once, tables behind them.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn measure(&mut self, measurement: Measurement) -> Result<()> {
        self.evidence().measure(measurement)
    }

    /// Takes in how a connection that was asked for ended, unless the backend has moved since.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn answer_request(
        &mut self,
        request: &ConnectionRequest,
        outcome: Outcome,
        now: Instant,
    ) -> Result<()> {
        let index = self.site.backend(&request.backend);
        let backend = index.map(|index| &self.site.config.backends[index]);
        if backend.is_none_or(|backend| backend.address != request.address.ip()) {
            return Ok(());
        }
        self.confirm(&request.backend, outcome, now)
    }

    /// Takes in how a connection of this node's own ended.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn confirm(&mut self, backend: &str, outcome: Outcome, now: Instant) -> Result<()> {
        self.evidence().confirm(backend, outcome, now)
    }

    /// Takes the next hop to a backend, as routes and neighbours are now.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn set_next_hop(
        &mut self,
        name: &str,
        next_hop: Option<NextHop>,
        now: Instant,
    ) -> Result<()> {
        if !self
            .backends
            .set_next_hop(name, next_hop, &mut self.recorder)
        {
            return Ok(());
        }
        if let Some(hop) = next_hop {
            self.dataplane.add_egress_interface(hop.interface)?;
        }
        let (planner, mut scene) = self.scene(now);
        planner.write_members_of(&mut scene, name)
    }

    /// Does what is due by time alone.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub fn tick(&mut self, now: Instant) -> Result<()> {
        let drains_ended = self.backends.end_drains(&mut self.recorder, now);
        let (planner, mut scene) = self.scene(now);
        if drains_ended {
            planner.write_members(&mut scene)?;
        }
        planner.tick(&mut scene)?;
        let (site, dataplane) = (&self.site, &mut self.dataplane);
        self.admission
            .shedding
            .apply(site, dataplane, &mut self.recorder, now);
        self.planner.tables.settle(site, dataplane, now);
        self.collect_garbage(now)
    }

    fn collect_garbage(&mut self, now: Instant) -> Result<()> {
        let (site, dataplane) = (&self.site, &mut self.dataplane);
        if self.gc.is_due(self.tuning.gc_interval(), now) {
            let tuning = (&self.tuning, self.host.cpus);
            let limits = publish::gc_limits(site, tuning, dataplane, self.gc.nat_entries());
            self.admission.in_flight.read(site, dataplane);
            self.gc.start(site, limits, dataplane, now)?;
        }
        let Some(sweep) = self.gc.poll(site, dataplane)? else {
            return Ok(());
        };
        self.admission.in_flight.correct(dataplane, &sweep);
        self.passive.add_report(&sweep, site, dataplane);
        let retired = &mut self.planner.retired;
        retired.release(site, dataplane, &mut self.recorder, &sweep, now)
    }

    /// Does what is due soon: takes in what connections say of backends, and makes the steps of weights.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub fn poll(&mut self, now: Instant) -> Result<()> {
        let mut evidence = self.evidence();
        evidence.poll_outliers(now)?;
        evidence.judge_questionable(now)?;
        let (planner, mut scene) = self.scene(now);
        planner.run_deferred(&mut scene)?;
        planner.balance(&mut scene)
    }

    /// Drains a backend, or ends its drain; `by` says who wants it.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn drain(
        &mut self,
        name: &str,
        drain: Option<Drain>,
        by: &str,
        now: Instant,
    ) -> Result<(), CommandError> {
        let clock = (self.host.clock, now);
        self.backends
            .drain(name, drain, by, &mut self.recorder, clock)?;
        self.replan(now, name).map_err(CommandError::Failed)
    }

    /// Gives a backend a weight in place of its capacity, or takes it back; `by` says who wants it.
    ///
    /// # Errors
    /// If there is none of that name, or the weight is out of range.
    pub fn weigh(
        &mut self,
        name: &str,
        weight: Option<u32>,
        by: &str,
        now: Instant,
    ) -> Result<(), CommandError> {
        self.backends
            .weigh(name, weight, by, &mut self.recorder, now)?;
        self.replan(now, name).map_err(CommandError::Failed)
    }

    /// Sets values that the configuration does not have.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn tune(&mut self, tuning: Tuning) -> Result<()> {
        self.tuning = tuning;
        let tuning = (&self.tuning, self.host.cpus);
        let ops = publish::settings_ops(&self.site, tuning, &self.dataplane);
        plan::execute(&mut self.dataplane, ops)
    }

    /// Writes members' states, and tables where they follow.
    pub(crate) fn replan(&mut self, now: Instant, why: &str) -> Result<()> {
        let (planner, mut scene) = self.scene(now);
        planner.replan(&mut scene, why)
    }

    /// The components that evidence passes through.
    pub(crate) fn evidence(&mut self) -> Evidence<'_, D> {
        Evidence {
            site: &self.site,
            dataplane: &mut self.dataplane,
            backends: &mut self.backends,
            health: &mut self.health,
            passive: &self.passive,
            planner: &mut self.planner,
            recorder: &mut self.recorder,
        }
    }

    /// The planner, and what it plans from.
    pub(crate) fn scene(&mut self, now: Instant) -> (&mut Planner, Scene<'_, D>) {
        let scene = Scene {
            site: &self.site,
            dataplane: &mut self.dataplane,
            backends: &self.backends,
            outliers: &self.health.outliers,
            passive: &self.passive,
            recorder: &mut self.recorder,
            now,
        };
        (&mut self.planner, scene)
    }

    /// All that can be asked.
    pub fn view(&self) -> View<'_, D> {
        View {
            site: &self.site,
            dataplane: &self.dataplane,
            backends: &self.backends,
            health: &self.health,
            passive: &self.passive,
            planner: &self.planner,
            gc: &self.gc,
            admission: &self.admission,
            recorder: &self.recorder,
            tuning: &self.tuning,
        }
    }

    /// Takes the connections of this node's own to try that were asked for since the last call.
    pub fn take_connection_requests(&mut self) -> Vec<ConnectionRequest> {
        self.health.take_requests()
    }

    /// Takes the times of measurements that changed something, all of it written since the last call.
    pub fn take_written(&mut self) -> Vec<Instant> {
        self.planner.tables.queue.take_written()
    }

    /// Sets the wall clock that decisions and drains go by.
    pub fn set_clock(&mut self, clock: WallClock) {
        self.host.clock = clock;
        self.recorder.set_clock(clock);
    }
}
