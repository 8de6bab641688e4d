//! Decapsulation on a backend without a tunnel device (RFC 2003, RFC 2473, and Generic UDP
//! Encapsulation, variants 0 and 1 of draft-ietf-intarea-gue-09).

use crate::{
    abi::{Address, Macs},
    checksum::Sum,
    frame::Frame,
    verdict::DropReason,
    wire::{
        ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER, IPV6_HEADER, PROTOCOL_IPV4,
        PROTOCOL_IPV6, PROTOCOL_UDP, VLAN_TAG, ethertype,
    },
};

const UDP_HEADER: usize = 8;
const GUE_HEADER: usize = 4;

/// Outcome for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decap {
    /// Not encapsulated, or not by one of the nodes: untouched.
    Other,
    /// Its outer header was removed.
    Done,
    /// Dropped.
    Drop(DropReason),
}

/// Removes the outer headers of a packet from a sender that `is_node` accepts. UDP to `gue_port`
/// contains a packet.
#[inline(always)]
pub fn decap<F: Frame>(
    frame: &mut F,
    gue_port: u16,
    is_node: impl FnOnce(&Address) -> bool,
) -> Decap {
    let Some((network, outer)) = outer(frame, gue_port) else {
        return Decap::Other;
    };
    if !is_node(&outer.source) {
        return Decap::Other;
    }
    let Some(tos) = inner_tos(frame, network + outer.len, outer.v6_inside) else {
        return Decap::Drop(DropReason::Malformed);
    };
    let Some(marked) = combine_ecn(tos, outer.tos) else {
        return Decap::Drop(DropReason::DecapEcn);
    };
    if marked != tos && set_tos(frame, network + outer.len, outer.v6_inside, marked).is_none() {
        return Decap::Drop(DropReason::Internal);
    }
    match strip(frame, network, &outer) {
        Some(()) => Decap::Done,
        None => Decap::Drop(DropReason::Internal),
    }
}

struct Outer {
    source: Address,
    len: usize,
    tos: u8,
    v6_inside: bool,
}

#[inline(always)]
fn outer<F: Frame>(frame: &F, gue_port: u16) -> Option<(usize, Outer)> {
    let (ethertype, network) = ethertype(frame)?;
    let network = frame.launder(network as u64) as usize & 0x1f;
    let (protocol, outer) = match ethertype {
        ETHERTYPE_IPV4 => {
            let [first, _, _, fragment, ttl, _]: [u16; 6] = frame.load(network)?;
            let [version, tos] = first.to_ne_bytes();
            // Packets with options and fragments are left to the kernel's own tunnels.
            if version != 0x45 || u16::from_be(fragment) & 0x3fff != 0 {
                return None;
            }
            let source = Address::from_v4(frame.load(network + 12)?);
            let outer = Outer {
                source,
                len: IPV4_HEADER,
                tos,
                v6_inside: false,
            };
            (ttl.to_ne_bytes()[1], outer)
        }
        ETHERTYPE_IPV6 => {
            let [first, _, _, next]: [u16; 4] = frame.load(network)?;
            let source = Address::from_v6(frame.load(network + 8)?);
            // An IPv4-mapped source would look like the node's IPv4 address, but bypass IPv4
            // filters.
            if u16::from_be(first) >> 12 != 6 || source.is_v4() {
                return None;
            }
            let outer = Outer {
                source,
                len: IPV6_HEADER,
                tos: (u16::from_be(first) >> 4) as u8,
                v6_inside: false,
            };
            (next.to_ne_bytes()[0], outer)
        }
        _ => return None,
    };
    let (protocol, len) = if protocol == PROTOCOL_UDP {
        let (inside, len) = gue(frame, network + outer.len, gue_port)?;
        (inside, outer.len + len)
    } else {
        (protocol, outer.len)
    };
    if protocol != PROTOCOL_IPV4 && protocol != PROTOCOL_IPV6 {
        return None;
    }
    let word = frame.launder((len as u64) << 8 | u64::from(protocol));
    let outer = Outer {
        len: (word >> 8) as usize & 0x3f,
        v6_inside: word as u8 == PROTOCOL_IPV6,
        ..outer
    };
    Some((network, outer))
}

/// Returns the protocol inside a GUE datagram, and the length of everything before it.
#[inline(always)]
fn gue<F: Frame>(frame: &F, at: usize, port: u16) -> Option<(u8, usize)> {
    if u16::from_be(frame.load(at + 2)?) != port {
        return None;
    }
    let [first, protocol] = frame.load::<u16>(at + UDP_HEADER)?.to_ne_bytes();
    match first >> 4 {
        // Variant 1: the packet itself, starting with its version.
        4 => Some((PROTOCOL_IPV4, UDP_HEADER)),
        6 => Some((PROTOCOL_IPV6, UDP_HEADER)),
        // Variant 0: a header without options, flags, or control messages.
        0 if first == 0 && frame.load::<u16>(at + UDP_HEADER + 2)? == 0 => {
            Some((protocol, UDP_HEADER + GUE_HEADER))
        }
        _ => None,
    }
}

/// Returns the type of service of the inner packet, if its version matches the announced one.
#[inline(always)]
fn inner_tos<F: Frame>(frame: &F, at: usize, v6: bool) -> Option<u8> {
    let first = u16::from_be(frame.load(at)?);
    if v6 {
        frame.load::<u8>(at + IPV6_HEADER - 1)?;
        (first >> 12 == 6).then_some((first >> 4) as u8)
    } else {
        frame.load::<u8>(at + IPV4_HEADER - 1)?;
        (first >> 12 == 4).then_some(first as u8)
    }
}

/// Combines congestion marks of the outer header with those of the inner one (RFC 6040 figure 4).
/// `None` if the inner packet cannot carry the mark.
#[inline(always)]
const fn combine_ecn(inner: u8, outer: u8) -> Option<u8> {
    const CE: u8 = 3;
    match (inner & 3, outer & 3) {
        (0, CE) => None,
        (_, CE) => Some(inner | CE),
        (2, 1) => Some(inner & !3 | 1),
        _ => Some(inner),
    }
}

#[inline(always)]
fn set_tos<F: Frame>(frame: &mut F, at: usize, v6: bool, tos: u8) -> Option<()> {
    let old: u16 = frame.load(at)?;
    if v6 {
        let new = u16::from_be(old) & 0xf00f | u16::from(tos) << 4;
        return frame.store(at, new.to_be());
    }
    let new = u16::from_be(old) & 0xff00 | u16::from(tos);
    let checksum: u16 = frame.load(at + 10)?;
    let sum = Sum::of_checksum(checksum).remove16(old).add16(new.to_be());
    frame.store(at + 10, sum.checksum())?;
    frame.store(at, new.to_be())
}

/// Moves the Ethernet header, with its tags, over the outer one.
#[inline(always)]
fn strip<F: Frame>(frame: &mut F, network: usize, outer: &Outer) -> Option<()> {
    const TAGS: usize = ETHERNET_HEADER - 2;
    let macs = Macs::from_words(frame.load(0)?, frame.load(8)?);
    // These bytes may be the EtherType or the IP header; only tags are put back.
    let tags: [u32; 2] = frame.load(TAGS)?;
    frame.shrink_head(outer.len)?;
    let (first, second) = macs.words();
    frame.store(0, first)?;
    frame.store(8, second)?;
    if network > ETHERNET_HEADER {
        frame.store(TAGS, tags[0])?;
    }
    if network > ETHERNET_HEADER + VLAN_TAG {
        frame.store(TAGS + VLAN_TAG, tags[1])?;
    }
    let ethertype = if outer.v6_inside {
        ETHERTYPE_IPV6
    } else {
        ETHERTYPE_IPV4
    };
    frame.store((network - 2) & 0x1f, ethertype.to_be())
}
