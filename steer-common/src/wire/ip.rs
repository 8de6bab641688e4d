//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use super::{Packet, transport::Transport};
use crate::{
    abi::{Address, FlowKey, Macs},
    frame::Frame,
};

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// Extension headers that are followed. RFC 8504 section 5.3 lets a node limit their number, to 8 at
/// the least for hosts; real chains have one or two.
const EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
pub(super) fn parse_v4<F: Frame>(frame: &F, network: usize, interface: u32) -> Option<Packet> {
    let [first, ip_len, _, fragment, ttl, _]: [u16; 6] = frame.load(network)?;
    let [version, tos] = first.to_ne_bytes();
    let [ttl, protocol] = ttl.to_ne_bytes();
    let header_len = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || header_len < IPV4_HEADER {
        return None;
    }
    let fragment = u16::from_be(fragment);
    if fragment & 0x1fff != 0 {
        return None;
    }
    let ip_len = u32::from(u16::from_be(ip_len));
    let [source, destination]: [u32; 2] = frame.load(network + 12)?;
    finish(
        frame,
        interface,
        Network {
            at: network,
            transport: network + header_len,
            ip_len,
            source: Address::from_v4(source),
            destination: Address::from_v4(destination),
            protocol,
            family: 4,
            ttl,
            tos,
            fragment: fragment & 0x2000 != 0,
        },
    )
}

#[inline(always)]
pub(super) fn parse_v6<F: Frame>(frame: &F, network: usize, interface: u32) -> Option<Packet> {
    let [first, _, ip_len, next]: [u16; 4] = frame.load(network)?;
    let first = u16::from_be(first);
    let [next, ttl] = next.to_ne_bytes();
    if first >> 12 != 6 {
        return None;
    }
    let source = Address::from_v6(frame.load(network + 8)?);
    let destination = Address::from_v6(frame.load(network + 24)?);
    let (protocol, transport, fragment) = skip_extensions(frame, next, network + IPV6_HEADER)?;
    finish(
        frame,
        interface,
        Network {
            at: network,
            transport,
            ip_len: IPV6_HEADER as u32 + u32::from(u16::from_be(ip_len)),
            source,
            destination,
            protocol,
            family: 6,
            ttl,
            tos: (first >> 4) as u8,
            fragment,
        },
    )
}

/// Protocol, offset of its header, and whether it is the first of several fragments.
#[inline(always)]
fn skip_extensions<F: Frame>(frame: &F, first: u8, start: usize) -> Option<(u8, usize, bool)> {
    let (mut protocol, mut at, mut fragment) = (first, start, false);
    for _ in 0..EXTENSION_HEADERS {
        let units = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => {
                frame.load::<[u8; 4]>(at)?
            }
            _ => return Some((protocol, at, fragment)),
        };
        at += match protocol {
            FRAGMENT => {
                let field = u16::from_be_bytes([units[2], units[3]]);
                if field & 0xfff8 != 0 {
                    return None;
                }
                fragment |= field & 1 != 0;
                8
            }
            // RFC 4302 section 2.2: its length counts words of four bytes, minus two.
            AUTHENTICATION => usize::from(units[1]) * 4 + 8,
            // The destination is that of the last segment, not that of the header.
            ROUTING if units[3] != 0 => return None,
            _ => usize::from(units[1]) * 8 + 8,
        };
        protocol = units[0];
    }
    match protocol {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => None,
        _ => Some((protocol, at, fragment)),
    }
}

/// What both versions of IP say.
struct Network {
    at: usize,
    transport: usize,
    ip_len: u32,
    source: Address,
    destination: Address,
    protocol: u8,
    family: u8,
    ttl: u8,
    tos: u8,
    fragment: bool,
}

#[inline(always)]
fn finish<F: Frame>(frame: &F, interface: u32, network: Network) -> Option<Packet> {
    let transport = Transport::parse(frame, network.protocol, network.transport)?;
    let frame_len = frame.len();
    let header_end = network.transport - network.at + transport.header_len;
    let macs = Macs::from_words(frame.load(0)?, frame.load(8)?);
    Some(Packet {
        key: FlowKey {
            source: network.source,
            destination: network.destination,
            source_port: transport.source,
            destination_port: transport.destination,
            protocol: network.protocol,
            family: network.family,
            _pad: 0,
        },
        macs,
        interface,
        frame_len,
        network: network.at,
        transport: network.transport,
        ip_len: network.ip_len,
        ttl: network.ttl,
        tos: network.tos,
        tcp_flags: transport.flags,
        fragment: network.fragment,
        well_formed: transport.complete
            && header_end <= network.ip_len as usize
            && network.at + network.ip_len as usize <= frame_len,
    })
}
