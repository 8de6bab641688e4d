//! The ways of packets that are rare: fragments, ICMP errors, those that are too big for the way to
//! their member, and the first ones of flows with rewritten addresses. They are programs of their own, so that the one for all others stays small.

use crate::{
    abi::{
        FOLLOW, FragmentFate, MAIN, MARTIAN, OPEN, QUOTE, RARE, TIME_EXCEEDED, TOO_BIG, TRANSLATE,
    },
    decide::{decide, is_address},
    fragment,
    frame::Frame,
    icmp,
    integrity::header_is_intact,
    martian::is_martian,
    nat,
    process::{Outcome, act, act_noted, kept},
    quic::Nowhere,
    rewrite,
    tables::Tables,
    verdict::DropReason,
    wire::{self, Packet, Part},
};

/// Does all there is to do with a packet that [`steer`](crate::steer) could not parse: a first
/// fragment. A later fragment is left to [`follow`], what may be an ICMP error to [`quote`].
#[inline(always)]
pub fn rare<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.hidden(frame);
    if !network.is_fragment {
        return Outcome::hand_over(QUOTE, 0);
    }
    if network.offset != 0 {
        return Outcome::hand_over(FOLLOW, 0);
    }
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    if is_martian(&packet.key) {
        return Outcome::hand_over(MARTIAN, 0);
    }
    let packet = kept(
        Packet {
            part: Part::First,
            ..packet
        },
        tables,
    );
    let verdict = decide(&packet, tables, &Nowhere);
    let outcome = act_noted(frame, &packet, tables, verdict, None, |fate, member| {
        fragment::note(&packet, tables, fate, member)
    });
    if outcome.is_pass() && is_address(tables, packet.key.destination, packet.key.family) {
        // The rest would be taken for parts of something else. What is not steered is not lost for want of
        // a note.
        fragment::note(&packet, tables, FragmentFate::Passed, 0);
    }
    settle(outcome)
}

/// Sends an ICMP error where the flow goes that it is about.
#[inline(always)]
pub fn quote<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.hidden(frame);
    tables.see(&network.flow());
    let Some(packet) = icmp::quote(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    let packet = kept(packet, tables);
    let verdict = decide(&packet, tables, &Nowhere);
    settle(act(frame, &packet, tables, verdict, None))
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
    if !tables.may_answer() {
        return Outcome::drop(DropReason::TooBig);
    }
    let packet = tables.kept_packet();
    if !header_is_intact(frame, &packet) {
        return Outcome::drop(DropReason::BadChecksum);
    }
    let done = rewrite::too_big(frame, &packet, u32::from(mtu));
    if done.is_ok() {
        tables.count_drop(DropReason::TooBig);
    }
    Outcome::of(done, interface)
}

/// A member's number and how often this was tried share the argument.
const MEMBERS: u16 = crate::abi::MEMBERS as u16;
const _: () = assert!(MEMBERS as u32 * nat::ROUNDS as u32 <= 1 << 16);

/// Puts a flow with rewritten addresses to a member into the nat table, and lets the packet begin
/// anew: it is known now. `argument` is the member; the rounds after the first are this function's own business.
#[inline(always)]
pub fn open<F: Frame, T: Tables>(frame: &F, tables: &T, argument: u16) -> Outcome {
    let (member, round) = (argument % MEMBERS, argument / MEMBERS);
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.kept_packet();
    let numbers = if packet.is_tcp() {
        packet.numbers(frame).unwrap_or_default()
    } else {
        [0; 2]
    };
    match nat::open(&packet, tables, config, (member, round), numbers) {
        Err(DropReason::NatPortsExhausted) if round + 1 < nat::ROUNDS => {
            Outcome::hand_over(OPEN, argument + MEMBERS)
        }
        // Only flows of QUIC have a member in their key.
        Ok(()) if packet.key.member != 0 => Outcome::hand_over(TRANSLATE, member),
        Ok(()) if packet.part as u8 == Part::First as u8 => Outcome::hand_over(RARE, 0),
        Ok(()) => Outcome::hand_over(MAIN, 0),
        Err(reason) => Outcome::drop(reason),
    }
}

/// Neither fragments nor ICMP errors are answered with ICMP errors.
#[inline(always)]
pub(crate) const fn settle(outcome: Outcome) -> Outcome {
    if outcome.is_handed_over() && outcome.program() == TOO_BIG {
        return Outcome::drop(DropReason::TooBig);
    }
    if outcome.is_handed_over() && outcome.program() == TIME_EXCEEDED {
        return Outcome::drop(DropReason::TtlExpired);
    }
    outcome
}
