//! Paths of rare packets: fragments, ICMP errors, packets too big for the path to their member, and
//! the first ones of flows with rewritten addresses. They are programs of their own, so that the
//! one for all others stays small.

use crate::{
    abi::{
        FIRST_FRAGMENT, FragmentFate, ICMP_ERROR, LATER_FRAGMENT, MAIN, MARTIAN, NAT_CREATE,
        NAT_QUIC, TIME_EXCEEDED, TOO_BIG,
    },
    decide::{decide, is_address},
    fragment,
    frame::Frame,
    icmp,
    integrity::header_is_intact,
    martian::is_martian,
    nat,
    process::{Outcome, apply, apply_recorded, kept},
    quic::Opaque,
    rewrite,
    tables::Tables,
    verdict::DropReason,
    wire::{self, Packet, PacketKind},
};

/// Processes a packet that [`steer`](crate::steer) could not parse: a first fragment. A later
/// fragment is left to [`later_fragment`], a possible ICMP error to [`icmp_error`].
#[inline(always)]
pub fn first_fragment<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    if !network.is_fragment {
        return Outcome::tail_call(ICMP_ERROR, 0);
    }
    if network.offset != 0 {
        return Outcome::tail_call(LATER_FRAGMENT, 0);
    }
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let packet = kept(
        Packet {
            kind: PacketKind::FirstFragment,
            ..packet
        },
        tables,
    );
    let verdict = decide(&packet, tables, &Opaque);
    let outcome = apply_recorded(frame, &packet, tables, verdict, None, |fate, member| {
        fragment::record(&packet, tables, fate, member)
    });
    if outcome.is_pass() && is_address(tables, packet.key.destination, packet.key.family) {
        // The rest would be taken for parts of something else. A packet that is not steered is not
        // lost for want of an entry.
        fragment::record(&packet, tables, FragmentFate::Passed, 0);
    }
    without_icmp_answer(outcome)
}

/// Sends an ICMP error where its flow goes.
#[inline(always)]
pub fn icmp_error<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    tables.trace_flow(&network.flow());
    let Some(packet) = icmp::parse_error(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    let packet = kept(packet, tables);
    let verdict = decide(&packet, tables, &Opaque);
    without_icmp_answer(apply(frame, &packet, tables, verdict, None))
}

/// Sends a later fragment where the first one went.
#[inline(always)]
pub fn later_fragment<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    without_icmp_answer(fragment::follow(frame, interface, &network, tables))
}

/// Informs the sender of a packet that the path to its member has an MTU of `mtu` bytes (RFC 1191,
/// RFC 8201).
#[inline(always)]
pub fn too_big<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    mtu: u16,
) -> Outcome {
    if !tables.may_send_icmp() {
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
    Outcome::from_rewrite(done, interface)
}

/// A member's number and the number of rounds share the argument.
const MEMBERS: u16 = crate::abi::MAX_MEMBERS as u16;
const _: () = assert!(MEMBERS as u32 * nat::MAX_PORT_ROUNDS as u32 <= 1 << 16);

/// Creates the nat entries of a flow to a member, and lets the packet start again, now that it is
/// known. `argument` is the member; the rounds after the first are internal to this function.
#[inline(always)]
pub fn nat_create<F: Frame, T: Tables>(frame: &F, tables: &T, argument: u16) -> Outcome {
    let (member, round) = (argument % MEMBERS, argument / MEMBERS);
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.kept_packet();
    let numbers = if packet.is_tcp() {
        packet.tcp_numbers(frame).unwrap_or_default()
    } else {
        [0; 2]
    };
    match nat::create(&packet, tables, config, (member, round), numbers) {
        Err(DropReason::NatPortsExhausted) if round + 1 < nat::MAX_PORT_ROUNDS => {
            Outcome::tail_call(NAT_CREATE, argument + MEMBERS)
        }
        // Only flows of QUIC have a member in their key.
        Ok(()) if packet.key.member != 0 => Outcome::tail_call(NAT_QUIC, member),
        Ok(()) if packet.kind as u8 == PacketKind::FirstFragment as u8 => {
            Outcome::tail_call(FIRST_FRAGMENT, 0)
        }
        Ok(()) => Outcome::tail_call(MAIN, 0),
        Err(reason) => Outcome::drop(reason),
    }
}

/// Neither fragments nor ICMP errors are answered with ICMP errors.
#[inline(always)]
pub(crate) const fn without_icmp_answer(outcome: Outcome) -> Outcome {
    if outcome.is_tail_call() && outcome.program() == TOO_BIG {
        return Outcome::drop(DropReason::TooBig);
    }
    if outcome.is_tail_call() && outcome.program() == TIME_EXCEEDED {
        return Outcome::drop(DropReason::TtlExpired);
    }
    outcome
}
