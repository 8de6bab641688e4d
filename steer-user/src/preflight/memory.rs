//! Memory of the maps. All of it is taken when they are made; no configuration takes more.

use steer_common::abi::{
    Address, DISPLACEMENTS, FLOWS, FlowEntry, FlowKey, MEMBERS, Member, MemberCounters, NAT_FLOWS,
    NatForward, NatReverse, SERVICES, SLOTS, Service, Slot,
};

/// What an entry of a hash map costs besides key and value: the kernel's `struct htab_elem`, and its
/// bucket.
const HASH_ENTRY: u64 = 64;

/// Bytes that the maps take on a host with so many processors.
pub(super) fn of_maps(cpus: usize) -> u64 {
    let array = |count: u32, value: usize| u64::from(count) * value as u64;
    let hash = |count: u32, value: usize| {
        u64::from(count) * (HASH_ENTRY + (size_of::<FlowKey>() + value) as u64)
    };
    array(2 * SERVICES, size_of::<Service>())
        + array(2 * DISPLACEMENTS, size_of::<u32>())
        + array(SLOTS, size_of::<Slot>())
        + array(MEMBERS, size_of::<Member>())
        + array(steer_common::abi::NAT_ADDRESSES * 2, size_of::<Address>())
        + array(MEMBERS, size_of::<MemberCounters>()) * cpus as u64
        + hash(FLOWS, size_of::<FlowEntry>())
        + hash(NAT_FLOWS, size_of::<NatForward>())
        + hash(NAT_FLOWS, size_of::<NatReverse>())
}
