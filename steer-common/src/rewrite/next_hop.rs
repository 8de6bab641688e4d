//! Next hops of members, and the mode in which nothing else changes.

use super::{
    encap::lower_ttl,
    link::{Link, relink},
    write::ethertype,
};
use crate::{
    abi::{Member, Mode, member_flags},
    frame::Frame,
    tables::{NextHop, Tables},
    verdict::DropReason,
    wire::Packet,
};

/// Returns the next hop of a packet to a member.
#[inline(always)]
pub(crate) fn next_hop<T: Tables>(packet: &Packet, tables: &T, member: &Member) -> Option<NextHop> {
    if member.flags & member_flags::RESOLVED == 0 {
        if member.mode == Mode::L2 as u8 {
            // The kernel may know a gateway, which is not the backend.
            return None;
        }
        return tables.fib_lookup(packet, member);
    }
    Some(NextHop {
        macs: member.macs,
        interface: member.interface,
        vlan: member.vlan,
        mtu: member.mtu,
        #[cfg(feature = "host")]
        reply_interfaces: member.reply_interfaces,
    })
}

/// Sends a packet to a member on the same link, with a decremented TTL, which ends a loop of nodes.
#[inline(always)]
pub(crate) fn l2<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    hop: &NextHop,
) -> Result<(), DropReason> {
    lower_ttl(frame, packet)?;
    relink(
        frame,
        packet.network,
        0,
        &Link::to_hop(hop),
        ethertype(packet),
    )
    .map(drop)
}
