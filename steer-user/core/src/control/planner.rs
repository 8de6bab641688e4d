//! The planner: from what is known of backends to members, weights and tables in the data path.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    backends::Backends,
    balancer::{
        Balancer,
        candidates::{CandidateInputs, Candidates},
    },
    health::{
        outlier_detection::OutlierDetection, panic_mode::PanicMode, passive_latency::PassiveLatency,
    },
    publish::{member::MemberPlan, plan, retired::RetiredMembers},
    record::recorder::Recorder,
    site::Site,
    tables::{Build, Tables},
};
use crate::{
    dataplane::Dataplane,
    domain::balance::{BalancePolicy, Cause},
};

/// Interval of [`Controller::poll`](super::Controller::poll).
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Data path, and what it is planned from.
pub(crate) struct Scene<'a, D> {
    pub(crate) site: &'a Site,
    pub(crate) dataplane: &'a mut D,
    pub(crate) backends: &'a Backends,
    pub(crate) outliers: &'a OutlierDetection,
    pub(crate) passive: &'a PassiveLatency,
    pub(crate) recorder: &'a mut Recorder,
    pub(crate) now: Instant,
}

/// Components that write the data path.
#[derive(Clone, Debug)]
pub(crate) struct Planner {
    pub(crate) tables: Tables,
    pub(crate) balancer: Balancer,
    pub(crate) panic: PanicMode,
    pub(crate) retired: RetiredMembers,
}

impl Planner {
    /// Begins over a data path; tables that it has stay as they are for a time.
    pub(crate) fn new(
        dataplane: &impl Dataplane,
        policy: Arc<dyn BalancePolicy>,
        now: Instant,
    ) -> Self {
        Self {
            tables: if dataplane.services().is_empty() {
                Tables::default()
            } else {
                Tables::adopted(now)
            },
            balancer: Balancer::new(policy, now),
            panic: PanicMode::default(),
            retired: RetiredMembers::default(),
        }
    }

    /// The same planner for a dry run: tables may change at once.
    pub(crate) fn for_dry_run(&self) -> Self {
        Self {
            tables: self.tables.for_dry_run(),
            balancer: self.balancer.clone(),
            panic: self.panic.clone(),
            retired: self.retired.clone(),
        }
    }

    /// Takes another configuration, before it is published.
    pub(crate) fn reconfigure<D: Dataplane>(&mut self, scene: &Scene<'_, D>) {
        self.tables.reconfigure(scene.site);
        self.balancer.retain(scene.site, scene.backends);
        self.panic.reconfigure(scene.site);
        self.retired.start(scene.site, scene.dataplane, scene.now);
    }

    /// Writes members' states, and tables where they follow.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn replan<D: Dataplane>(
        &mut self,
        scene: &mut Scene<'_, D>,
        why: &str,
    ) -> Result<()> {
        let all: Vec<usize> = (0..scene.site.policies.len()).collect();
        self.panic
            .update(&all, scene.site, scene.backends, scene.recorder);
        self.write_members(scene)?;
        if !self.unfreeze(scene) {
            return Ok(());
        }
        for policy in all {
            self.step(scene, policy, (Cause::Loss, why));
        }
        self.retire(scene)
    }

    /// Writes the states of all members.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn write_members<D: Dataplane>(&mut self, scene: &mut Scene<'_, D>) -> Result<()> {
        let ops = self.members(scene).all();
        plan::execute(scene.dataplane, ops)
    }

    /// Writes one backend's members.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn write_members_of<D: Dataplane>(
        &mut self,
        scene: &mut Scene<'_, D>,
        backend: &str,
    ) -> Result<()> {
        let ops = self.members(scene).of_backend(backend);
        plan::execute(scene.dataplane, ops)
    }

    /// Writes one backend's members at once, and the tables that it may serve: small ones at once, large ones at the
    /// next poll.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn replan_backend<D: Dataplane>(
        &mut self,
        scene: &mut Scene<'_, D>,
        backend: &str,
    ) -> Result<()> {
        self.write_members_of(scene, backend)?;
        let site = scene.site;
        let policies = site.policies_of(backend);
        let queue = &mut self.tables.queue;
        let small = queue.defer_large(policies, |policy| site.slots(policy));
        self.replan_policies(scene, &small, backend)
    }

    fn replan_policies<D: Dataplane>(
        &mut self,
        scene: &mut Scene<'_, D>,
        policies: &[usize],
        why: &str,
    ) -> Result<()> {
        let site = scene.site;
        self.panic
            .update(policies, site, scene.backends, scene.recorder);
        let services = policies.iter().map(|policy| site.policies[*policy].service);
        let mut services: Vec<usize> = services.collect();
        services.dedup();
        let members = self.members(scene);
        let services = services.into_iter();
        let ops = services.flat_map(|service| members.of_service(service));
        let ops = ops.collect();
        plan::execute(scene.dataplane, ops)?;
        if !self.unfreeze(scene) {
            return Ok(());
        }
        for policy in policies {
            self.step(scene, *policy, (Cause::Loss, why));
            self.tables.queue.built(*policy);
        }
        if self.retired.any() {
            self.retire(scene)?;
        }
        Ok(())
    }

    /// Has the tables of a backend built, when there is time: its ring or weight changed.
    pub(crate) fn move_rings(&mut self, site: &Site, backend: &str) {
        self.tables.queue.move_rings(site.policies_of(backend));
    }

    /// Writes hot bits of a backend's members: the kernel does the rest. Where that fills a tier, the table follows at
    /// the next poll.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn update_hot<D: Dataplane>(
        &mut self,
        scene: &mut Scene<'_, D>,
        backend: &str,
    ) -> Result<()> {
        self.tables.queue.heat(scene.site.policies_of(backend));
        self.write_members_of(scene, backend)
    }

    /// Builds the tables that were deferred.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn run_deferred<D: Dataplane>(&mut self, scene: &mut Scene<'_, D>) -> Result<()> {
        let (site, now) = (scene.site, scene.now);
        let due = self.tables.queue.take_due();
        if !due.is_empty() {
            self.replan_policies(scene, &due, "backends")?;
        }
        while let Some(policy) = self.tables.queue.next_moved(|p| site.slots(p), now) {
            self.replan_policies(scene, &[policy], "rings")?;
        }
        for policy in self.tables.queue.take_heated() {
            self.rebuild_if_filled(scene, policy);
        }
        self.tables.queue.all_written();
        Ok(())
    }

    fn rebuild_if_filled<D: Dataplane>(&mut self, scene: &mut Scene<'_, D>, policy: usize) {
        if self.tables.is_frozen() {
            return;
        }
        let Some(candidates) = self.candidates(scene, policy) else {
            return;
        };
        let build = self.build(scene.site, policy, "full", &candidates);
        if self.tables.fills(scene.site, &build) {
            self.tables.rebuild(
                scene.site,
                &build,
                scene.dataplane,
                scene.recorder,
                scene.now,
            );
        }
    }

    /// Makes the steps of weights that are due.
    ///
    /// # Errors
    /// If counters cannot be read.
    pub(crate) fn balance<D: Dataplane>(&mut self, scene: &mut Scene<'_, D>) -> Result<()> {
        if self.tables.is_frozen() {
            return Ok(());
        }
        let (site, now) = (scene.site, scene.now);
        let due = self
            .balancer
            .due(site, scene.dataplane, POLL_INTERVAL, now)?;
        for policy in due {
            self.step(scene, policy, (Cause::Time, "load"));
        }
        Ok(())
    }

    /// Makes a step of one table's weights, and builds the table of the same candidates.
    fn step<D: Dataplane>(
        &mut self,
        scene: &mut Scene<'_, D>,
        policy: usize,
        (cause, why): (Cause, &str),
    ) {
        let Some(candidates) = self.candidates(scene, policy) else {
            return;
        };
        let (site, now) = (scene.site, scene.now);
        self.balancer
            .step(site, policy, &candidates, cause, scene.recorder, now);
        let build = self.build(site, policy, why, &candidates);
        self.tables
            .rebuild(site, &build, scene.dataplane, scene.recorder, now);
    }

    fn build<'a>(
        &self,
        site: &Site,
        policy: usize,
        why: &'a str,
        candidates: &'a Candidates,
    ) -> Build<'a> {
        let state = self.balancer.state(&site.policy_name(policy));
        Build {
            policy,
            why,
            candidates,
            shares: self.balancer.shares(&state, candidates),
            state,
        }
    }

    /// Does what is due by time alone.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn tick<D: Dataplane>(&mut self, scene: &mut Scene<'_, D>) -> Result<()> {
        if self.tables.is_thaw_due(scene.now) {
            self.replan(scene, "backends that do not answer")?;
        }
        if self.retired.end_handover(scene.now) && !self.tables.is_frozen() {
            self.retire(scene)?;
        }
        Ok(())
    }

    fn unfreeze<D: Dataplane>(&mut self, scene: &Scene<'_, D>) -> bool {
        self.tables.unfreeze(scene.site, scene.backends, scene.now)
    }

    fn retire<D: Dataplane>(&self, scene: &mut Scene<'_, D>) -> Result<()> {
        let ops = self.retired.ops(scene.site, scene.dataplane, scene.now);
        plan::execute(scene.dataplane, ops)
    }

    pub(crate) fn members<'a, D: Dataplane>(
        &'a self,
        scene: &'a Scene<'_, D>,
    ) -> MemberPlan<'a, D> {
        MemberPlan {
            site: scene.site,
            dataplane: scene.dataplane,
            backends: scene.backends,
            panic: &self.panic,
        }
    }

    /// The candidates of a policy.
    pub(crate) fn candidates<D: Dataplane>(
        &self,
        scene: &Scene<'_, D>,
        policy: usize,
    ) -> Option<Candidates> {
        let inputs = CandidateInputs {
            site: scene.site,
            dataplane: &*scene.dataplane,
            backends: scene.backends,
            panic: &self.panic,
            outliers: scene.outliers,
            passive: scene.passive,
            rates: self.balancer.rates(),
            now: scene.now,
        };
        inputs.get(policy)
    }
}
