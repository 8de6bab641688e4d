//! Evidence: brings what probes, connections and clients say of backends to verdicts, and verdicts to the planner.

use std::time::Instant;

use anyhow::Result;
use steer_probe::probe::{Measurement, confirmation::Outcome};

use super::{
    backends::{Backends, change::Change},
    health::{Health, ejection::Ejection, passive_latency::PassiveLatency},
    planner::{Planner, Scene},
    record::recorder::Recorder,
    site::Site,
};
use crate::{dataplane::Dataplane, domain::passive::Verdict};

/// Components that evidence passes through.
pub(crate) struct Evidence<'a, D> {
    pub(crate) site: &'a Site,
    pub(crate) dataplane: &'a mut D,
    pub(crate) backends: &'a mut Backends,
    pub(crate) health: &'a mut Health,
    pub(crate) passive: &'a PassiveLatency,
    pub(crate) planner: &'a mut Planner,
    pub(crate) recorder: &'a mut Recorder,
}

impl<D: Dataplane> Evidence<'_, D> {
    /// Takes a measurement. Members' states change at once, tables behind them.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn measure(&mut self, mut measurement: Measurement) -> Result<()> {
        // By the journal's clock, so that a replay decides alike.
        measurement.at = self.recorder.on_clock(measurement.at);
        let (name, now) = (measurement.backend.as_str(), measurement.at);
        let Some(change) = self.backends.measure(&measurement, self.recorder) else {
            return Ok(());
        };
        let (site, backends) = (self.site, &mut *self.backends);
        let is_in_question = self
            .health
            .question(name, site, backends, self.recorder, now);
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
        self.backends.record(measurement, change, self.recorder);
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

    /// Takes in what connections say of all backends.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub(crate) fn poll_outliers(&mut self, now: Instant) -> Result<()> {
        let site = self.site;
        let due = self.health.read_connections(site, self.dataplane, now)?;
        self.queue_reweighted();
        let mut done = Ok(());
        for index in due.backends.iter().copied() {
            let backends = &mut *self.backends;
            let outlier = self
                .health
                .outlier(index, site, backends, &*self.dataplane, now);
            let found = (&due, outlier);
            let ejection = self
                .health
                .observe(index, found, site, backends, self.recorder, now);
            self.queue_reweighted();
            if let Some(ejection) = ejection {
                // What cannot be written of one keeps nothing from the others.
                done = done.and(self.apply_ejection(&ejection));
            }
            self.health
                .watch_again(index, site, self.backends, self.recorder, now);
        }
        done
    }

    /// Queues tables of backends whose weight changed with their failures.
    fn queue_reweighted(&mut self) {
        for index in self.health.outliers.take_reweighted() {
            let name = &self.site.config.backends[index].name;
            self.planner.move_rings(self.site, name);
        }
    }

    /// Does what follows from what connections say of a backend.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn apply_ejection(&mut self, ejection: &Ejection) -> Result<()> {
        let (name, now) = (ejection.backend.as_str(), ejection.at);
        let decision = ejection.decision(self.backends.get(name));
        self.recorder.decision(decision, now);
        self.judge(name, now);
        if ejection.verdict == Verdict::Again {
            self.health.forget_failures(name, self.site);
            self.planner.balancer.start_slow_start(self.site, name);
        }
        self.replan_backend(name, now)
    }

    /// Takes in how a connection of this node's own ended.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn confirm(&mut self, backend: &str, outcome: Outcome, now: Instant) -> Result<()> {
        let now = self.recorder.on_clock(now);
        let (site, backends, recorder) = (self.site, &mut *self.backends, &mut *self.recorder);
        let verdict = self
            .health
            .confirm(backend, outcome, site, backends, recorder, now);
        match verdict {
            Some(verdict) => self.apply_confirmation(backend, (outcome, verdict), now),
            None if self.judge(backend, now) => self.replan_backend(backend, now),
            None => Ok(()),
        }
    }

    /// Does what follows from a connection of this node's own.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn apply_confirmation(
        &mut self,
        backend: &str,
        found: (Outcome, Verdict),
        now: Instant,
    ) -> Result<()> {
        self.health
            .record_confirmation(backend, found, self.recorder, now);
        self.judge(backend, now);
        if found.1 == Verdict::Accepts {
            self.planner.balancer.start_slow_start(self.site, backend);
        }
        self.replan_backend(backend, now)
    }

    /// Judges backends that time, or what clients get, may have changed.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn judge_questionable(&mut self, now: Instant) -> Result<()> {
        let mut done = Ok(());
        for index in self.health.take_questionable() {
            let name = &self.site.config.backends[index].name;
            if self.judge(name, self.recorder.on_clock(now)) {
                done = done.and(self.replan_backend(name, now));
            }
            self.health.question_again(index, self.backends.get(name));
        }
        done
    }

    fn judge(&mut self, backend: &str, now: Instant) -> bool {
        self.health
            .judge(backend, self.site, self.backends, self.recorder, now)
    }

    fn replan_backend(&mut self, backend: &str, now: Instant) -> Result<()> {
        let (planner, mut scene) = self.scene(now);
        planner.replan_backend(&mut scene, backend)
    }

    fn scene(&mut self, now: Instant) -> (&mut Planner, Scene<'_, D>) {
        let scene = Scene {
            site: self.site,
            dataplane: self.dataplane,
            backends: self.backends,
            outliers: &self.health.outliers,
            passive: self.passive,
            recorder: self.recorder,
            now,
        };
        (self.planner, scene)
    }
}
