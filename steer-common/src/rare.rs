//! The ways of packets that are rare: fragments, ICMP errors, those that are too big for the way to
//! their member, and the first ones of flows with rewritten addresses. They are programs of their own, so that the one for all others stays small.

use crate::{
    abi::{FOLLOW, MAIN, RARE, TOO_BIG},
    decide::decide,
    fragment,
    frame::Frame,
    icmp, nat,
    process::{Outcome, act},
    rewrite,
    tables::Tables,
    verdict::DropReason,
    wire::{self, Network, Packet, Part},
};

/// Does all there is to do with a packet that [`steer`](crate::steer) could not parse: a first
/// fragment, or an ICMP error. A later fragment is left to [`follow`].
#[inline(always)]
pub fn rare<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.hidden(frame);
    if network.is_fragment && network.offset != 0 {
        return Outcome::hand_over(FOLLOW, 0);
    }
    let packet = if network.is_fragment {
        let packet = wire::packet(frame, interface, &network);
        packet.map(|packet| Packet {
            part: Part::First,
            ..packet
        })
    } else {
        icmp::quote(frame, interface, &network)
    };
    let Some(packet) = packet else {
        return Outcome::PASSED;
    };
    // One case for the verifier instead of one for each kind.
    let word = frame
        .opaque((packet.quoted as u64) << 16 | (packet.tcp_flags as u64) << 8 | packet.part as u64);
    let packet = Packet {
        quoted: (word >> 16) as usize & 0x7fff,
        tcp_flags: (word >> 8) as u8,
        part: if word & 0xff == Part::First as u64 {
            Part::First
        } else {
            Part::Quote
        },
        ..packet.hidden(frame)
    };
    settle(first(frame, &network, &packet, tables))
}

/// Sends a later fragment where the first one went.
#[inline(always)]
pub fn follow<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.hidden(frame);
    settle(fragment::follow(frame, interface, &network, tables))
}

/// Tells the sender of a packet that the way to its member takes at most `mtu` bytes (RFC 1191,
/// RFC 8201).
#[inline(always)]
pub fn too_big<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    mtu: u16,
) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::drop(DropReason::Internal);
    };
    let network = network.hidden(frame);
    if !tables.may_answer() {
        return Outcome::drop(DropReason::TooBig);
    }
    let Some(packet) = wire::bare(frame, interface, &network, network.protocol, [0, 0]) else {
        return Outcome::drop(DropReason::Internal);
    };
    let done = rewrite::too_big(frame, &packet, u32::from(mtu));
    if done.is_ok() {
        tables.count_drop(DropReason::TooBig);
    }
    Outcome::of(done, interface)
}

/// Puts a flow with rewritten addresses to a member into the nat table, and lets the packet begin
/// anew: it is known now.
#[inline(always)]
pub fn open<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    member: u16,
) -> Outcome {
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let Some(network) = wire::network(frame) else {
        return Outcome::drop(DropReason::Internal);
    };
    let network = network.hidden(frame);
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::drop(DropReason::Internal);
    };
    match nat::open(&packet, tables, config, member) {
        Ok(()) if network.is_fragment => Outcome::hand_over(RARE, 0),
        Ok(()) => Outcome::hand_over(MAIN, 0),
        Err(reason) => Outcome::drop(reason),
    }
}

/// A first fragment, or an ICMP error.
#[inline(always)]
fn first<F: Frame, T: Tables>(
    frame: &mut F,
    network: &Network,
    packet: &Packet,
    tables: &T,
) -> Outcome {
    let is_first = packet.part as u8 == Part::First as u8;
    let verdict = decide(packet, tables);
    act(frame, packet, tables, verdict, |fate, member| {
        !is_first || fragment::note(network, packet, tables, fate, member)
    })
}

/// Neither fragments nor ICMP errors are answered with ICMP errors.
#[inline(always)]
const fn settle(outcome: Outcome) -> Outcome {
    if outcome.is_handed_over() && outcome.program() == TOO_BIG {
        return Outcome::drop(DropReason::TooBig);
    }
    outcome
}
