//! Stores into packets whose headers were parsed before.

use crate::{
    frame::{Frame, Plain},
    verdict::DropReason,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet},
};

/// Drop reason for a packet that could not be read or written where its parts were found before.
pub(super) const INTERNAL: DropReason = DropReason::Internal;

#[inline(always)]
pub(super) fn store<F: Frame, T: Plain>(
    frame: &mut F,
    at: usize,
    value: T,
) -> Result<(), DropReason> {
    frame.store(at, value).ok_or(INTERNAL)
}

#[inline(always)]
pub(super) const fn ethertype(packet: &Packet) -> u16 {
    if packet.is_v6() {
        ETHERTYPE_IPV6
    } else {
        ETHERTYPE_IPV4
    }
}
