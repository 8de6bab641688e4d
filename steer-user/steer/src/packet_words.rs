//! A frame as text, header by header, as far as its bytes go.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use steer_common::{
    abi::FlowKey,
    wire::{PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, PROTOCOL_UDP},
};

const VLANS: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
/// Extension headers to skip, and their maximum number.
const EXTENSIONS: [u8; 4] = [0, 43, 51, 60];
const MOST_EXTENSIONS: usize = 8;
const FRAGMENT: u8 = 44;
/// TCP flags in the order of their bits, as tcpdump shows them.
const FLAGS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];
/// Maximum depth of encapsulated packets.
const MOST_INNER: usize = 3;

/// Returns the headers of a frame in one line. `gue` is the UDP port of encapsulated IP packets.
pub(crate) fn frame(bytes: &[u8], gue: Option<u16>) -> String {
    let mut text = String::new();
    let Some((mut ethertype, mut at)) = u16_at(bytes, 12).map(|kind| (kind, 14)) else {
        return "less than an Ethernet header".to_owned();
    };
    while VLANS.contains(&ethertype) {
        let (Some(tag), Some(next)) = (u16_at(bytes, at), u16_at(bytes, at + 2)) else {
            break;
        };
        let _ = write!(text, "vlan {} ", tag & 0xfff);
        (ethertype, at) = (next, at + 4);
    }
    match ethertype {
        IPV4 | IPV6 => text + &packet(&bytes[at.min(bytes.len())..], gue, MOST_INNER),
        ARP => text + "ARP",
        other => text + &format!("EtherType {other:#06x}"),
    }
}

/// Returns a flow in one line.
pub(crate) fn flow(key: &FlowKey) -> String {
    let name = match key.protocol {
        PROTOCOL_TCP => "tcp".to_owned(),
        PROTOCOL_UDP => "udp".to_owned(),
        other => format!("protocol {other}"),
    };
    let source = port(key.source.to_ip(), key.source_port);
    let destination = port(key.destination.to_ip(), key.destination_port);
    format!("{name} {source} > {destination}")
}

/// Returns the headers of an IP packet in one line.
fn packet(bytes: &[u8], gue: Option<u16>, deeper: usize) -> String {
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) => v4(bytes, gue, deeper),
        Some(6) => v6(bytes, gue, deeper),
        _ => "not an IP packet".to_owned(),
    }
}

fn v4(bytes: &[u8], gue: Option<u16>, deeper: usize) -> String {
    if bytes.len() < 20 {
        return "a truncated IPv4 header".to_owned();
    }
    let address = |at: usize| {
        let mut octets = [0; 4];
        octets.copy_from_slice(&bytes[at..at + 4]);
        IpAddr::from(Ipv4Addr::from(octets))
    };
    let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
    let ends = [address(12), address(16)];
    let header = usize::from(bytes[0] & 15) * 4;
    let rest = bytes.get(header..).unwrap_or_default();
    let offset = usize::from(fragment & 0x1fff) * 8;
    let is_fragment = fragment & 0x3fff != 0;
    above(
        ends,
        bytes[9],
        rest,
        is_fragment.then_some(offset),
        (gue, deeper),
    )
}

fn v6(bytes: &[u8], gue: Option<u16>, deeper: usize) -> String {
    if bytes.len() < 40 {
        return "a truncated IPv6 header".to_owned();
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let ends = [address(8), address(24)];
    let (mut next, mut at, mut fragment) = (bytes[6], 40, None);
    for _ in 0..MOST_EXTENSIONS {
        let Some([following, len]) = bytes.get(at..at + 2).map(|b| [b[0], b[1]]) else {
            break;
        };
        if next == FRAGMENT {
            fragment = u16_at(bytes, at + 2).map(|word| usize::from(word & !7));
            (next, at) = (following, at + 8);
        } else if EXTENSIONS.contains(&next) {
            (next, at) = (following, at + (usize::from(len) + 1) * 8);
        } else {
            break;
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    above(ends, next, rest, fragment, (gue, deeper))
}

fn above(
    [source, destination]: [IpAddr; 2],
    protocol: u8,
    bytes: &[u8],
    fragment: Option<usize>,
    (gue, deeper): (Option<u16>, usize),
) -> String {
    if let Some(offset) = fragment.filter(|offset| *offset != 0) {
        return format!("{source} > {destination} fragment at {offset}");
    }
    let mut text = match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => {
            let name = if protocol == PROTOCOL_TCP {
                "tcp"
            } else {
                "udp"
            };
            match (u16_at(bytes, 0), u16_at(bytes, 2)) {
                (Some(from), Some(to)) => {
                    let flags = bytes.get(13).filter(|_| protocol == PROTOCOL_TCP);
                    let flags =
                        flags.map_or(String::new(), |flags| format!(" [{}]", tcp_flags(*flags)));
                    let (source, destination) = (port(source, from), port(destination, to));
                    let mut text = format!("{name} {source} > {destination}{flags}");
                    if gue == Some(to) && protocol == PROTOCOL_UDP && deeper > 0 && bytes.len() > 8
                    {
                        let inner = packet(&bytes[8..], None, deeper - 1);
                        text = format!("gue {source} > {destination} around {inner}");
                    }
                    text
                }
                _ => format!("{name} {source} > {destination}, cut"),
            }
        }
        PROTOCOL_IPV4 | PROTOCOL_IPV6 if deeper > 0 => {
            let inner = packet(bytes, gue, deeper - 1);
            format!("ipip {source} > {destination} around {inner}")
        }
        1 | 58 => {
            let name = if protocol == 1 { "icmp" } else { "icmpv6" };
            let mut text = format!("{name} {source} > {destination}");
            if let Some([kind, code]) = bytes.get(..2).map(|b| [b[0], b[1]]) {
                let _ = write!(text, " type {kind} code {code}");
            }
            text
        }
        other => format!("protocol {other} {source} > {destination}"),
    };
    if fragment.is_some() {
        text += ", first fragment";
    }
    text
}

fn tcp_flags(flags: u8) -> String {
    let set = FLAGS
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 != 0);
    set.map(|(_, name)| *name).collect()
}

fn port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Formats bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Parses hexadecimal digits, optionally separated by spaces and colons.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_told_from_the_outside_in() {
        let tcp = "0001020304050607080900000800 4500002800010000400600000a4d0002 0a630001 \
                   c350 1f90 00000000 00000000 5012 0000 0000 0000";
        let bytes = from_hex(tcp).unwrap();
        let said = "tcp 10.77.0.2:50000 > 10.99.0.1:8080 [S.]";
        assert_eq!(frame(&bytes, None), said);
        let mut tunnel = from_hex(
            "00010203040506070809000081000064 0800 4500003c00010000400400000a620001 0a080001",
        )
        .unwrap();
        tunnel.extend(&bytes[14..]);
        assert_eq!(
            frame(&tunnel, None),
            format!("vlan 100 ipip 10.98.0.1 > 10.8.0.1 around {said}")
        );
        let mut gue = from_hex(
            "0001020304050607080900000800 4500004400010000401100000a620001 0a080001 \
             d000 17c0 0030 0000",
        )
        .unwrap();
        gue.extend(&bytes[14..]);
        assert_eq!(
            frame(&gue, Some(6080)),
            format!("gue 10.98.0.1:53248 > 10.8.0.1:6080 around {said}")
        );
        assert_eq!(frame(&gue, None), "udp 10.98.0.1:53248 > 10.8.0.1:6080");
        // Cut at any byte, the output describes what is left, without panicking.
        for bytes in [bytes, tunnel, gue] {
            for len in 0..bytes.len() {
                assert!(!frame(&bytes[..len], Some(6080)).is_empty());
            }
        }
    }

    #[test]
    fn fragments_and_icmp_are_told() {
        let first = "0001020304050607080900000800 4500002800012000401100000a4d0002 0a630001 \
                     c350 1f90 0000 0000";
        assert_eq!(
            frame(&from_hex(first).unwrap(), None),
            "udp 10.77.0.2:50000 > 10.99.0.1:8080, first fragment"
        );
        let later = first.replace("2000401100", "00b9401100");
        assert_eq!(
            frame(&from_hex(&later).unwrap(), None),
            "10.77.0.2 > 10.99.0.1 fragment at 1480"
        );
        let ping = "000102030405060708090000 86dd 60000000 0008 3a40 fd000000000000000000000000000001 \
                    fd000000000000000000000000000002 8000 0000 0000 0000";
        assert_eq!(
            frame(&from_hex(ping).unwrap(), None),
            "icmpv6 fd00::1 > fd00::2 type 128 code 0"
        );
        assert_eq!(
            frame(&from_hex("000102030405060708090a0b0806").unwrap(), None),
            "ARP"
        );
        assert_eq!(from_hex("0g"), None);
        assert_eq!(from_hex("abc"), None);
        assert_eq!(from_hex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
    }
}
