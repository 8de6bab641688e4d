//! Policy for the clients of a service or of one of its classes.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Backend, Class, Config, End, NewFlows, Service};

/// Identifies a policy: that of a service, or of one of its classes. Each has its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Index in [`Config::services`].
    pub service: usize,
    /// Index in [`Service::classes`].
    pub class: Option<usize>,
}

/// Policy for the clients of a service, or of one of its classes.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'c> {
    /// Service.
    pub service: &'c Service,
    /// Class, if the policy is a class's.
    pub class: Option<&'c Class>,
    /// Indexes of its pools in [`Config::pools`], the preferred one first; never empty.
    pub pools: &'c [usize],
    /// Split of new flows over several pools: index in `pools` and percentage. Empty to start in
    /// the first pool.
    pub split: &'c [(usize, u32)],
    /// Action if no pool has a backend.
    pub end: End,
    /// Regions that may serve it; `None` means all.
    pub regions: Option<&'c [String]>,
    /// Limit of new flows; `None` means unlimited.
    pub new_flows: Option<NewFlows>,
    /// Limit of new flows per source; `None` means unlimited.
    pub source_flows: Option<NewFlows>,
    /// Priority; the lowest is shed first.
    pub priority: u8,
}

impl Policy<'_> {
    /// Returns its name in the journal, logs and tables: that of the service, or `service/class`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.class {
            Some(class) => format!("{}/{}", self.service.name, class.name),
            None => self.service.name.clone(),
        }
    }

    /// Returns whether a backend is in a region that may serve these clients.
    #[must_use]
    pub fn may_use(&self, backend: &Backend) -> bool {
        self.regions
            .is_none_or(|regions| regions.contains(&backend.region))
    }

    /// Returns the backends over all its pools, each once, in order of preference.
    #[must_use]
    pub fn members(&self, config: &Config) -> Vec<usize> {
        config.of_pools(self.pools)
    }
}

impl Config {
    /// Returns the ids of all policies: each service, followed by its classes, in the order of the
    /// document.
    #[must_use]
    pub fn policy_ids(&self) -> Vec<PolicyId> {
        let of = |(service, settings): (usize, &Service)| {
            let classes = (0..settings.classes.len()).map(Some);
            let own = std::iter::once(None).chain(classes);
            own.map(move |class| PolicyId { service, class })
        };
        self.services.iter().enumerate().flat_map(of).collect()
    }

    /// Returns the policy with an id.
    ///
    /// # Panics
    ///
    /// Panics if the id belongs to another configuration and does not exist in this one.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> Policy<'_> {
        let service = &self.services[id.service];
        match id.class.map(|class| &service.classes[class]) {
            Some(class) => Policy {
                service,
                class: Some(class),
                pools: &class.pools,
                split: &class.split,
                end: class.end,
                regions: class.regions.as_deref(),
                new_flows: class.new_flows,
                source_flows: class.source_flows,
                priority: class.priority,
            },
            None => Policy {
                service,
                class: None,
                pools: &service.pools,
                split: &service.split,
                end: service.end,
                regions: service.regions.as_deref(),
                new_flows: service.new_flows,
                source_flows: service.source_flows,
                priority: service.priority,
            },
        }
    }

    /// Returns the backends of pools, each once, in order.
    pub(super) fn of_pools<'p>(&self, pools: impl IntoIterator<Item = &'p usize>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for pool in pools {
            let backends = self.pools[*pool].backends.iter().copied();
            found.extend(backends.filter(|backend| seen.insert(*backend)));
        }
        found
    }
}

impl Class {
    /// Returns the class's key in the data path: a 32-bit hash of its name (FNV-1a), unique within
    /// its service and never 0.
    #[must_use]
    pub fn hash(&self) -> u32 {
        let start = 0x811c_9dc5_u32;
        let hash = self.name.bytes().fold(start, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        hash.max(1)
    }

    /// Returns in words why a client with a DSCP belongs to the class.
    #[must_use]
    pub fn because(&self, client: IpAddr, dscp: u8) -> String {
        let mut words = Vec::new();
        let longest = self
            .sources
            .iter()
            .filter(|prefix| contains(**prefix, client))
            .max_by_key(|(_, len)| *len);
        if let Some((address, len)) = longest {
            words.push(format!("{client} is in {address}/{len}"));
        }
        if !self.dscp.is_empty() {
            words.push(format!("the DSCP is {dscp}"));
        }
        words.join(", and ")
    }
}

/// Returns whether an address is in a prefix.
fn contains((prefix, len): (IpAddr, u8), address: IpAddr) -> bool {
    let same = |differ: u128| differ.leading_zeros() >= u32::from(len);
    match (prefix, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits() ^ b.to_bits()) << 96),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits() ^ b.to_bits()),
        _ => false,
    }
}
