//! Maps of configurable size, and the memory of all maps.

use steer_common::abi::{MAX_FLOWS, MAX_NAT_FLOWS, maps};
use steer_core::config::Limits;

use super::specs::SPECS;

/// Numbers of entries of the maps whose size is not fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Capacity of the flow table.
    pub flows: u32,
    /// Capacity of the nat table, per direction.
    pub nat_flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: MAX_FLOWS,
            nat_flows: MAX_NAT_FLOWS,
        }
    }
}

impl From<Limits> for Sizes {
    fn from(limits: Limits) -> Self {
        Self {
            flows: limits.flows,
            nat_flows: limits.nat_flows,
        }
    }
}

impl Sizes {
    /// Creates equal sizes.
    #[must_use]
    pub const fn of_each(flows: u32) -> Self {
        Self {
            flows,
            nat_flows: flows,
        }
    }

    /// Returns the number of entries of a map; `None` if it is fixed.
    pub(super) fn entries(&self, map: &str) -> Option<u32> {
        match map {
            maps::FLOWS => Some(self.flows),
            maps::NAT_FORWARD | maps::NAT_REVERSE => Some(self.nat_flows),
            _ => None,
        }
    }

    /// Returns the maximum of each size.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            flows: self.flows.max(other.flows),
            nat_flows: self.nat_flows.max(other.nat_flows),
        }
    }

    /// Returns the sizes that `wanted` exceeds, with their keys in section `[limits]`.
    #[must_use]
    pub fn too_small_for(&self, wanted: &Self) -> Option<(&'static str, u32, u32)> {
        [
            ("flows", self.flows, wanted.flows),
            ("nat_flows", self.nat_flows, wanted.nat_flows),
        ]
        .into_iter()
        .find(|(_, has, wants)| wants > has)
    }

    /// Returns the bytes of each empty map on a host with this number of processors.
    #[must_use]
    pub fn footprint(&self, cpus: usize) -> Vec<(&'static str, u64)> {
        let bytes = |spec: &super::specs::Spec| spec.bytes(self.entries(spec.name), cpus as u64);
        SPECS.iter().map(|spec| (spec.name, bytes(spec))).collect()
    }
}
