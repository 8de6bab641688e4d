//! The sections `[node]`, `[nat]`, `[encap]` and `[probe]`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use steer_common::abi::{MAX_DENIED_PREFIXES, MAX_NAT_ADDRESSES, Mac};
use steer_probe::pki::{Identity, IdentityKind};

use super::{
    Admission, Encap, Nat, Node, Outer, Probe, ProbeFiles,
    raw::{self, Text},
    read::Single,
    report::Report,
    settings::Setting,
};

const NAT_PORTS: RangeInclusive<u16> = 20_000..=59_999;
/// Maximum length of an interface name: IFNAMSIZ without the terminator.
const INTERFACE_LEN: usize = 15;
/// Maximum number of additional MAC addresses; the map also holds those of interfaces.
const MAX_MACS: usize = 64;
/// Advice about an interface name.
const INTERFACE: &str =
    "name the interface on which packets of clients arrive: `ip route` and `ip link` show it";

/// The section `[nat]`, with the positions of its addresses.
pub(super) struct NatSection {
    pub(super) typed: Nat,
    pub(super) spans: Vec<Range<usize>>,
    /// Whether all of its addresses could be read.
    pub(super) known: bool,
}

pub(super) fn node(raw: raw::Node, report: &mut Report<'_>) -> Node {
    identity(IdentityKind::Node, &raw.name, Some(&raw.region), report);
    if raw.interfaces.get_ref().is_empty() {
        report.add(
            raw.interfaces.span(),
            "no interface is configured",
            INTERFACE,
        );
    }
    let mut interfaces: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for name in raw.interfaces.into_inner() {
        let fit = |c: char| c.is_ascii_graphic() && c != '/';
        let text = name.get_ref();
        if text == "lo" {
            let what = "`lo` is this host's own loopback: no packet of a client arrives on it";
            report.add(name.span(), what, INTERFACE);
        } else if text.contains([',', ' ']) && !report.is_hidden(text) {
            let names = text.split([',', ' ']).filter(|name| !name.is_empty());
            let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
            let what = format!("{text:?} holds several names");
            let todo = format!("write each in quotes of its own: {}", names.join(", "));
            report.add(name.span(), what, todo);
        } else if text.is_empty() || text.len() > INTERFACE_LEN || !text.chars().all(fit) {
            let what = format!("{text:?} is not the name of an interface");
            report.add(name.span(), what, "write one that `ip link` shows");
        } else if !seen.insert(text.clone()) {
            let what = format!("interface {text:?} is listed twice");
            report.add(name.span(), what, "remove one of them");
        }
        interfaces.push(name.into_inner());
    }
    Node {
        name: raw.name.into_inner(),
        region: raw.region.into_inner(),
        zone: raw.zone,
        interfaces,
        macs: macs(&raw.macs, report),
        accept_any_mac: raw.accept_any_mac,
        xdp_mode: raw.xdp_mode,
        state_dir: report.path(raw.state_dir, "/var/lib/steer"),
        socket: report.path(raw.socket, "/run/steer/steer.sock"),
        bpffs: report.path(raw.bpffs, "/sys/fs/bpf"),
        flow_seed_file: raw
            .flow_seed_file
            .map(|file| report.path(Some(file), "/etc/steer/flow.seed")),
        generations: report.count(raw.generations.as_ref(), Setting::Generations) as usize,
        journal_bytes: u64::from(report.count(raw.journal_mib.as_ref(), Setting::JournalMib)) << 20,
    }
}

/// Returns the MAC addresses of a list.
fn macs(raw: &[Text], report: &mut Report<'_>) -> Vec<Mac> {
    let mut found: Vec<Mac> = Vec::new();
    for value in raw {
        let text = value.get_ref();
        let todo = "write one like 00:00:5e:00:01:07";
        let Some(mac) = parse_mac(text) else {
            report.add(value.span(), format!("{text:?} is not a MAC address"), todo);
            continue;
        };
        if mac[0] & 1 != 0 || mac == [0; 6] {
            let what = format!("{text} is not the address of a single host");
            report.add(value.span(), what, todo);
        } else if found.contains(&mac) {
            report.add(
                value.span(),
                format!("{text} is listed twice"),
                "remove one of them",
            );
        } else if found.len() == MAX_MACS {
            report.add(
                value.span(),
                format!("more than {MAX_MACS} addresses"),
                "remove some",
            );
            break;
        } else {
            found.push(mac);
        }
    }
    found
}

/// Parses six bytes of hexadecimal digits with colons between them.
fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        let is_hex = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_hex)?;
    }
    parts.next().is_none().then_some(mac)
}

/// Checks that a certificate can carry the name and region.
pub(super) fn identity(
    kind: IdentityKind,
    name: &Text,
    region: Option<&Text>,
    report: &mut Report<'_>,
) {
    // Checked one by one, to report the right line.
    if let Err(e) = Identity::new(kind, "any", name.get_ref()) {
        report.add_described(name.span(), &e);
    }
    let Some(region) = region else { return };
    if let Err(e) = Identity::new(kind, region.get_ref(), "any") {
        report.add_described(region.span(), &e);
    }
}

/// Default of the kernel's own receiver (`ip fou add port 6080 gue`); IANA assigned GUE this port.
const GUE_PORT: u16 = 6080;
/// Maximum number of bits of an outer source that vary by flow.
const MAX_SOURCE_BITS: u8 = 24;

pub(super) fn nat(Single { raw, broken }: Single<raw::Nat>, report: &mut Report<'_>) -> NatSection {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut spans = Vec::new();
    for value in &raw.addresses {
        let Some(address) = report.address(value) else {
            continue;
        };
        if addresses.contains(&address) {
            let what = format!("{address} is listed twice");
            report.add(value.span(), what, "remove one of them");
        }
        let of_family = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
        if addresses.iter().filter(of_family).count() == MAX_NAT_ADDRESSES as usize {
            let what = format!("more than {MAX_NAT_ADDRESSES} addresses of one family");
            report.add(
                value.span(),
                what,
                "remove some; each has all ports of the range",
            );
        }
        addresses.push(address);
        spans.push(value.span());
    }
    let ports = raw.ports.map_or(NAT_PORTS, |value| {
        let range = value.get_ref().split_once('-');
        let parsed = range.and_then(|(first, last)| {
            let first: u16 = first.trim().parse().ok()?;
            let last: u16 = last.trim().parse().ok()?;
            (1 <= first && first <= last).then_some(first..=last)
        });
        parsed.unwrap_or_else(|| {
            let what = format!("{:?} is not a range of ports, or is empty", value.get_ref());
            report.add(value.span(), what, "write one like 20000-59999");
            NAT_PORTS
        })
    });
    let typed = Nat {
        addresses,
        ports,
        opening_timeout: report.time(raw.opening_timeout.as_ref(), Setting::NatOpening),
        udp_unassured_timeout: report
            .time(raw.udp_unassured_timeout.as_ref(), Setting::NatUdpUnassured),
        closed_timeout: report.time(raw.closed_timeout.as_ref(), Setting::NatClosed),
        reply_filter: raw.reply_filter,
        verify_checksums: raw.verify_checksums.unwrap_or(true),
        burst_gap: report.time(raw.burst_gap.as_ref(), Setting::NatBurstGap),
        silence: report.time(raw.silence.as_ref(), Setting::NatSilence),
    };
    NatSection {
        known: !broken && spans.len() == raw.addresses.len(),
        typed,
        spans,
    }
}

/// Returns the section, and whether all of its sources could be read.
pub(super) fn encap(
    Single { raw, broken }: Single<raw::Encap>,
    report: &mut Report<'_>,
) -> (Encap, bool) {
    let mut known = !broken;
    let mut encap = Encap {
        gue_port: GUE_PORT,
        ..Encap::default()
    };
    if let Some(port) = raw.gue_port {
        encap.gue_port = *port.get_ref();
        if encap.gue_port == 0 {
            report.add(port.span(), "0 is not a port", "write 1 to 65535");
        }
    }
    for value in raw.sources {
        let Some((address, outer)) = outer(&value, report) else {
            known = false;
            continue;
        };
        let place = match address {
            IpAddr::V4(_) => &mut encap.v4,
            IpAddr::V6(_) => &mut encap.v6,
        };
        if place.replace(outer).is_some() {
            let what = "more than one source of one family";
            report.add(
                value.span(),
                what,
                "keep one IPv4 and one IPv6 source at most; a prefix spreads flows over its addresses",
            );
        }
    }
    (encap, known)
}

/// Parses an address, or a prefix whose addresses vary by flow.
fn outer(value: &Text, report: &mut Report<'_>) -> Option<(IpAddr, Outer)> {
    let todo =
        "write an address like 10.0.0.11, or a prefix like 10.0.8.0/24 whose last bits are 0";
    let (address, len) = report.prefix(value, todo)?;
    let bits = if address.is_ipv4() { 32 } else { 128 } - len;
    if bits > MAX_SOURCE_BITS {
        let what = format!(
            "{} leaves more than {MAX_SOURCE_BITS} bits to flows",
            value.get_ref()
        );
        report.add(value.span(), what, todo);
        return None;
    }
    Some((address, Outer { address, bits }))
}

pub(super) fn admission(raw: &raw::Admission, report: &mut Report<'_>) -> Admission {
    let mut deny = Vec::new();
    for value in &raw.deny {
        let todo = "write one like 198.51.100.7 or 198.51.100.0/24, whose last bits are 0";
        deny.extend(report.prefix(value, todo));
    }
    if deny.len() > MAX_DENIED_PREFIXES as usize {
        let what = format!("{} prefixes, more than {MAX_DENIED_PREFIXES}", deny.len());
        report.add(report.find("admission"), what, "join or remove some");
    }
    let bits = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    Admission {
        deny,
        source_v4_bits: bits(report.count(raw.source_v4_bits.as_ref(), Setting::SourceV4Bits)),
        source_v6_bits: bits(report.count(raw.source_v6_bits.as_ref(), Setting::SourceV6Bits)),
    }
}

pub(super) fn probe(
    Single { raw, broken }: Single<raw::Probe>,
    with_beacons: bool,
    report: &mut Report<'_>,
) -> Probe {
    let interval = report.time(raw.interval.as_ref(), Setting::ProbeInterval);
    let timeout = report.time(raw.timeout.as_ref(), Setting::ProbeTimeout);
    let handshake = raw.handshake_every.as_ref();
    let handshake_every = report.time(handshake, Setting::ProbeHandshakeEvery);
    if let Some(value) = handshake.filter(|_| handshake_every < interval) {
        let what = "handshakes are more frequent than pings";
        report.add(value.span(), what, "write more than `interval`");
    }
    if with_beacons && !broken && (raw.ca.is_none() || raw.cert.is_none() || raw.key.is_none()) {
        let what = "beacons are probed, but [probe] lacks `ca`, `cert` or `key`";
        let todo = "name the files that `steer pki` made, or remove `beacon` from the backends";
        report.add(report.find("probe"), what, todo);
    }
    if let Some(name) = &raw.http_name
        && rustls::pki_types::ServerName::try_from(name.get_ref().as_str()).is_err()
    {
        let what = format!("{:?} is not a host name", name.get_ref());
        report.add(name.span(), what, "write one like chat.example.org");
    }
    let mut file = |value: Option<Text>| -> Option<PathBuf> {
        value.map(|v| report.path(Some(v), "/etc/steer/pki/ca.pem"))
    };
    let http_ca = file(raw.http_ca);
    let files = (file(raw.ca), file(raw.cert), file(raw.key));
    Probe {
        interval,
        timeout,
        rise: report.count(raw.rise.as_ref(), Setting::ProbeRise),
        fall: report.count(raw.fall.as_ref(), Setting::ProbeFall),
        flap_half_life: report.time(raw.flap_half_life.as_ref(), Setting::ProbeFlapHalfLife),
        handshake_every,
        budget: report.count(raw.budget.as_ref(), Setting::ProbeBudget),
        http_ca,
        http_name: raw.http_name.map(Text::into_inner),
        files: match files {
            (Some(ca), Some(cert), Some(key)) => Some(ProbeFiles { ca, cert, key }),
            _ => None,
        },
    }
}
