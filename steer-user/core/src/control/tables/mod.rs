//! Tables: choices of slots follow the weights of members, and owners follow the choices.

pub(crate) mod arena;
pub(crate) mod build;
pub(crate) mod build_cache;
pub(crate) mod gc;
pub(crate) mod ranges;
pub(crate) mod rebuild_queue;
pub(crate) mod slots;

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use self::{
    build::Member, build_cache::BuildCache, rebuild_queue::RebuildQueue, slots::MigratingSlots,
};
use super::{
    backends::Backends,
    balancer::candidates::Candidates,
    record::recorder::{Decided, Recorder},
    site::Site,
};
use crate::{
    dataplane::Dataplane,
    domain::{
        balance::{Shares, State, Tier},
        maglev::Choice,
    },
};

/// Time that adopted tables stay as they are while not all backends are measured.
const FROZEN: Duration = Duration::from_secs(3);

/// Tables of all policies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) queue: RebuildQueue,
    slots: MigratingSlots,
    cache: BuildCache,
    /// Tiers that are full, by the name of the policy.
    full: HashMap<String, BTreeSet<Tier>>,
    /// Time until which tables do not change, unless all backends are measured.
    frozen: Option<Instant>,
}

/// Inputs of a table.
pub(crate) struct Build<'a> {
    pub(crate) policy: usize,
    /// Cause of the build, for logs and the journal.
    pub(crate) why: &'a str,
    pub(crate) candidates: &'a Candidates,
    pub(crate) state: State,
    pub(crate) shares: Shares,
}

impl Tables {
    /// Tables that an earlier daemon left stay as they are for a time.
    pub(crate) fn adopted(now: Instant) -> Self {
        Self {
            frozen: Some(now + FROZEN),
            ..Self::default()
        }
    }

    /// The same tables in a dry run: they may change at once.
    pub(crate) fn for_dry_run(&self) -> Self {
        Self {
            full: self.full.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Returns whether tables stayed as they were for long enough.
    pub(crate) fn is_thaw_due(&self, now: Instant) -> bool {
        self.frozen.is_some_and(|until| now >= until)
    }

    /// Lets tables change if all backends are measured, or the time for that is over; returns whether they may.
    pub(crate) fn unfreeze(&mut self, site: &Site, backends: &Backends, now: Instant) -> bool {
        if self.is_frozen() && !self.is_thaw_due(now) && !backends.all_measured(&site.config) {
            return false;
        }
        self.frozen = None;
        true
    }

    /// Takes another configuration.
    pub(crate) fn reconfigure(&mut self, site: &Site) {
        self.cache.clear();
        self.queue.reset();
        let names = site.policy_names();
        self.full.retain(|name, _| names.contains(name));
    }

    /// Finds the migrating slots of published tables.
    pub(crate) fn adopt_slots(&mut self, site: &Site, dataplane: &impl Dataplane, now: Instant) {
        self.slots.retain(&site.tables);
        for range in &site.tables {
            self.slots.adopt(dataplane, range.clone(), now);
        }
    }

    /// Number of migrating slots of a policy's table.
    pub(crate) fn migrating(&self, site: &Site, policy: usize) -> usize {
        self.slots.count(&site.tables[policy])
    }

    /// Settles slots that no open flow used for long enough.
    pub(crate) fn settle(&mut self, site: &Site, dataplane: &mut impl Dataplane, now: Instant) {
        let services = &site.config.services;
        let idle = site
            .policies
            .iter()
            .map(|id| services[id.service].idle_timeout);
        let tables: Vec<_> = site.tables.iter().cloned().zip(idle).collect();
        self.slots.settle_all(dataplane, &tables, now);
    }

    /// Returns whether other tiers of a policy are full than before.
    pub(crate) fn fills(&self, site: &Site, build: &Build<'_>) -> bool {
        let nothing = BTreeSet::new();
        let before = self.full.get(&site.policy_name(build.policy));
        let before = before.unwrap_or(&nothing);
        build.candidates.full(&build.state, before) != *before
    }

    /// Builds a table and gives its slots the choices that changed.
    pub(crate) fn rebuild(
        &mut self,
        site: &Site,
        build: &Build<'_>,
        dataplane: &mut impl Dataplane,
        recorder: &mut Recorder,
        now: Instant,
    ) {
        let name = site.policy_name(build.policy);
        let range = &site.tables[build.policy];
        let before = self.full.remove(&name).unwrap_or_default();
        let (members, undistributed) =
            build
                .candidates
                .weighted(&build.state, &build.shares, &before);
        let full: BTreeSet<Tier> = members.iter().filter(|m| m.full).map(|m| m.tier).collect();
        if full != before {
            let tiers = full.len();
            info!(
                service = name,
                tiers, "full tiers changed: their second choices are behind them"
            );
        }
        if !full.is_empty() {
            self.full.insert(name.clone(), full);
        }
        if !self.cache.insert(range, &members, undistributed, now) {
            return;
        }
        let Some(table) = build::table(&members, undistributed, range.len()) else {
            warn!(service = name, why = build.why, "no backend is up");
            return;
        };
        let changed = self.slots.choose(dataplane, range.start, &table, now);
        if changed > 0 {
            let (slots, why) = (table.len(), build.why);
            info!(service = name, why, slots, changed, "table changed");
            record(
                &name,
                build,
                (&table, changed),
                (&members, undistributed),
                recorder,
                now,
            );
        }
    }
}

/// Records a table with its inputs.
fn record(
    service: &str,
    build: &Build<'_>,
    (table, changed): (&[Choice], usize),
    (members, undistributed): (&[Member<'_>], u32),
    recorder: &mut Recorder,
    now: Instant,
) {
    let weights = members.iter().map(|member| (member.name, member.weight));
    let because = |place| share_inputs(build, members, place);
    recorder.shares(service, weights, because, now);
    if !recorder.is_on() {
        return;
    }
    let inputs = build::inputs(build.candidates, members);
    let decided = Decided {
        service,
        why: build.why,
        digest: build::digest(table, &inputs),
        inputs: &inputs,
        table,
        changed,
        undistributed,
    };
    recorder.table(&decided, now);
}

/// Inputs of a member's share, in words.
fn share_inputs(build: &Build<'_>, members: &[Member<'_>], place: usize) -> Vec<String> {
    let seen = &build.candidates.members[place];
    let pool = build.candidates.pools.get(seen.pool);
    let pool = pool.map_or("?", |pool| pool.name.as_str());
    let mut inputs = vec![
        build.why.to_owned(),
        format!("pool {pool}, ring {}", seen.ring),
    ];
    if !members[place].healthy {
        inputs.push("takes no new flows".to_owned());
    }
    inputs.extend(
        seen.load
            .map(|load| format!("use {:.0} %", f64::from(load) / 10_000.0)),
    );
    inputs
}
