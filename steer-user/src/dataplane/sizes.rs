//! Maps whose size the configuration says, and what all maps take.

use steer_common::abi::{FLOWS, NAT_FLOWS, maps};

use super::specs::SPECS;
use crate::config::Limits;

/// Entries of the maps whose size is not fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Flows of the flow table.
    pub flows: u32,
    /// Flows of the nat table, in each direction.
    pub nat_flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: FLOWS,
            nat_flows: NAT_FLOWS,
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
    /// So many of each.
    #[must_use]
    pub const fn of_each(flows: u32) -> Self {
        Self {
            flows,
            nat_flows: flows,
        }
    }

    /// Entries of a map; `None` if its size is fixed.
    pub(super) fn entries(&self, map: &str) -> Option<u32> {
        match map {
            maps::FLOWS => Some(self.flows),
            maps::NAT_FORWARD | maps::NAT_REVERSE => Some(self.nat_flows),
            _ => None,
        }
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            flows: self.flows.max(other.flows),
            nat_flows: self.nat_flows.max(other.nat_flows),
        }
    }

    /// What is larger in `wanted`, with its key in the section `[limits]`.
    #[must_use]
    pub fn too_small_for(&self, wanted: &Self) -> Option<(&'static str, u32, u32)> {
        [
            ("flows", self.flows, wanted.flows),
            ("nat_flows", self.nat_flows, wanted.nat_flows),
        ]
        .into_iter()
        .find(|(_, has, wants)| wants > has)
    }

    /// Bytes that each map takes on a host with so many processors, before anything is in it.
    #[must_use]
    pub fn footprint(&self, cpus: usize) -> Vec<(&'static str, u64)> {
        let bytes = |spec: &super::specs::Spec| spec.bytes(self.entries(spec.name), cpus as u64);
        SPECS.iter().map(|spec| (spec.name, bytes(spec))).collect()
    }
}
