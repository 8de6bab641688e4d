//! Classification of clients.

use crate::{
    abi::{ClassKey, Service},
    tables::{Step, Tables},
    wire::Packet,
};

/// Returns the policy for a packet: that of its class, or the service itself. `None` if the tables
/// lead to a policy of another service, whose regions and members do not apply.
///
/// The longest prefix decides; if DSCPs distinguish classes, it leads to a table that also contains
/// those of shorter prefixes. Each packet is classified by itself, so a connection must keep its
/// DSCP.
#[inline(always)]
pub(crate) fn classify<'t, T: Tables>(
    packet: &Packet,
    tables: &'t T,
    service: &'t Service,
) -> Option<&'t Service> {
    if service.classes == 0 {
        return Some(service);
    }
    let key = ClassKey::new(service.classes, packet.key.source);
    let Some(found) = tables.class(&key) else {
        return Some(service);
    };
    let policy = if found.table == 0 {
        found.policy
    } else {
        tables.class_by_dscp(found.table, packet.tos >> 2)?
    };
    if policy == 0 {
        return Some(service);
    }
    let policy = tables.policy(policy)?;
    if !policy.key.is_class_of(&service.key) {
        return None;
    }
    tables.trace_step(Step::Class(policy.id));
    Some(policy)
}
