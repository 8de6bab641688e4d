//! Forged TCP segments and ICMP errors. The attackers know all addresses and ports, including those
//! of `nat`, but no sequence numbers.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::mpsc,
    time::Duration,
};

use anyhow::Result;
use rand::Rng as _;

use super::{
    raw,
    site::{Attacker, NatFlow, Site},
    turn::{AttackRun, End, segment},
};
use crate::{
    fleet::HTTP,
    packet::{ACK, FIN, RST, SYN, TestPacket, ethernet, icmp, ip_around},
    topology::VIP_V4,
};

const CHAT: End = (VIP_V4, HTTP);
/// Time for a SYN to reach a backend, where it reveals its port of `nat`.
const ON_ITS_WAY: Duration = Duration::from_millis(30);
/// Prefix of the sequence numbers in the attacker's own SYNs.
const MARK: u32 = 0xa77a_0000;
/// Number of SYNs repeated once a second.
const REPEATED: usize = 300;

/// Sends segments with these flags in the names of clients and of backends, from everywhere.
fn both_ways(turn: &mut AttackRun<'_>, kinds: &[u8]) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        for [client, service] in turn.victims() {
            for from in [&site.neighbour, &site.outsider] {
                for flags in kinds {
                    let numbers = turn.numbers();
                    turn.segment(from, [client, service], *flags, numbers)?;
                }
            }
        }
        for flow in site.nat_flows()? {
            for from in towards_node(site, flow) {
                for flags in kinds {
                    let numbers = turn.numbers();
                    turn.segment(from, [flow.server, flow.node], *flags, numbers)?;
                }
            }
        }
    }
    Ok(())
}

/// Returns attackers that can impersonate a flow's backend: one is on the first backend's own
/// segment.
fn towards_node(site: &Site, flow: NatFlow) -> Vec<&Attacker> {
    let mut all = vec![&site.outsider, &site.neighbour];
    if flow.backend == 0 {
        all.push(&site.insider);
    }
    all
}

pub(super) fn resets(turn: &mut AttackRun<'_>) -> Result<()> {
    both_ways(turn, &[RST, RST | ACK])
}

pub(super) fn fins(turn: &mut AttackRun<'_>) -> Result<()> {
    both_ways(turn, &[FIN | ACK, FIN])
}

pub(super) fn syns(turn: &mut AttackRun<'_>) -> Result<()> {
    both_ways(turn, &[SYN, SYN | ACK])
}

/// Sends a reset followed by a SYN, which would start the flow anew.
pub(super) fn resets_and_syns(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        for victim in turn.victims() {
            for flags in [RST, SYN] {
                let numbers = turn.numbers();
                turn.segment(&site.neighbour, victim, flags, numbers)?;
            }
        }
    }
    Ok(())
}

/// SYNs in the name of clients whose backends drain: new connections would go to others.
pub(super) fn syns_while_draining(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    for backend in Site::draining() {
        site.fleet.cli(&["backend", "drain", backend])?;
    }
    while !turn.is_over() {
        for victim in turn.victims() {
            let numbers = turn.numbers();
            turn.segment(&site.neighbour, victim, SYN, numbers)?;
        }
    }
    Ok(())
}

/// Sends acknowledgments in a neighbour's name, with the attacker's own hardware address.
pub(super) fn acknowledgments(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        for victim in turn.victims() {
            for payload in [0, 1, 100] {
                let numbers = turn.numbers();
                let mut packet = segment(&site.neighbour, victim, ACK, numbers);
                packet.payload = vec![b'x'; payload];
                turn.send(&site.neighbour, &packet.bytes())?;
            }
        }
    }
    Ok(())
}

/// Sends SYNs with a wrong checksum, repeated as if unanswered.
pub(super) fn unanswered(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    let syns: Vec<Vec<u8>> = (0..REPEATED)
        .map(|_| {
            let (source, numbers) = (turn.spoofed(), turn.numbers());
            broken(&segment(&site.neighbour, [source, CHAT], SYN, numbers))
        })
        .collect();
    while !turn.is_over() {
        for syn in &syns {
            turn.send(&site.neighbour, syn)?;
        }
    }
    Ok(())
}

/// Returns a segment with a wrong checksum.
fn broken(packet: &TestPacket) -> Vec<u8> {
    let mut frame = packet.bytes();
    frame[packet.transport_at() + 16] ^= 0x55;
    frame
}

/// Sends SYNs with a wrong checksum, which no backend answers, and resets in the backends' names.
pub(super) fn refusals_of_broken_syns(turn: &mut AttackRun<'_>) -> Result<()> {
    refusals(turn, broken, |_, turn| {
        [turn.numbers()[0], turn.numbers()[1]]
    })
}

/// Sends valid SYNs with matching refusals, from the backend's segment where there is an attacker.
pub(super) fn refusals_of_good_syns(turn: &mut AttackRun<'_>) -> Result<()> {
    refusals(turn, TestPacket::bytes, |syn, _| {
        [0, syn.sequence.wrapping_add(1)]
    })
}

fn refusals(
    turn: &mut AttackRun<'_>,
    frame: impl Fn(&TestPacket) -> Vec<u8>,
    answer: impl Fn(raw::Segment, &mut AttackRun<'_>) -> [u32; 2],
) -> Result<()> {
    let site = turn.site;
    let (tell, told) = mpsc::channel();
    let _sniffers = site.follow_syns(move |backend, syn| {
        if syn.sequence & 0xffff_0000 == MARK {
            // The receiver may be gone.
            let _ = tell.send((backend, syn));
        }
    })?;
    let mut number = 0_u32;
    while !turn.is_over() {
        number = number.wrapping_add(1);
        let sequence = MARK | number & 0xffff;
        let source = turn.spoofed();
        let syn = segment(&site.neighbour, [source, CHAT], SYN, [sequence, 0]);
        turn.send(&site.neighbour, &frame(&syn))?;
        let Ok((backend, syn)) = told.recv_timeout(ON_ITS_WAY) else {
            continue;
        };
        let flow = NatFlow {
            backend,
            server: (Ipv4Addr::from(syn.destination.0), syn.destination.1),
            node: (Ipv4Addr::from(syn.source.0), syn.source.1),
        };
        for from in towards_node(site, flow) {
            let numbers = answer(syn, turn);
            turn.segment(from, [flow.server, flow.node], RST | ACK, numbers)?;
        }
    }
    Ok(())
}

/// Types and codes of ICMP errors, with the rest of their header.
const ERRORS: [([u8; 2], u32); 4] = [
    // Port, host and protocol unreachable; too big for 600 bytes.
    ([3, 3], 0),
    ([3, 1], 0),
    ([3, 2], 0),
    ([3, 4], 600),
];

/// Sends ICMP errors about clients' flows, flows of `nat` and probes.
pub(super) fn icmp_errors(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        let mut quoted = Vec::new();
        for [client, service] in turn.victims() {
            let packet = segment(&site.neighbour, [service, client], ACK, turn.numbers());
            quoted.push((&site.neighbour, packet));
        }
        for flow in site.nat_flows()? {
            for from in towards_node(site, flow) {
                let packet = segment(from, [flow.node, flow.server], ACK, turn.numbers());
                quoted.push((from, packet));
            }
        }
        let (beacon, port) = site.beacon(0);
        for own in site.probe_ports()? {
            let probe = (Site::node_towards_insider(), own);
            quoted.push((&site.insider, TestPacket::udp(probe, (beacon.into(), port))));
        }
        for (from, packet) in quoted {
            for (kind, word) in ERRORS {
                turn.send(from, &error(from, &packet, kind, word))?;
            }
        }
    }
    Ok(())
}

/// Returns an ICMP error about a packet, to its sender.
fn error(from: &Attacker, packet: &TestPacket, kind: [u8; 2], word: u32) -> Vec<u8> {
    let ends: [IpAddr; 2] = [from.address.into(), packet.source];
    let message = icmp(ends, kind, word, &packet.ip()[..28]);
    let mut frame = ethernet([from.node, from.mac], &[], true);
    frame.extend(ip_around(ends, 64, 1, &message));
    frame
}

/// Sends frames for other hosts, broadcast and multicast, that would do harm if the node accepted
/// them.
pub(super) fn frames_for_others(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        for victim in turn.victims() {
            let other = [2, 0x66, turn.random.random(), turn.random.random(), 0, 1];
            for mac in [other, [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
                for flags in [RST, SYN, ACK] {
                    let numbers = turn.numbers();
                    let mut packet = segment(&site.neighbour, victim, flags, numbers);
                    packet.macs[0] = mac;
                    turn.send(&site.neighbour, &packet.bytes())?;
                }
                let source = turn.spoofed();
                let numbers = turn.numbers();
                let mut packet = segment(&site.neighbour, [source, CHAT], SYN, numbers);
                packet.macs[0] = mac;
                turn.send(&site.neighbour, &packet.bytes())?;
            }
        }
    }
    Ok(())
}

/// Source addresses that no host can have.
const MARTIANS: [Ipv4Addr; 8] = [
    VIP_V4,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::new(0, 1, 2, 3),
    Ipv4Addr::BROADCAST,
    Ipv4Addr::new(224, 0, 0, 5),
    Ipv4Addr::new(240, 0, 0, 1),
    Ipv4Addr::new(10, 77, 0, 255),
];

/// Sends TCP and UDP packets with such sources.
pub(super) fn martians(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        for source in MARTIANS {
            // The "land" attack uses the destination as source.
            let ports = [HTTP, turn.random.random_range(1024..65000)];
            for (from, port) in [&site.neighbour, &site.outsider].into_iter().zip(ports) {
                for flags in [SYN, ACK, RST] {
                    let numbers = turn.numbers();
                    turn.segment(from, [(source, port), CHAT], flags, numbers)?;
                }
                let echo = (VIP_V4, super::site::ECHO);
                let packet = super::turn::datagram(from, [(source, port), echo], vec![1; 50]);
                turn.send(from, &packet.bytes())?;
            }
        }
    }
    Ok(())
}
