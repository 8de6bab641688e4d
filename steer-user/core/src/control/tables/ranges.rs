//! Ranges of the arena of slots that tables have.

use std::{collections::HashMap, ops::Range};

use anyhow::{Result, bail};
use steer_common::abi::{Service, ServiceKey, Slot};

use super::arena::Arena;
use crate::{
    config::{Config, PolicyId},
    control::ids::{present_policies, service_key},
    dataplane::Dataplane,
    domain::maglev,
};

/// Slots of a table that no service names yet, from a place of the arena on.
pub(crate) type NewTable = (u32, Vec<Slot>);

/// The table of a policy.
pub(crate) fn table(service: &Service) -> Range<u32> {
    service.slots_start..service.slots_start + service.slots_len
}

/// Gives each policy a range for its table: the one that it has, or a new one that begins with the owners of the old.
///
/// # Errors
/// If the arena has no room.
pub(crate) fn place(
    dataplane: &impl Dataplane,
    config: &Config,
    ids: &[PolicyId],
    policies: &mut [Service],
) -> Result<Vec<NewTable>> {
    let present = present_policies(dataplane);
    let tables: HashMap<ServiceKey, Range<u32>> = present
        .iter()
        .map(|policy| (policy.key, table(policy)))
        .filter(|(_, range)| !range.is_empty())
        .collect();
    let mut arena = Arena::new(tables.values().cloned());
    let mut new_tables = Vec::new();
    for (id, policy) in ids.iter().zip(policies) {
        let wanted = config.policy(*id);
        let members = wanted.members(config).len();
        let len = maglev::table_size(members) as u32;
        // A table that is large enough keeps its place: in another every flow would have
        // another slot.
        let range = match tables.get(&policy.key) {
            Some(old) if old.len() as u32 >= len => old.clone(),
            old => {
                let Some(new) = arena.allocate(len) else {
                    bail!("service {}: no room for its table", wanted.name());
                };
                // Clients of a new class were the service's until now, and so are their flows.
                let before = old.or_else(|| tables.get(&service_key(policy.key)));
                new_tables.push((new.start, grown(dataplane, before.cloned(), len)));
                new
            }
        };
        policy.slots_start = range.start;
        policy.slots_len = range.len() as u32;
    }
    Ok(new_tables)
}

/// A table of another size in which the slots of a flow agree as far as they can: the index of
/// a slot is proportional to the flow's hash.
fn grown(dataplane: &impl Dataplane, old: Option<Range<u32>>, len: u32) -> Vec<Slot> {
    let Some(old) = old else {
        return vec![Slot::default(); len as usize];
    };
    let slots = dataplane.slots(old);
    (0..len as usize)
        .map(|index| slots[index * slots.len() / len as usize])
        .collect()
}
