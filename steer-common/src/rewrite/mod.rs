//! Rewriting of packets.

mod answer;
mod encap;
mod icmp_error;
mod link;
mod nat;
mod quote;
mod reset;

pub(crate) use encap::{encap, overhead};
pub(crate) use icmp_error::{time_exceeded, too_big};
pub(crate) use nat::{forward, reply};
pub(crate) use reset::{reset, reset_client};

use crate::{
    abi::{Member, Mode, member_flags},
    frame::{Frame, Plain},
    tables::{NextHop, Tables},
    verdict::DropReason,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
};
use link::{Link, relink, write_macs};

/// Drop reason for a packet that could not be read or written where its parts were found before.
const INTERNAL: DropReason = DropReason::Internal;

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
    encap::lower_ttl(frame, packet)?;
    relink(
        frame,
        packet.network,
        0,
        &Link::to_hop(hop),
        ethertype(packet),
    )
    .map(drop)
}

#[inline(always)]
fn store<F: Frame, T: Plain>(frame: &mut F, at: usize, value: T) -> Result<(), DropReason> {
    frame.store(at, value).ok_or(INTERNAL)
}

#[inline(always)]
const fn ethertype(packet: &Packet) -> u16 {
    if packet.is_v6() {
        ETHERTYPE_IPV6
    } else {
        ETHERTYPE_IPV4
    }
}
