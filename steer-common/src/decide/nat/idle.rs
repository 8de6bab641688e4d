//! Flows with rewritten addresses that were idle for too long. Their entries stay for a while, so
//! that whoever continues the flow gets a reset: the client first, then the backend.

use crate::{
    abi::{Config, FlowKey, NatTimeouts, age, checksum_purpose, nat_state},
    tables::Tables,
    wire::{Packet, RST},
};

/// Returns the idle ticks from which a check for the timeout is worthwhile. A reset ends the flow
/// by itself.
#[inline(always)]
pub(crate) const fn check_after(packet: &Packet, config: &Config) -> u32 {
    let asks = packet.is_tcp() & (packet.tcp_flags & RST == 0) & (config.nat_idle_min_ticks != 0);
    if asks {
        config.nat_idle_min_ticks
    } else {
        u32::MAX
    }
}

/// Returns the timeouts of a member's flows: those of its service.
#[inline(always)]
fn timeouts<T: Tables>(tables: &T, config: &Config, member: u16) -> NatTimeouts {
    let service = tables.member(member).map(|member| member.service);
    let own =
        service.and_then(|service| tables.with_admission(service, |policy| policy.nat_idle_ticks));
    config.nat_timeouts.with_idle(own.unwrap_or(0))
}

/// Returns whether a client continues a flow to a member after it was idle for too long, given the
/// idle ticks of the client's side. Such a flow is over from then on, and its backend gets a reset
/// when it continues.
#[inline(always)]
pub(crate) fn client_flow_expired<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    (member, idle): (u16, u32),
    reverse_key: &FlowKey,
) -> bool {
    let longest = timeouts(tables, config, member).idle_ticks;
    if idle <= longest {
        return false;
    }
    let now = tables.now_ticks();
    let talks = tables.with_reverse(reverse_key, |reverse| {
        let talks = age(now, reverse.last_ticks) <= longest;
        if !talks {
            reverse.peer_state |= nat_state::RESET;
        }
        talks
    });
    if talks == Some(true) {
        return false;
    }
    tables.with_forward(&packet.key, |forward| forward.state |= nat_state::RESET);
    true
}

/// Result for a flow that is alive: nobody gets a reset.
pub(crate) const NOT_EXPIRED: u16 = u16::MAX;

/// Returns which end gets a reset because a flow to a member was idle for too long: a
/// [`checksum_purpose`], or [`NOT_EXPIRED`]. `idle` are the idle ticks of the backend's side, `state` is
/// that of both ends.
#[inline(always)]
pub(crate) fn backend_flow_expired<T: Tables>(
    tables: &T,
    config: &Config,
    (member, idle): (u16, u32),
    state: u8,
    forward_key: &FlowKey,
) -> u16 {
    let longest = timeouts(tables, config, member).idle_ticks;
    if idle <= longest {
        return NOT_EXPIRED;
    }
    let now = tables.now_ticks();
    let talks = tables.with_forward(forward_key, |forward| {
        age(now, forward.last_ticks) <= longest
    });
    if talks == Some(true) {
        return NOT_EXPIRED;
    }
    if state & nat_state::RESET != 0 {
        // The client was reset before.
        return checksum_purpose::RESET_SENDER;
    }
    checksum_purpose::RESET_CLIENT
}
