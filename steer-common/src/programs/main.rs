//! The entry program: IPv4 packets with the usual headers. All others are left to programs of their own, so
//! that all offsets are constants here.

use super::inline::Inline;
use crate::{
    abi::{GENERAL, MARTIAN, V6, first_mac, node_mac_index},
    decide::decide_for,
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply_and_store},
    wire::{is_martian, is_v6, parse_v4},
};

/// Steers an IPv4 packet with the usual headers. Packets with more headers are left to
/// [`general`](super::general()), IPv6 to [`v6`](super::v6()). Frames for other hosts are passed.
#[inline(always)]
pub fn main<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    if !is_for_node(frame, tables) {
        return Outcome::PASSED;
    }
    if is_v6(frame) {
        return Outcome::tail_call(V6, 0);
    }
    v4(frame, interface, tables)
}

/// Steers a packet like [`main`], if it is known not to be IPv6 and to be for this node.
#[inline(always)]
pub fn v4<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse_v4(frame, interface) else {
        return Outcome::tail_call(GENERAL, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let mut member = None;
    let verdict = decide_for(&packet, tables, &Inline(&*frame), &mut member);
    apply_and_store(frame, &packet, tables, verdict, member)
}

/// Returns whether a frame is for one of the node's MAC addresses. Before the daemon has set these,
/// every frame is.
#[inline(always)]
pub fn is_for_node<F: Frame, T: Tables>(frame: &F, tables: &T) -> bool {
    let seed = tables.config().map_or(0, |config| config.mac_seed);
    if seed == 0 {
        return true;
    }
    let Some(word) = frame.load(0) else {
        return true;
    };
    let mac = first_mac(word);
    tables.node_mac(node_mac_index(mac, seed)) == Some(mac)
}
