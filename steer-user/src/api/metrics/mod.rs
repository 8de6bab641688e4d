//! The page of metrics: what the loop counts, and what its status says.

mod node;
mod process;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

use prometheus_client::{encoding::text, registry::Registry};

use self::{node::Node, process::Process};
use crate::control::{Meters, Status};

/// The page in the text format of OpenMetrics 1.0.
///
/// # Errors
/// If a `String` takes no more.
pub(super) fn page(meters: &Meters, status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Node(status)));
    registry.register_collector(Box::new(Process));
    let mut page = String::new();
    text::encode_registry(&mut page, &registry)?;
    meters.write(&mut page)?;
    text::encode_eof(&mut page)?;
    Ok(page)
}
