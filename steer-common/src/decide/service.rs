//! Service look-up: a perfect hash over the configured services.

use crate::{
    abi::{Address, Bank, Config, MAX_DISPLACEMENTS, MAX_SERVICE_ENTRIES, Service, ServiceKey},
    hash::ServiceHash,
    tables::Tables,
    wire::Packet,
};

/// Returns the service of a packet.
#[inline(always)]
pub(crate) fn find_service<'t, T: Tables>(
    packet: &Packet,
    tables: &'t T,
    config: &Config,
) -> Option<&'t Service> {
    let active = config.active & 1;
    let bank = &config.banks[active as usize];
    let mut key = ServiceKey {
        address: packet.key.destination,
        port: packet.key.destination_port,
        protocol: packet.key.protocol,
        family: packet.key.family,
        class: 0,
    };
    if let Some(service) = lookup_entry(&key, tables, active, bank) {
        return Some(service);
    }
    if bank.any_port == 0 {
        return None;
    }
    key.port = 0;
    lookup_entry(&key, tables, active, bank)
}

#[inline(always)]
fn lookup_entry<'t, T: Tables>(
    key: &ServiceKey,
    tables: &'t T,
    active: u32,
    bank: &Bank,
) -> Option<&'t Service> {
    let hash = ServiceHash::of_service(key, bank.seed);
    let bucket = hash.bucket(bank.displacement_mask);
    let displacement = tables.displacement(active * MAX_DISPLACEMENTS + bucket)?;
    let entry = hash.entry(displacement, bank.service_mask);
    let service = tables.service(active * MAX_SERVICE_ENTRIES + entry)?;
    service.key.is(key).then_some(service)
}

/// Returns whether services or `nat` use an address.
#[inline(always)]
pub(crate) fn is_address<T: Tables>(tables: &T, address: Address, family: u8) -> bool {
    address_flags(tables, address, family).is_some()
}

/// Returns the [`service_flags`](crate::abi::service_flags) of an address that services or `nat` use.
#[inline(always)]
pub(crate) fn address_flags<T: Tables>(tables: &T, address: Address, family: u8) -> Option<u32> {
    let config = tables.config()?;
    let active = config.active & 1;
    let key = ServiceKey {
        address,
        port: 0,
        protocol: 0,
        family,
        class: 0,
    };
    lookup_entry(&key, tables, active, &config.banks[active as usize]).map(|found| found.flags)
}
