//! Where tables are in the arena of slots.

use std::ops::Range;

use anyhow::{Result, bail};
use steer_common::abi::{Service, Slot};

use super::{
    arena::Arena,
    desired::{self, Numbers},
    plan::Op,
};
use crate::{config::Config, dataplane::Dataplane, domain::maglev};

/// The table of a service.
pub(super) fn table(service: &Service) -> Range<u32> {
    service.slots_start..service.slots_start + service.slots_len
}

/// Gives each service a place for its table: the one that it has, or a new one that begins with
/// the owners of the old.
pub(super) fn place(
    dataplane: &impl Dataplane,
    config: &Config,
    numbers: &Numbers,
) -> Result<(Vec<Service>, Vec<Op>)> {
    let present = dataplane.services();
    let mut arena = Arena::new(present.iter().map(table));
    let mut ops = Vec::new();
    let mut services = Vec::new();
    for (index, wanted) in config.services.iter().enumerate() {
        let mut service = desired::service(config, wanted, numbers.services[index]);
        let members = desired::backends(config, wanted).len();
        let len = maglev::table_size(members) as u32;
        let old = present.iter().find(|p| p.key == service.key);
        let old = old.map(table).filter(|range| !range.is_empty());
        // A table that is large enough keeps its place: in another every flow would have
        // another slot.
        let range = match old {
            Some(old) if old.len() as u32 >= len => old,
            old => {
                let Some(new) = arena.take(len) else {
                    bail!("service {}: no room for its table", wanted.name);
                };
                ops.push(Op::Table(new.start, grown(dataplane, old, len)));
                new
            }
        };
        service.slots_start = range.start;
        service.slots_len = range.len() as u32;
        services.push(service);
    }
    Ok((services, ops))
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
