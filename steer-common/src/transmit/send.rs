//! Sending of packets: to members with unchanged or with rewritten addresses, and to clients.

use super::outcome::Outcome;
use crate::{
    abi::{ClientNextHop, Member, Mode, TOO_BIG},
    frame::Frame,
    rewrite,
    tables::{NextHop, Tables},
    verdict::{DropReason, Endpoints, Target},
    wire::{Packet, PacketKind},
};

/// Sends a packet to a member with unchanged addresses.
#[inline(always)]
pub(crate) fn deliver<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    target: Target,
    member: &Member,
) -> Outcome {
    if packet.ttl <= 1 {
        return Outcome::TTL_EXPIRED;
    }
    let Some(hop) = rewrite::next_hop(packet, tables, member) else {
        return Outcome::drop(DropReason::NoRoute);
    };
    let overhead = rewrite::overhead(member);
    if is_too_big(packet, &hop, overhead) {
        let mtu = hop.mtu.saturating_sub(overhead as u16);
        return Outcome::tail_call(TOO_BIG, mtu);
    }
    let done = if member.mode == Mode::L2 as u8 {
        rewrite::l2(frame, packet, &hop)
    } else {
        rewrite::encap(frame, packet, tables, member, &hop, overhead)
    };
    count(packet, tables, target.id, target.begins, done);
    Outcome::from_rewrite(done, hop.interface)
}

/// Sends a packet to a member with rewritten addresses.
#[inline(always)]
pub(crate) fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    target: Target,
    ends: &Endpoints,
) -> Outcome {
    if packet.ttl <= 1 {
        return Outcome::TTL_EXPIRED;
    }
    let Some(member) = tables.member(target.id) else {
        return Outcome::drop(DropReason::Internal);
    };
    let Some(hop) = rewrite::next_hop(packet, tables, member) else {
        return Outcome::drop(DropReason::NoRoute);
    };
    if is_too_big(packet, &hop, 0) {
        return Outcome::tail_call(TOO_BIG, hop.mtu);
    }
    let done = rewrite::forward(frame, packet, ends, &hop);
    count(packet, tables, target.id, target.begins, done);
    Outcome::from_rewrite(done, hop.interface)
}

/// Sends a packet from a member to its client.
#[inline(always)]
pub(crate) fn reply<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    member: u16,
    ends: &Endpoints,
    back: &ClientNextHop,
) -> Outcome {
    if packet.ttl <= 1 {
        return Outcome::TTL_EXPIRED;
    }
    let done = rewrite::reply(frame, packet, ends, back);
    if done.is_ok() && packet.kind as u8 != PacketKind::IcmpError as u8 {
        tables.count_reply(member, u64::from(packet.payload()));
    }
    Outcome::from_rewrite(done, back.interface)
}

/// Returns whether an encapsulated packet exceeds the MTU of the path to its member.
#[inline(always)]
fn is_too_big(packet: &Packet, hop: &NextHop, overhead: u32) -> bool {
    hop.mtu != 0 && packet.ip_len + overhead > u32::from(hop.mtu)
}

#[inline(always)]
fn count<T: Tables>(
    packet: &Packet,
    tables: &T,
    id: u16,
    begins: u8,
    done: Result<(), DropReason>,
) {
    if done.is_ok() {
        tables.count_member(id, packet.frame_len as u64, begins);
    }
}
