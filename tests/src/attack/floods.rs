//! Floods small enough for any host to send: datagrams, fragments, and QUIC.

use anyhow::Result;
use rand::Rng as _;

use super::{
    site::{ECHO, QUIC},
    turn::{AttackRun, End, datagram, segment},
};
use crate::{
    fleet::HTTP,
    packet::{ACK, SYN},
    topology::VIP_V4,
};

/// Maximum number of datagrams in a burst.
const BURST: u64 = 240_000;
/// Minimum size of a datagram with a client's Initial (RFC 9000, 14.1).
const INITIAL: usize = 1200;

/// Sends datagrams with many spoofed sources, each of which takes a port of `nat`.
pub(super) fn ports(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        let source = turn.spoofed();
        let packet = datagram(&site.neighbour, [source, (VIP_V4, ECHO)], vec![b'x'; 10]);
        if turn.sent() < BURST {
            turn.send(&site.neighbour, &packet.bytes())?;
        } else {
            std::thread::sleep(turn.remaining());
        }
    }
    Ok(())
}

/// Sends first and later fragments of packets that are never complete, of TCP and UDP.
pub(super) fn fragments(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        let (source, numbers) = (turn.spoofed(), turn.numbers());
        let mut packet = match turn.random.random_range(0..3) {
            0 => segment(&site.neighbour, [source, (VIP_V4, HTTP)], SYN, numbers),
            1 => segment(&site.neighbour, [source, (VIP_V4, HTTP)], ACK, numbers),
            _ => datagram(&site.neighbour, [source, (VIP_V4, ECHO)], Vec::new()),
        };
        packet.payload = vec![b'x'; 100];
        packet.id = turn.random.random();
        let frames = packet.fragments(48);
        let missing = turn.random.random_range(0..frames.len());
        for (index, frame) in frames.iter().enumerate() {
            if index != missing {
                turn.send(&site.neighbour, frame)?;
            }
        }
    }
    Ok(())
}

/// Sends Initials with random connection ids, to the service and to a beacon.
pub(super) fn initials(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    while !turn.is_over() {
        for service in [(VIP_V4, QUIC), site.beacon(0)] {
            let (source, payload) = (turn.spoofed(), initial(turn));
            let packet = datagram(&site.neighbour, [source, service], payload);
            turn.send(&site.neighbour, &packet.bytes())?;
        }
    }
    Ok(())
}

/// Returns a datagram that looks like a client's Initial to anyone without keys.
fn initial(turn: &mut AttackRun<'_>) -> Vec<u8> {
    let mut payload = vec![0xc3, 0, 0, 0, 1, 8];
    payload.extend(turn.random.random::<[u8; 8]>());
    payload.extend([0, 0]);
    // Length of the rest, in two bytes.
    let rest = INITIAL - payload.len() - 2;
    payload.extend((0x4000 | rest as u16).to_be_bytes());
    payload.extend((0..rest).map(|_| turn.random.random::<u8>()));
    payload
}

/// Sends datagrams that are not QUIC to a beacon, with spoofed sources including the node, and to
/// the node's probes with the beacon as source.
pub(super) fn garbage(turn: &mut AttackRun<'_>) -> Result<()> {
    let site = turn.site;
    let beacon = site.beacon(0);
    while !turn.is_over() {
        let mut ends: Vec<_> = (0..20)
            .map(|_| (&site.neighbour, [turn.spoofed(), beacon]))
            .collect();
        for port in site.probe_ports()? {
            let node: End = (std::net::Ipv4Addr::new(10, 77, 1, 1), port);
            ends.push((&site.insider, [node, beacon]));
            ends.push((&site.insider, [beacon, node]));
            ends.push((&site.outsider, [beacon, node]));
        }
        for (from, ends) in ends {
            let length = turn.random.random_range(1..1300);
            let mut payload: Vec<u8> = (0..length).map(|_| turn.random.random()).collect();
            // As many short headers as long ones.
            payload[0] |= 0x40;
            turn.send(from, &datagram(from, ends, payload).bytes())?;
        }
    }
    Ok(())
}
