//! Changes of the data path, in an order in which every packet between two of them is steered well.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use steer_common::abi::{CidKey, Config, Member, MemberState, Service, Slot, SourceLimit};

use crate::dataplane::{Class, Dataplane};

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// State of a member.
    State(u16, MemberState),
    /// Whether new flows of a member try their second choice.
    Hot(u16, bool),
    /// Source addresses of `nat`.
    Sources(Vec<IpAddr>),
    /// Clients that are denied.
    Denied(Vec<(IpAddr, u8)>),
    /// The node's settings.
    Settings(Config),
    /// All of a member.
    Member(u16, Member),
    /// A table that no service names yet.
    Table(u32, Vec<Slot>),
    /// Members of services of QUIC by server ids.
    Cids(BTreeMap<CidKey, u16>),
    /// All services and their classes, with the limits for sources that they name.
    Publish(Vec<Service>, Vec<Class>, Vec<SourceLimit>),
    /// Idle timeout of the nat flows of a service, by its id, in ticks.
    NatIdle(u16, u32),
    /// A service or class gets an id that had been another's.
    Clear(u16),
}

impl Op {
    /// Order of the change. Members go down at once; they come up before slots and services name them.
    fn phase(&self) -> u8 {
        match self {
            Self::State(_, state) if *state != MemberState::Up => 0,
            Self::Hot(_, true) => 0,
            Self::Sources(_) | Self::Denied(_) | Self::Clear(_) => 1,
            Self::Settings(_) | Self::NatIdle(..) => 2,
            Self::Member(..) => 3,
            Self::State(..) | Self::Hot(..) => 4,
            Self::Table(..) | Self::Cids(_) => 5,
            Self::Publish(..) => 6,
        }
    }
}

/// Makes changes in an order in which every packet between two of them is steered well.
///
/// # Errors
/// If one cannot be written.
pub(crate) fn execute(dataplane: &mut impl Dataplane, mut ops: Vec<Op>) -> Result<()> {
    ops.sort_by_key(Op::phase);
    ops.iter().try_for_each(|op| apply(dataplane, op))
}

/// Makes a change. Slots in use are changed by [`crate::control::tables`].
fn apply(dataplane: &mut impl Dataplane, op: &Op) -> Result<()> {
    match op {
        Op::State(id, state) => dataplane.set_member_state(*id, *state),
        Op::Hot(id, hot) => dataplane.set_member_hot(*id, *hot),
        Op::Sources(sources) => dataplane.set_nat_sources(sources)?,
        Op::Denied(denied) => dataplane.set_denied(denied)?,
        Op::Settings(config) => dataplane.set_config(config),
        Op::Member(id, member) => dataplane.set_member(*id, member),
        Op::Table(start, slots) => dataplane.write_slots(*start, slots),
        Op::Cids(cids) => dataplane.set_cids(cids)?,
        Op::Publish(services, classes, limits) => {
            dataplane.publish_with(services, classes, limits)?;
        }
        Op::NatIdle(id, ticks) => dataplane.set_nat_idle(*id, *ticks),
        Op::Clear(id) => dataplane.clear_policy(*id)?,
    }
    Ok(())
}
