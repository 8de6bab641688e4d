//! Rewriting of packets.

mod encap;
mod nat;
mod reset;

pub(crate) use encap::encap;
pub(crate) use nat::{back, forward};
pub(crate) use reset::reset;

use crate::{
    abi::{Macs, Member, member_flags},
    frame::Frame,
    tables::{NextHop, Tables},
    verdict::DropReason,
    wire::Packet,
};

/// A packet could not be read or written where its parts were found before.
const INTERNAL: DropReason = DropReason::Internal;

/// Where a packet for a member leaves.
#[inline(always)]
pub(crate) fn next_hop<T: Tables>(packet: &Packet, tables: &T, member: &Member) -> Option<NextHop> {
    if member.flags & member_flags::RESOLVED == 0 {
        return tables.route(packet, member);
    }
    Some(NextHop {
        macs: member.macs,
        interface: member.interface,
    })
}

#[inline(always)]
fn write_macs<F: Frame>(frame: &mut F, macs: Macs) -> Result<(), DropReason> {
    let (first, second) = macs.words();
    frame
        .store(0, first)
        .and_then(|()| frame.store(8, second))
        .ok_or(INTERNAL)
}
