//! Numbers of regions, by which the kernel knows where a member may not be used.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail};
use steer_common::abi::{MAX_MEMBERS, MAX_REGIONS, MemberState};

use super::Ids;
use crate::{config::Config, dataplane::Dataplane};

/// Numbers by name. A name keeps its number for as long as a member in the maps has it, also over
/// restarts: services and members that are written one after the other always mean the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regions(BTreeMap<String, u8>);

impl Regions {
    /// The same with numbers for all regions of a configuration.
    ///
    /// # Errors
    /// If there are more than the kernel's mask has bits.
    pub(crate) fn with(
        &self,
        config: &Config,
        ids: &Ids,
        dataplane: &impl Dataplane,
    ) -> Result<Self> {
        let mut known = self.0.clone();
        known.retain(|name, _| config.backends.iter().any(|b| b.region == *name));
        let mut used: HashSet<u8> = known.values().copied().collect();
        for ((_, backend), id) in &ids.members {
            let member = dataplane.member(*id);
            let name = &config.backends[*backend].region;
            let present = member.state != MemberState::Absent as u8;
            if present && !known.contains_key(name) && used.insert(member.region) {
                known.insert(name.clone(), member.region);
            }
        }
        // Members that are on their way out have theirs for themselves.
        for id in 1..MAX_MEMBERS as u16 {
            let member = dataplane.member(id);
            if member.state != MemberState::Absent as u8 {
                used.insert(member.region);
            }
        }
        for backend in &config.backends {
            if known.contains_key(&backend.region) {
                continue;
            }
            let Some(number) = (0..MAX_REGIONS).find(|number| used.insert(*number)) else {
                bail!("more regions than the {MAX_REGIONS} that there can be");
            };
            known.insert(backend.region.clone(), number);
        }
        Ok(Self(known))
    }

    /// The number of a region. One that nobody knows is outside of every mask.
    pub(crate) fn number(&self, name: &str) -> u8 {
        self.0.get(name).copied().unwrap_or(MAX_REGIONS)
    }

    /// The regions with these names, as a mask; all of them without names.
    pub(crate) fn mask(&self, regions: Option<&[String]>) -> u64 {
        let Some(regions) = regions else {
            return u64::MAX;
        };
        let known = regions.iter().filter_map(|name| self.0.get(name));
        known.fold(0, |mask, number| mask | 1 << number)
    }
}
