//! From a configuration to the changes that bring it into the data path.

pub(crate) mod member;
pub(crate) mod nat_idle;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod quic_server_ids;
pub(crate) mod retired;
pub(crate) mod settings;
pub(crate) mod tuning;

use anyhow::Result;
use steer_common::abi::Service;

use self::{plan::Op, tuning::Tuning};
use super::{
    ids::{Ids, regions::Regions},
    site::Site,
    tables::ranges,
};
use crate::{
    config::Config,
    dataplane::{Dataplane, GcLimits},
};

/// A configuration with its ids and tables, and the changes that publish it, but for those of members.
pub(crate) struct Publication {
    pub(crate) site: Site,
    pub(crate) ops: Vec<Op>,
}

/// Prepares to publish a configuration. All that may refuse it comes here, and on an error nothing has changed.
///
/// # Errors
/// If it needs more than the data path holds, or a key of connection ids cannot be read.
pub(crate) fn prepare(
    config: Config,
    before: &Regions,
    (tuning, cpus): (&Tuning, u32),
    dataplane: &mut impl Dataplane,
) -> Result<Publication> {
    let ids = Ids::allocate(&config, dataplane)?;
    let regions = before.with(&config, &ids, dataplane)?;
    let policies = config.policy_ids();
    let mut placed: Vec<Service> = policies
        .iter()
        .zip(&ids.policies)
        .map(|(policy, id)| policy::service(&config, &config.policy(*policy), *id))
        .collect();
    let new_tables = ranges::place(dataplane, &config, &policies, &mut placed)?;
    for (policy, id) in placed.iter_mut().zip(&policies) {
        policy.regions = regions.mask(config.policy(*id).regions);
    }
    policy::keep_nat(&mut placed, dataplane);
    let limits = policy::source_limits(&config, &policies, &mut placed)?;
    dataplane.set_cid_keys(&quic_server_ids::keys(&config))?;
    let new_tables = new_tables.into_iter();
    let mut ops: Vec<Op> = new_tables
        .map(|(start, slots)| Op::Table(start, slots))
        .collect();
    ops.extend(ids.fresh.iter().copied().map(Op::Clear));
    let tables = placed.iter().map(ranges::table).collect();
    let (mut services, classes) = policy::split(&config, &policies, placed);
    services.extend(policy::nat_sources(&config));
    services.extend(policy::addresses(&services));
    let site = Site::new(config, ids, regions, tables);
    ops.push(Op::Sources(site.config.nat.addresses.clone()));
    ops.push(Op::Denied(site.config.admission.deny.clone()));
    ops.extend(settings_ops(&site, (tuning, cpus), dataplane));
    ops.push(Op::Cids(quic_server_ids::wanted(&site, dataplane)));
    ops.push(Op::Publish(services, classes, limits));
    Ok(Publication { site, ops })
}

/// Changes that bring the kernel its settings. The seeds stay those that the data path has: with another one all flows
/// would go elsewhere at once.
pub(crate) fn settings_ops(
    site: &Site,
    (tuning, cpus): (&Tuning, u32),
    dataplane: &impl Dataplane,
) -> Vec<Op> {
    let present = dataplane.config();
    let mut settings = tuning.settings(&site.config, cpus);
    settings.flow_seed = present.flow_seed;
    settings.nat_port_seed = present.nat_port_seed;
    let mut ops = vec![Op::Settings(settings)];
    ops.extend(nat_idle::ops(site, tuning));
    ops
}

/// Limits of a garbage collection, over a nat table with that many entries.
pub(crate) fn gc_limits(
    site: &Site,
    (tuning, cpus): (&Tuning, u32),
    dataplane: &impl Dataplane,
    nat_entries: usize,
) -> GcLimits {
    GcLimits {
        flow_idle_ticks: settings::idle_ms(&site.config),
        nat: tuning.settings(&site.config, cpus).nat_timeouts,
        nat_idle: nat_idle::of_members(site, tuning, dataplane, nat_entries),
        silence: site.config.nat.silence,
    }
}
