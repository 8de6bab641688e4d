//! The controller: brings events to the components, and what changes by them to the data path. It takes the clock as an
//! argument, and waits for nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use steer_common::tables::NextHop;

use super::{
    admission::Admission,
    backends::{Backends, change::Change, drains::Drain},
    error::CommandError,
    health::{Ejection, Health, confirmations::ConnectionRequest, passive_latency::PassiveLatency},
    host::{Host, WallClock},
    planner::{Planner, Scene},
    publish::{self, plan, settings::Tuning},
    record::recorder::Recorder,
    report::view::View,
    site::Site,
    start::Start,
    tables::gc::GarbageCollection,
};
use crate::{
    config::Config,
    dataplane::{Dataplane, Memory},
    domain::{confirmation::Outcome, passive::Verdict},
    journal::Event,
    probe::Measurement,
};

/// Interval of [`Controller::poll`].
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Interval of garbage collections, unless the operator sets another.
pub const GC_INTERVAL: Duration = Duration::from_secs(10);

/// Components over a data path.
pub struct Controller<D> {
    pub(crate) site: Site,
    pub(crate) dataplane: D,
    pub(crate) backends: Backends,
    pub(crate) health: Health,
    pub(crate) passive: PassiveLatency,
    pub(crate) planner: Planner,
    pub(crate) admission: Admission,
    pub(crate) gc: GarbageCollection,
    pub(crate) recorder: Recorder,
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

    /// As [`Self::new`], with a journal, a machine and what the operator set before.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn start(config: Config, dataplane: D, start: Start, now: Instant) -> Result<Self> {
        let mut controller = Self {
            site: Site::unpublished(config.clone()),
            backends: Backends::new(start.operator),
            health: Health::default(),
            passive: PassiveLatency::default(),
            planner: Planner::new(&dataplane, now),
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

    /// A copy over a fake of the data path, to try something on: not frozen, and recording nothing.
    pub(crate) fn over_fake(&self, now: Instant) -> Controller<Memory> {
        Controller {
            site: self.site.clone(),
            dataplane: Memory::of(&self.dataplane),
            backends: self.backends.clone(),
            health: self.health.clone(),
            passive: self.passive.for_dry_run(),
            planner: self.planner.for_dry_run(),
            admission: Admission::default(),
            gc: GarbageCollection::new(now),
            recorder: Recorder::silent(self.host.clock),
            tuning: self.tuning,
            host: self.host,
        }
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
    pub fn measure(&mut self, mut measurement: Measurement) -> Result<()> {
        // By the journal's clock, so that a replay decides alike.
        measurement.at = self.recorder.on_clock(measurement.at);
        let (name, now) = (measurement.backend.as_str(), measurement.at);
        let Some(change) = self.backends.measure(&measurement, &self.recorder) else {
            return Ok(());
        };
        let (site, backends) = (&self.site, &mut self.backends);
        let is_in_question = self
            .health
            .question(name, site, backends, &self.recorder, now);
        if change.any() {
            return self.apply_change(&measurement, &change);
        }
        if is_in_question && self.judge(name, now) {
            return self.replan_backend(name, now);
        }
        Ok(())
    }

    fn apply_change(&mut self, measurement: &Measurement, change: &Change) -> Result<()> {
        let (name, now) = (measurement.backend.as_str(), measurement.at);
        self.backends
            .record(measurement, change, &mut self.recorder);
        let is_judged = self.judge(name, now);
        let (planner, mut scene) = self.scene(now);
        if change.recovered() {
            planner.balancer.start_slow_start(scene.site, name);
        }
        if change.is_only_ring() && !is_judged {
            // Tables that may wait are not what the time until all is written is about.
            planner.move_rings(scene.site, name);
            return Ok(());
        }
        if change.is_only_hot() && !is_judged {
            planner.update_hot(&mut scene, name)?;
        } else {
            planner.replan_backend(&mut scene, name)?;
        }
        planner.tables.queue.measured(now);
        Ok(())
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
            self.dataplane.add_port(hop.interface)?;
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
        if self
            .gc
            .is_due(self.tuning.gc_interval.unwrap_or(GC_INTERVAL), now)
        {
            let tuning = (&self.tuning, self.host.cpus);
            let limits = publish::gc_limits(site, tuning, dataplane, self.gc.nat_entries());
            self.admission.in_flight.read(site, dataplane);
            self.gc.begin(site, limits, dataplane, now)?;
        }
        let Some(sweep) = self.gc.poll(site, dataplane)? else {
            return Ok(());
        };
        self.admission.in_flight.correct(dataplane, &sweep);
        self.passive.take(&sweep, site, dataplane);
        let retired = &mut self.planner.retired;
        retired.release(site, dataplane, &mut self.recorder, &sweep, now)
    }

    /// Does what is due soon: takes in what connections say of backends, and makes the steps of weights.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub fn poll(&mut self, now: Instant) -> Result<()> {
        self.poll_outliers(now)?;
        self.judge_questionable(now)?;
        let (planner, mut scene) = self.scene(now);
        planner.run_deferred(&mut scene)?;
        planner.balance(&mut scene, POLL_INTERVAL)
    }

    /// Takes in what connections say of all backends.
    fn poll_outliers(&mut self, now: Instant) -> Result<()> {
        let due = self
            .health
            .read_connections(&self.site, &mut self.dataplane, now)?;
        self.queue_reweighted();
        let mut done = Ok(());
        for index in due.backends.iter().copied() {
            let (site, backends) = (&self.site, &mut self.backends);
            let outlier = self
                .health
                .outlier(index, site, backends, &self.dataplane, now);
            let (found, recorder) = ((&due, outlier), &mut self.recorder);
            let ejection = self
                .health
                .observe(index, found, site, backends, recorder, now);
            self.queue_reweighted();
            if let Some(ejection) = ejection {
                // What cannot be written of one keeps nothing from the others.
                done = done.and(self.apply_ejection(&ejection));
            }
            let (site, backends) = (&self.site, &mut self.backends);
            self.health
                .watch_again(index, site, backends, &self.recorder, now);
        }
        done
    }

    /// Queues tables of backends whose weight changed with their failures.
    fn queue_reweighted(&mut self) {
        for index in self.health.outliers.take_reweighted() {
            let name = &self.site.config.backends[index].name;
            self.planner.move_rings(&self.site, name);
        }
    }

    /// Does what follows from what connections say of a backend.
    pub(crate) fn apply_ejection(&mut self, ejection: &Ejection) -> Result<()> {
        let (name, now) = (ejection.backend.as_str(), ejection.at);
        self.recorder
            .decision(ejection.decision(self.backends.get(name)), now);
        self.judge(name, now);
        if ejection.verdict == Verdict::Again {
            self.health.forget_failures(name, &self.site);
            self.planner.balancer.start_slow_start(&self.site, name);
        }
        self.replan_backend(name, now)
    }

    /// Takes in how a connection of this node's own ended.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn confirm(&mut self, backend: &str, outcome: Outcome, now: Instant) -> Result<()> {
        let now = self.recorder.on_clock(now);
        let (site, backends, recorder) = (&self.site, &mut self.backends, &mut self.recorder);
        match self
            .health
            .confirm(backend, outcome, site, backends, recorder, now)
        {
            Some(verdict) => self.apply_confirmation(backend, (outcome, verdict), now),
            None if self.judge(backend, now) => self.replan_backend(backend, now),
            None => Ok(()),
        }
    }

    /// Does what follows from a connection of this node's own.
    pub(crate) fn apply_confirmation(
        &mut self,
        backend: &str,
        (outcome, verdict): (Outcome, Verdict),
        now: Instant,
    ) -> Result<()> {
        let found = (outcome, verdict);
        self.health
            .record_confirmation(backend, found, &mut self.recorder, now);
        self.judge(backend, now);
        if verdict == Verdict::Accepts {
            self.planner.balancer.start_slow_start(&self.site, backend);
        }
        self.replan_backend(backend, now)
    }

    /// Judges backends that time, or what clients get, may have changed.
    fn judge_questionable(&mut self, now: Instant) -> Result<()> {
        let mut done = Ok(());
        for index in self.health.take_questionable() {
            let name = self.site.config.backends[index].name.clone();
            if self.judge(&name, self.recorder.on_clock(now)) {
                done = done.and(self.replan_backend(&name, now));
            }
            self.health.question_again(index, self.backends.get(&name));
        }
        done
    }

    fn judge(&mut self, backend: &str, now: Instant) -> bool {
        let (site, backends) = (&self.site, &mut self.backends);
        self.health
            .judge(backend, site, backends, &mut self.recorder, now)
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

    /// Writes the states of one backend's members, and tables where they follow.
    pub(crate) fn replan_backend(&mut self, backend: &str, now: Instant) -> Result<()> {
        let (planner, mut scene) = self.scene(now);
        planner.replan_backend(&mut scene, backend)
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
        }
    }

    /// The data path.
    pub fn dataplane(&mut self) -> &mut D {
        &mut self.dataplane
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

    /// Records an event of the daemon.
    pub fn record(&mut self, event: Event) {
        self.recorder.tell(event);
    }

    /// Records the configuration that counts from now on.
    pub fn record_configuration(&mut self, configured: Event) {
        self.recorder.configured(configured);
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.site.config
    }

    /// Values that the operator set.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The flow seed of the maps in use.
    pub fn flow_seed(&self) -> u64 {
        self.dataplane.config().flow_seed
    }
}
