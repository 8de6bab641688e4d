//! Which class a client belongs to.

use crate::{
    abi::{ClassKey, Service},
    tables::{Step, Tables},
    wire::Packet,
};

/// The policy for a packet: that of its class, or the service itself. `None` if the tables lead to a
/// policy of another service, whose regions and members are not this one's.
///
/// The longest prefix decides; where DSCPs tell classes apart, it names a table of them in which those
/// of shorter prefixes are, too. Each packet is judged by itself: nothing of its flow is remembered
/// for it, so a connection has to keep its DSCP.
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
    tables.note(Step::Class(policy.id));
    Some(policy)
}
