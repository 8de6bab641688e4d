//! The perfect hash by which packets find their service.

use anyhow::{Result, bail};
use steer_common::{
    abi::{Bank, MAX_DISPLACEMENTS, MAX_SERVICE_ENTRIES, Service},
    hash::ServiceHash,
};

/// Upper bound of seeds to try. With a table at most half full, the first one nearly always works.
const SEEDS: u64 = 64;
/// Upper bound of displacements to try for a bucket before the seed is given up.
const ATTEMPTS: u32 = 1 << 16;

/// Contents of a bank of the maps.
#[derive(Clone, Debug)]
pub struct PerfectHash {
    /// Descriptor of the bank.
    pub bank: Bank,
    /// Displacements; `bank` has their number.
    pub displacements: Vec<u32>,
    /// Entries; `bank` has their number. Unused ones have family 0.
    pub services: Vec<Service>,
}

/// Finds a table in which each service has an entry of its own.
///
/// # Errors
///
/// Returns an error if there are more services than half a bank, or two with the same key.
pub fn build(services: &[Service]) -> Result<PerfectHash> {
    if services.len() > MAX_SERVICE_ENTRIES as usize / 2 {
        bail!(
            "{} services are more than the {} that the data path holds",
            services.len(),
            MAX_SERVICE_ENTRIES / 2
        );
    }
    let entries = (services.len() * 2).next_power_of_two().max(2);
    let buckets = (services.len() / 2)
        .next_power_of_two()
        .clamp(1, MAX_DISPLACEMENTS as usize);
    for seed in 0..SEEDS {
        let bank = Bank {
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            displacement_mask: buckets as u32 - 1,
            service_mask: entries as u32 - 1,
            any_port: u32::from(services.iter().any(has_any_port)),
            _pad: 0,
        };
        if let Some(found) = place(services, bank) {
            return Ok(found);
        }
    }
    bail!("two services have the same address, port and protocol");
}

/// Returns whether it is a service on any port, as opposed to the entry of an address.
fn has_any_port(service: &Service) -> bool {
    service.key.port == 0 && service.key.protocol != 0
}

/// Places the buckets, largest first, each with the first displacement that leads to free entries.
fn place(services: &[Service], bank: Bank) -> Option<PerfectHash> {
    let mut buckets = vec![Vec::new(); bank.displacement_mask as usize + 1];
    for service in services {
        let hash = ServiceHash::of_service(&service.key, bank.seed);
        buckets[hash.bucket(bank.displacement_mask) as usize].push((hash, service));
    }
    let mut order: Vec<usize> = (0..buckets.len()).collect();
    order.sort_by_key(|bucket| std::cmp::Reverse(buckets[*bucket].len()));

    let mut displacements = vec![0; buckets.len()];
    let mut table = vec![Service::default(); bank.service_mask as usize + 1];
    let mut taken = Vec::new();
    for bucket in order {
        let members = &buckets[bucket];
        let displacement = (0..ATTEMPTS).find(|displacement| {
            taken.clear();
            members.iter().all(|(hash, _)| {
                let entry = hash.entry(*displacement, bank.service_mask) as usize;
                let free = table[entry].key.family == 0 && !taken.contains(&entry);
                taken.push(entry);
                free
            })
        })?;
        displacements[bucket] = displacement;
        for (hash, service) in members {
            table[hash.entry(displacement, bank.service_mask) as usize] = **service;
        }
    }
    Some(PerfectHash {
        bank,
        displacements,
        services: table,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use steer_common::abi::ServiceKey;

    use super::*;

    fn service(address: u32, port: u16) -> Service {
        Service {
            key: ServiceKey {
                address: Ipv4Addr::from(address).into(),
                port,
                protocol: 6,
                family: 4,
                class: 0,
            },
            ..Service::default()
        }
    }

    fn find(table: &PerfectHash, key: &ServiceKey) -> bool {
        let hash = ServiceHash::of_service(key, table.bank.seed);
        let bucket = hash.bucket(table.bank.displacement_mask) as usize;
        let entry = hash.entry(table.displacements[bucket], table.bank.service_mask) as usize;
        table.services[entry].key == *key
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn finds_each_service_and_no_other(
            keys in proptest::collection::hash_set((0_u32..5000, 0_u16..4), 0..800)
        ) {
            let services: Vec<Service> = keys.iter().map(|(a, p)| service(*a, *p)).collect();
            let table = build(&services).unwrap();
            for service in &services {
                prop_assert!(find(&table, &service.key));
            }
            prop_assert!(!find(&table, &service(9999, 1).key));
        }
    }

    #[test]
    fn holds_as_many_services_as_it_says() {
        let services: Vec<Service> = (0..MAX_SERVICE_ENTRIES / 2)
            .map(|i| service(i, 443))
            .collect();
        let table = build(&services).unwrap();
        assert!(services.iter().all(|s| find(&table, &s.key)));
        let more: Vec<Service> = (0..=MAX_SERVICE_ENTRIES / 2)
            .map(|i| service(i, 443))
            .collect();
        assert!(build(&more).is_err());
    }

    #[test]
    fn refuses_the_same_key_twice() {
        assert!(build(&[service(1, 80), service(1, 80)]).is_err());
    }
}
