//! What a service does with its clients, or with those of one of its classes.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Backend, Class, Config, End, NewFlows, Service};

/// Names a policy: a service's own, or that of one of its classes. Each has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Index in [`Config::services`].
    pub service: usize,
    /// Index in [`Service::classes`].
    pub class: Option<usize>,
}

/// What happens to clients of a service, or of one of its classes.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'c> {
    /// The service.
    pub service: &'c Service,
    /// The class, if it is that of one.
    pub class: Option<&'c Class>,
    /// Indexes of its pools in [`Config::pools`], the first choice first; at least one.
    pub pools: &'c [usize],
    /// Where new flows begin, if not in the first pool: places in `pools` with percents.
    pub split: &'c [(usize, u32)],
    /// What happens where no pool has a backend.
    pub end: End,
    /// Regions that may serve; without it, any.
    pub regions: Option<&'c [String]>,
    /// How many new flows are taken; without it, any number.
    pub new_flows: Option<NewFlows>,
    /// How many new flows are taken of each source; without it, any number.
    pub source_flows: Option<NewFlows>,
    /// The lowest is shed first.
    pub priority: u8,
}

impl Policy<'_> {
    /// Its name in journal, logs and tables: that of the service, or `service/class`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.class {
            Some(class) => format!("{}/{}", self.service.name, class.name),
            None => self.service.name.clone(),
        }
    }

    /// Returns whether a backend is where clients may be served from.
    #[must_use]
    pub fn may_use(&self, backend: &Backend) -> bool {
        self.regions
            .is_none_or(|regions| regions.contains(&backend.region))
    }

    /// Backends over all its pools, each once, in order of preference.
    #[must_use]
    pub fn members(&self, config: &Config) -> Vec<usize> {
        config.of_pools(self.pools)
    }
}

impl Config {
    /// Names of all policies: of each service, and behind it of its classes, in the order of the
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

    /// The policy of that name.
    ///
    /// # Panics
    /// If it is of another configuration, and not in this one.
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

    /// Backends of pools, each once, in order.
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
    /// What the data path knows the class by, within its service: 32 bits of a hash of its name
    /// (FNV-1a), never 0.
    #[must_use]
    pub fn hash(&self) -> u32 {
        let start = 0x811c_9dc5_u32;
        let hash = self.name.bytes().fold(start, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        hash.max(1)
    }

    /// Why a client with a DSCP is in the class, in words.
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
