//! Parsed packets.

use super::{
    ethernet::{ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethertype, outer_ethertype},
    ip::{IPV4_HEADER, IPV6_HEADER, Network},
    protocol::PROTOCOL_TCP,
    transport::{ACK, FIN, RST, SYN, Transport, UDP_HEADER},
};
use crate::{
    abi::{FlowKey, Macs},
    frame::Frame,
};

/// Part of a flow that a packet is. The program for whole packets knows only the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketKind {
    /// A whole packet.
    Whole = 0,
    /// The first fragment of a packet, with the transport header.
    FirstFragment = 1,
    /// A later fragment, without a transport header.
    LaterFragment = 2,
    /// An ICMP error about a packet sent by the flow's other end. Ports, protocol, and direction
    /// are those of the flow.
    IcmpError = 3,
}

/// Length from which a packet has a payload: IPv6 and TCP headers with all options of
/// acknowledgements are shorter.
const MAX_ACK_BYTES: u32 = 100;

/// Length of the headers of a packet whose transport header was not parsed.
const NO_TRANSPORT: u32 = 0xffff;

/// Parsed fields of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// 5-tuple.
    pub key: FlowKey,
    /// MAC addresses.
    pub macs: Macs,
    /// Incoming interface.
    pub interface: u32,
    /// Length of the received frame in bytes.
    pub frame_len: usize,
    /// Offset of the IP header.
    pub network: usize,
    /// Offset of the TCP or UDP header, or of the ICMP header of an error.
    pub transport: usize,
    /// Offset of the TCP or UDP header quoted by an ICMP error; 0 otherwise.
    pub quoted: usize,
    /// Eight bytes after the MAC addresses: VLAN tags, if [`Self::network`] shows that there are
    /// any.
    pub tags: u64,
    /// Length of the IP packet by its header.
    pub ip_len: u32,
    /// Length of its IP and transport headers; `NO_TRANSPORT` if the latter was not parsed.
    pub headers: u32,
    /// Identification that its fragments share, if it is one.
    pub id: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// Part of the flow.
    pub kind: PacketKind,
    /// Whether lengths agree with each other and with the frame, and the transport header is
    /// complete.
    pub well_formed: bool,
}

impl Packet {
    /// Returns whether it is IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.key.family == 6
    }

    /// Returns whether it is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.protocol == PROTOCOL_TCP
    }

    /// Returns the same, with offsets that the verifier knows to be small: those of a packet from memory.
    #[inline(always)]
    #[must_use]
    pub const fn bounded(self) -> Self {
        Self {
            network: self.network & 0x1f,
            transport: self.transport & 0x7fff,
            headers: self.headers & NO_TRANSPORT,
            quoted: self.quoted & 0x7fff,
            ..self
        }
    }

    /// Returns the length of the payload after the transport header; 0 if that was not parsed.
    #[inline(always)]
    pub const fn payload(&self) -> u32 {
        self.ip_len.saturating_sub(self.headers)
    }

    /// Returns whether it is TCP and too short for anything but an acknowledgement: up to the
    /// length of headers with selective acknowledgements (RFC 2018). The kernel's stack has no room
    /// for the exact end of the headers.
    #[inline(always)]
    pub const fn is_pure_ack(&self) -> bool {
        self.tcp_flags & (SYN | ACK | RST | FIN) == ACK && self.ip_len <= MAX_ACK_BYTES
    }

    /// Returns whether it is a TCP segment that opens or closes a connection, or one direction of
    /// it.
    #[inline(always)]
    pub const fn is_control(&self) -> bool {
        self.tcp_flags & (SYN | FIN | RST) != 0
    }

    /// Returns the TCP sequence and acknowledgment number, which are not stored: stack is scarce.
    #[inline(always)]
    pub(crate) fn tcp_numbers<F: Frame>(&self, frame: &F) -> Option<[u32; 2]> {
        let [sequence, acknowledgment] = frame.load(self.transport + 4)?;
        Some([u32::from_be(sequence), u32::from_be(acknowledgment)])
    }

    /// Returns whether it opens a TCP connection.
    #[inline(always)]
    pub const fn opens_tcp(&self) -> bool {
        self.tcp_flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// Parses a packet. `None` if it is not TCP or UDP over IP, is a fragment, or ends before its ports.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, interface: u32) -> Option<Packet> {
    let network = network(frame)?;
    if network.is_fragment {
        return None;
    }
    packet(frame, interface, &network)
}

/// Parses an IPv4 packet with the usual headers, so that all offsets are constants. `None` also for
/// packets with VLAN tags or options, and for malformed ones.
#[inline(always)]
pub fn parse_v4<F: Frame>(frame: &F, interface: u32) -> Option<Packet> {
    // One check that covers most of those that follow: all headers are present, if they are the
    // shortest.
    frame.load::<[u8; ETHERNET_HEADER + IPV4_HEADER + UDP_HEADER]>(0)?;
    if outer_ethertype(frame)? != ETHERTYPE_IPV4 {
        return None;
    }
    plain(frame, interface, &Network::plain_v4(frame)?)
}

/// Parses an IPv6 packet with the usual headers, so that all offsets are constants. `None` also for
/// packets with VLAN tags or extension headers, and for malformed ones.
#[inline(always)]
pub fn parse_v6<F: Frame>(frame: &F, interface: u32) -> Option<Packet> {
    // As in `parse_v4`.
    frame.load::<[u8; ETHERNET_HEADER + IPV6_HEADER + UDP_HEADER]>(0)?;
    if outer_ethertype(frame)? != ETHERTYPE_IPV6 {
        return None;
    }
    plain(frame, interface, &Network::plain_v6(frame)?)
}

#[inline(always)]
fn plain<F: Frame>(frame: &F, interface: u32, network: &Network) -> Option<Packet> {
    let transport = Transport::parse::<_, true>(frame, network.protocol, network.transport)?;
    let packet = with_transport(frame, interface, network, &transport)?;
    packet.well_formed.then_some(Packet {
        well_formed: true,
        ..packet
    })
}

/// Parses the IP headers of a packet.
#[inline(always)]
pub(crate) fn network<F: Frame>(frame: &F) -> Option<Network> {
    let (ethertype, at) = ethertype(frame)?;
    Network::parse(frame, ethertype, at)
}

/// Parses the IP headers of a packet of this family at an offset.
#[inline(always)]
pub(super) fn inner<F: Frame>(frame: &F, family: u8, at: usize) -> Option<Network> {
    let ethertype = if family == 4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    Network::parse(frame, ethertype, at)
}

/// Parses a packet whose transport header follows its IP headers.
#[inline(always)]
pub(crate) fn packet<F: Frame>(frame: &F, interface: u32, network: &Network) -> Option<Packet> {
    let transport = Transport::parse::<_, false>(frame, network.protocol, network.transport)?;
    with_transport(frame, interface, network, &transport)
}

#[inline(always)]
fn with_transport<F: Frame>(
    frame: &F,
    interface: u32,
    network: &Network,
    transport: &Transport,
) -> Option<Packet> {
    let header_end = network.transport - network.at + transport.header_len;
    let whole = Packet {
        tcp_flags: transport.flags,
        ..without_transport(
            frame,
            interface,
            network,
            network.protocol,
            [transport.source, transport.destination],
        )?
    };
    Some(Packet {
        headers: header_end as u32,
        well_formed: transport.complete
            && header_end <= network.ip_len as usize
            && whole.well_formed,
        ..whole
    })
}

/// Creates a packet with these ports from its IP headers alone.
#[inline(always)]
pub(crate) fn without_transport<F: Frame>(
    frame: &F,
    interface: u32,
    network: &Network,
    protocol: u8,
    [source_port, destination_port]: [u16; 2],
) -> Option<Packet> {
    let frame_len = frame.len();
    let headers = network.transport - network.at;
    Some(Packet {
        key: FlowKey {
            source: network.source,
            destination: network.destination,
            source_port,
            destination_port,
            protocol,
            family: network.family,
            member: 0,
        },
        macs: Macs::from_words(frame.load(0)?, frame.load(8)?),
        interface,
        frame_len,
        network: network.at,
        transport: network.transport,
        quoted: 0,
        tags: frame.load(ETHERNET_HEADER - 2)?,
        ip_len: network.ip_len,
        headers: NO_TRANSPORT,
        id: network.id,
        ttl: network.ttl,
        tos: network.tos,
        tcp_flags: 0,
        kind: PacketKind::Whole,
        well_formed: headers <= network.ip_len as usize
            && network.at + network.ip_len as usize <= frame_len,
    })
}
