//! Layouts of keys and values, field by field. They are recorded beside pinned maps, so that a
//! daemon of another [`ABI_VERSION`](super::ABI_VERSION) can take over the entries: fields are
//! matched by name. A field that gets another meaning must get another name.

use super::{
    Address, Admission, AdmissionDrops, Bank, CidCipher, CidKey, CidLayouts, ClassKey, ClassMatch,
    ClientNextHop, Config, DscpTable, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource,
    Interface, LatencyBuckets, LinkKey, Macs, Member, MemberCounters, NatForward, NatReverse,
    NatTimeouts, RouterKey, Sequence, Service, ServiceKey, Signals, Slot, SourceKey, SourceLimit,
    UnassuredFlow,
};

/// A part of a type.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name. A name with `_` in front marks padding.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub size: usize,
    /// Inner fields; empty for a single value.
    pub inner: &'static [Self],
}

/// A type with a known layout.
pub trait Layout: Sized {
    /// Fields; empty for a single value.
    const FIELDS: &'static [Field];
}

const fn field<T, F: Layout>(
    name: &'static str,
    offset: usize,
    _of: for<'t> fn(&'t T) -> &'t F,
) -> Field {
    Field {
        name,
        offset,
        size: size_of::<F>(),
        inner: F::FIELDS,
    }
}

/// Returns the number of bytes that belong to a field.
const fn covered(fields: &[Field]) -> usize {
    let (mut at, mut bytes) = (0, 0);
    while at < fields.len() {
        bytes += fields[at].size;
        at += 1;
    }
    bytes
}

/// Declares the fields of types, and fails to compile if one is missing.
macro_rules! fields {
    ($($type:ty: $($field:ident)*;)*) => {$(
        impl Layout for $type {
            const FIELDS: &'static [Field] = &[$(
                field::<Self, _>(
                    stringify!($field),
                    core::mem::offset_of!($type, $field),
                    |value| &value.$field,
                )
            ),*];
        }
        const _: () = assert!(covered(<$type as Layout>::FIELDS) == size_of::<$type>());
    )*};
}

/// Declares types without inner fields.
macro_rules! whole {
    ($($type:ty)*) => {$(
        impl Layout for $type {
            const FIELDS: &'static [Field] = &[];
        }
    )*};
}

impl<T, const N: usize> Layout for [T; N] {
    const FIELDS: &'static [Field] = &[];
}

whole! {
    u8 u16 u32 u64
    Address CidCipher CidLayouts ClassKey DscpTable Macs LatencyBuckets AdmissionDrops
}

fields! {
    Admission: due pressure nat_idle_ticks;
    ClientNextHop: macs tags interface tags_len;
    Bank: seed displacement_mask service_mask any_port _pad;
    CidKey: server_id service rotation server_id_len _pad;
    ClassMatch: policy table;
    Config: active nat_v4 nat_v6 banks flow_seed outer_v4 outer_v6 nat_port_first nat_port_count
        nat_retry_ticks outer_v4_bits outer_v6_bits gue_port denies nat_timeouts burst_gap_us nat_unassured_max
        nat_flags nat_port_seed cids mac_seed nat_idle_min_ticks routers_epoch min_mtu;
    FlowEntry: last_ticks slot member coarse_tick ids;
    FlowKey: source destination source_port destination_port protocol family member;
    FragmentEntry: seen_ticks source_port destination_port member protocol fate;
    FragmentKey: source destination id protocol family _pad;
    IcmpSource: v4 v6;
    LinkKey: interface vlan _pad;
    Interface: index group mtu _pad;
    Member: address macs interface state flags mode family port service backend region _pad mtu vlan
        max_in_flight reply_interfaces _reserved;
    MemberCounters: packets bytes flows replies requests answers answer_bytes;
    NatForward: source last_ticks opened_ticks source_port backend_port member state peer_state backend client_hop
        sequence;
    NatReverse: vip client last_ticks vip_port client_port member state peer_state key_member _pad request_ns
        last_answer_ns client_hop sequence;
    NatTimeouts: idle_ticks udp_idle_ticks unassured_ticks udp_unassured_ticks closed_ticks;
    UnassuredFlow: key opened_ticks _pad;
    RouterKey: mac interface family;
    Sequence: initial next acknowledged offered;
    Service: key slots_start slots_len flags id limit regions flow_interval classes priority _pad
        flow_burst;
    ServiceKey: address port protocol family class;
    Signals: resets refused unanswered accepted ended_early;
    Slot: owner first second track seen;
    SourceKey: source policy _pad;
    SourceLimit: burst mask interval _pad;
}
