//! The page of metrics: what the loop counts, and what its status says.

mod node;
mod passive;
mod process;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

use prometheus_client::{encoding::text, registry::Registry};

use self::{node::Node, passive::Passive, process::Process};
use crate::control::{MemberPassive, Meters, Status};

/// The page in the text format of OpenMetrics 1.0.
///
/// # Errors
/// If a `String` takes no more.
pub(super) fn page(
    meters: &Meters,
    status: Status,
    passive: Vec<MemberPassive>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Node(status)));
    registry.register_collector(Box::new(Passive(passive)));
    registry.register_collector(Box::new(Process));
    let mut page = String::new();
    text::encode_registry(&mut page, &registry)?;
    meters.write(&mut page)?;
    text::encode_eof(&mut page)?;
    Ok(page)
}

/// A family of metrics, as the page describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Its name, without what OpenMetrics adds for samples.
    pub name: String,
    /// counter, gauge or histogram.
    pub kind: String,
    /// Its unit, if it has one.
    pub unit: String,
    /// A sentence.
    pub help: String,
}

/// The families of the page, in its order.
///
/// # Errors
/// If a `String` takes no more.
pub fn families() -> Result<Vec<Family>, fmt::Error> {
    let page = page(&Meters::new(), Status::default(), Vec::new())?;
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some("#"), Some(what), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if families.last().is_none_or(|last| last.name != name) {
            families.push(Family {
                name: name.to_owned(),
                ..Family::default()
            });
        }
        let (Some(family), Some(text)) = (families.last_mut(), words.next()) else {
            continue;
        };
        match what {
            "HELP" => text.clone_into(&mut family.help),
            "TYPE" => text.clone_into(&mut family.kind),
            "UNIT" => text.clone_into(&mut family.unit),
            _ => {}
        }
    }
    Ok(families)
}
