//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use super::ethernet::{ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::{
    abi::{Address, FlowKey},
    frame::Frame,
};

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// Maximum number of extension headers. RFC 8504 section 5.3 allows a limit, of at least 8 for
/// hosts; real chains have one or two.
const EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Fields of a packet's IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// Offset of the IP header.
    pub(crate) at: usize,
    /// Offset of the IP payload.
    pub(crate) transport: usize,
    /// Length by the header.
    pub(crate) ip_len: u32,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Protocol of the payload; for an IPv6 fragment other than the first, that in its fragment
    /// header.
    pub(crate) protocol: u8,
    /// IP version.
    pub(crate) family: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// Whether it is a fragment.
    pub(crate) is_fragment: bool,
    /// Offset of this fragment, in units of 8 bytes.
    pub(crate) offset: u16,
    /// Identification shared by its fragments.
    pub(crate) id: u32,
}

/// Returns whether a protocol number is that of a supported IPv6 extension header.
#[inline(always)]
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT
    )
}

impl Network {
    /// Returns the flow, without ports.
    #[inline(always)]
    pub(crate) const fn flow(&self) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: 0,
            destination_port: 0,
            protocol: self.protocol,
            family: self.family,
            member: 0,
        }
    }

    /// Returns the same fields, merged into one case like [`Packet::hidden`](super::Packet). For an
    /// inner packet, `at` is lost.
    #[inline(always)]
    pub(crate) fn laundered<F: Frame>(&self, frame: &F) -> Self {
        let network = frame.launder_struct(*self);
        Self {
            at: network.at & 0x1f,
            transport: network.transport & 0x7fff,
            family: self.family,
            ..network
        }
    }

    /// Parses the IP headers after an EtherType. `None` if it is not IP, or they are truncated.
    #[inline(always)]
    pub(super) fn parse<F: Frame>(frame: &F, ethertype: u16, at: usize) -> Option<Self> {
        match ethertype {
            ETHERTYPE_IPV4 => parse_v4::<_, false>(frame, at),
            ETHERTYPE_IPV6 => parse_v6(frame, at),
            _ => None,
        }
    }

    /// Parses an IPv4 header without options right after an Ethernet header without tags. `None`
    /// for everything else, and for fragments.
    #[inline(always)]
    pub(super) fn plain_v4<F: Frame>(frame: &F) -> Option<Self> {
        let network = parse_v4::<_, true>(frame, ETHERNET_HEADER)?;
        (!network.is_fragment).then_some(Self {
            is_fragment: false,
            ..network
        })
    }

    /// Parses an IPv6 header right after an Ethernet header without tags. Its payload may start
    /// with another header, which is neither TCP nor UDP.
    #[inline(always)]
    pub(super) fn plain_v6<F: Frame>(frame: &F) -> Option<Self> {
        header_v6(frame, ETHERNET_HEADER)
    }
}

/// Parses an IPv4 header; a `PLAIN` one has no options.
#[inline(always)]
fn parse_v4<F: Frame, const PLAIN: bool>(frame: &F, at: usize) -> Option<Network> {
    let [first, ip_len, id, fragment, ttl, _]: [u16; 6] = frame.load(at)?;
    let [version, tos] = first.to_ne_bytes();
    let [ttl, protocol] = ttl.to_ne_bytes();
    let header_len = if PLAIN {
        if version != 0x45 {
            return None;
        }
        IPV4_HEADER
    } else {
        let len = usize::from(version & 0x0f) * 4;
        if version >> 4 != 4 || len < IPV4_HEADER {
            return None;
        }
        len
    };
    let fragment = u16::from_be(fragment);
    let [source, destination]: [u32; 2] = frame.load(at + 12)?;
    Some(Network {
        at,
        transport: at + header_len,
        ip_len: u32::from(u16::from_be(ip_len)),
        source: Address::from_v4(source),
        destination: Address::from_v4(destination),
        protocol,
        family: 4,
        ttl,
        tos,
        is_fragment: fragment & 0x3fff != 0,
        offset: fragment & 0x1fff,
        id: u32::from(id),
    })
}

#[inline(always)]
fn parse_v6<F: Frame>(frame: &F, at: usize) -> Option<Network> {
    let network = header_v6(frame, at)?;
    let chain = skip_extensions(frame, network.protocol, network.transport)?;
    Some(Network {
        transport: chain.end,
        protocol: chain.protocol,
        is_fragment: chain.fragment != 0,
        offset: chain.fragment >> 3,
        id: chain.id,
        ..network
    })
}

/// Parses an IPv6 header, ignoring extension headers.
#[inline(always)]
fn header_v6<F: Frame>(frame: &F, at: usize) -> Option<Network> {
    let [first, _, ip_len, next]: [u16; 4] = frame.load(at)?;
    let first = u16::from_be(first);
    let [next, ttl] = next.to_ne_bytes();
    if first >> 12 != 6 {
        return None;
    }
    let source = Address::from_v6(frame.load(at + 8)?);
    let destination = Address::from_v6(frame.load(at + 24)?);
    Some(Network {
        at,
        transport: at + IPV6_HEADER,
        ip_len: IPV6_HEADER as u32 + u32::from(u16::from_be(ip_len)),
        source,
        destination,
        protocol: next,
        family: 6,
        ttl,
        tos: (first >> 4) as u8,
        is_fragment: false,
        offset: 0,
        id: 0,
    })
}

/// Result of a chain of extension headers.
struct Chain {
    protocol: u8,
    /// Offset after the chain.
    end: usize,
    /// Offset and "more" flag of a fragment header (RFC 8200 section 4.5).
    fragment: u16,
    id: u32,
}

#[inline(always)]
fn skip_extensions<F: Frame>(frame: &F, first: u8, start: usize) -> Option<Chain> {
    let mut chain = Chain {
        protocol: first,
        end: start,
        fragment: 0,
        id: 0,
    };
    for _ in 0..EXTENSION_HEADERS {
        // One case for the verifier in each round, and behind the last one.
        let word = frame.launder(chain.end as u64 | (chain.protocol as u64) << 32);
        chain.end = word as usize & 0x7fff;
        chain.protocol = (word >> 32) as u8;
        if !is_extension(chain.protocol) {
            return Some(chain);
        }
        let units: [u8; 4] = frame.load(chain.end)?;
        if chain.protocol == FRAGMENT {
            chain.fragment |= u16::from_be_bytes([units[2], units[3]]) & 0xfff9;
            chain.id = frame.load(chain.end + 4)?;
        }
        // The destination is that of the last segment, not that of the header.
        if chain.protocol == ROUTING && units[3] != 0 {
            return None;
        }
        chain.end += header_len(chain.protocol, units[1]);
        chain.protocol = units[0];
        if chain.fragment & 0xfff8 != 0 {
            // The rest is not a header.
            return Some(chain);
        }
    }
    (!is_extension(chain.protocol)).then_some(chain)
}

/// Length of an extension header of a protocol with this length field. Products instead of branches.
#[inline(always)]
const fn header_len(protocol: u8, units: u8) -> usize {
    let is_fragment = (protocol == FRAGMENT) as usize;
    // RFC 4302 section 2.2: its length counts words of four bytes, minus two.
    let is_authentication = (protocol == AUTHENTICATION) as usize;
    let shift = 3 - is_authentication;
    8 + (((units as usize) << shift) * (1 - is_fragment))
}
