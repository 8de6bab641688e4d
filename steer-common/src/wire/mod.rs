//! Parsing, as far as steering needs it: Ethernet with up to two VLAN tags, IPv4 with options, IPv6
//! with a bounded chain of extension headers, TCP and UDP.
//!
//! What cannot be parsed is not ours to judge: [`parse`] returns `None`, and the kernel gets it.

mod ip;
mod transport;

pub use ip::{IPV4_HEADER, IPV6_HEADER};
pub use transport::{ACK, FIN, RST, SYN};

use crate::{
    abi::{FlowKey, Macs},
    frame::Frame,
};

/// Length of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;
/// Length of a VLAN tag.
pub const VLAN_TAG: usize = 4;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (IEEE 802.1Q).
const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an outer VLAN tag (IEEE 802.1ad).
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol number of IPv4 in IP (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of IPv6 in IP (RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;

/// What is known of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its 5-tuple.
    pub key: FlowKey,
    /// Its MAC addresses.
    pub macs: Macs,
    /// The interface that it came in by.
    pub interface: u32,
    /// Length of the frame in bytes.
    pub frame_len: usize,
    /// Offset of the IP header.
    pub network: usize,
    /// Offset of the TCP or UDP header.
    pub transport: usize,
    /// Length of the IP packet by its header.
    pub ip_len: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// The first of several fragments.
    pub fragment: bool,
    /// Lengths agree with each other and with the frame, and the transport header is all there.
    pub well_formed: bool,
}

impl Packet {
    /// Whether it is IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.key.family == 6
    }

    /// Whether it is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.protocol == PROTOCOL_TCP
    }

    /// Whether nothing stands between its Ethernet, IP and transport headers.
    #[inline(always)]
    pub(crate) const fn is_plain(&self, ip_header: usize) -> bool {
        self.network == ETHERNET_HEADER && self.transport == ETHERNET_HEADER + ip_header
    }

    /// The same, with one case made of all the ways that tags, options and extension headers can
    /// lead to, so that the verifier follows what comes next once and not for each of them.
    #[inline(always)]
    pub(crate) fn hidden<F: Frame>(&self, frame: &F) -> Self {
        let mut packet = *self;
        let word = (self.network as u64) << 32
            | (self.transport as u64) << 16
            | (self.key.protocol as u64) << 8
            | self.fragment as u64;
        let word = frame.opaque(word);
        packet.network = (word >> 32) as usize & 0x1f;
        packet.transport = (word >> 16) as usize & 0x7fff;
        packet.key.protocol = (word >> 8) as u8;
        packet.fragment = word & 1 != 0;
        packet
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    pub const fn opens_tcp(&self) -> bool {
        self.tcp_flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// Parses a packet. `None` if it is not TCP or UDP over IP, is a fragment other than the first, or
/// ends before its ports.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, interface: u32) -> Option<Packet> {
    let (ethertype, network) = ethertype(frame)?;
    match ethertype {
        ETHERTYPE_IPV4 => ip::parse_v4(frame, network, interface),
        ETHERTYPE_IPV6 => ip::parse_v6(frame, network, interface),
        _ => None,
    }
}

/// The EtherType behind up to two VLAN tags, and the offset of what follows it.
#[inline(always)]
pub fn ethertype<F: Frame>(frame: &F) -> Option<(u16, usize)> {
    let mut network = ETHERNET_HEADER;
    let mut ethertype = u16::from_be(frame.load(network - 2)?);
    if is_vlan(ethertype) {
        network += VLAN_TAG;
        ethertype = u16::from_be(frame.load(network - 2)?);
        if is_vlan(ethertype) {
            network += VLAN_TAG;
            ethertype = u16::from_be(frame.load(network - 2)?);
        }
    }
    Some((ethertype, network))
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}
