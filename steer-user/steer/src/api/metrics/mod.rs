//! The page of metrics: counters of the loop, and its status.

mod node;
mod passive;
mod process;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

use prometheus_client::{encoding::text, registry::Registry};
use steer_core::control::{MemberPassive, Status};

use self::{node::Node, passive::Passive, process::Process};
use crate::daemon::DaemonMetrics;

pub(crate) use self::read::read;
pub use self::read::{Family, Sample};

/// Returns the page in the text format of OpenMetrics 1.0.
///
/// # Errors
///
/// Returns an error if writing to the `String` fails.
pub(super) fn page(
    metrics: &DaemonMetrics,
    status: Status,
    passive: Vec<MemberPassive>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Node(status)));
    registry.register_collector(Box::new(Passive(passive)));
    registry.register_collector(Box::new(Process));
    let mut page = String::new();
    text::encode_registry(&mut page, &registry)?;
    metrics.write(&mut page)?;
    text::encode_eof(&mut page)?;
    Ok(page)
}

/// Returns the families of the page, in order.
///
/// # Errors
///
/// Returns an error if writing to the `String` fails.
pub fn families() -> Result<Vec<Family>, fmt::Error> {
    let page = page(
        &DaemonMetrics::with_all_families(),
        Status::default(),
        Vec::new(),
    )?;
    Ok(read(&page))
}
