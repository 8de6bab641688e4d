//! Ports of ours that stand for flows.

use super::{MAX_PORT_ROUNDS, reverse_key};
use crate::{
    abi::{Config, FlowKey, MAX_NAT_ADDRESSES, NatReverse, NatTimeouts, age, nat_state},
    hash,
    tables::{InsertResult, Tables},
    verdict::Endpoints,
    wire::Packet,
};

/// Number of ports tried for a new flow per round; the verifier follows them one by one.
const PORTS_PER_ROUND: u32 = 16;
/// Factor that makes the hash of each round different.
const ROUND_SEED: u64 = 0x5851_f42d_4c95_7f2d;
/// Idle ticks after which an unassured flow loses its port if ports are short.
const MIN_UNASSURED_TICKS: u32 = 1000;

/// Idle ticks plus 1 after which a new flow may take the port of an existing one. In the first
/// rounds these are the timeouts. If that is not enough, ports are short: then flows closed for
/// half of their timeout lose their ports too, and so do unassured ones; in the last round at any
/// age. A flood of SYNs or datagrams therefore holds no port for long, and a port rests after its
/// connection, for the backend's TIME_WAIT, as long as there are others.
#[derive(Clone, Copy)]
struct Reclaimable {
    assured: u32,
    unassured: u32,
    closed: u32,
}

impl Reclaimable {
    #[inline(always)]
    const fn in_round(timeouts: &NatTimeouts, is_tcp: bool, round: u16) -> Self {
        let (longest, opening) = if is_tcp {
            (timeouts.idle_ticks, timeouts.unassured_ticks)
        } else {
            (timeouts.udp_idle_ticks, timeouts.udp_unassured_ticks)
        };
        let assured = longest.saturating_add(1);
        let (unassured, closed) = if round + 2 < MAX_PORT_ROUNDS {
            (
                opening.saturating_add(1),
                timeouts.closed_ticks.saturating_add(1),
            )
        } else if round + 1 < MAX_PORT_ROUNDS {
            (MIN_UNASSURED_TICKS + 1, timeouts.closed_ticks / 2 + 1)
        } else {
            (0, 0)
        };
        Self {
            assured,
            unassured,
            closed,
        }
    }

    /// Returns the same, with all paths that led to it merged.
    #[inline(always)]
    fn merged<T: Tables>(self, tables: &T) -> Self {
        let launder = |limit| tables.launder(u64::from(limit)) as u32;
        Self {
            assured: launder(self.assured),
            unassured: launder(self.unassured),
            closed: launder(self.closed),
        }
    }

    /// Returns whether a flow in this state may lose its port. Computed by sums, because the
    /// verifier would follow branches sixteen times.
    #[inline(always)]
    const fn may_take(&self, state: u8, idle: u32) -> bool {
        let is_assured = state as u64 >> nat_state::ASSURED.trailing_zeros() & 1;
        let is_over = nat_state::over(state) as u64;
        let assured = is_over * self.closed as u64 + (is_over ^ 1) * self.assured as u64;
        let least = is_assured * assured + (is_assured ^ 1) * self.unassured as u64;
        idle as u64 >= least
    }
}

/// Claims a port: a free one, or one whose flow may be reclaimed in this round. Makes it the source
/// of `ends`; returns `Taken` if all tried ones are taken.
#[inline(always)]
pub(super) fn claim_port<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    round: u16,
    ends: &mut Endpoints,
    reverse: &NatReverse,
) -> InsertResult {
    let (count, first_source) = if packet.is_v6() {
        (config.nat_v6, MAX_NAT_ADDRESSES)
    } else {
        (config.nat_v4, 0)
    };
    let seed = ROUND_SEED.wrapping_mul(2 * round as u64 + 1);
    let mut random = hash::flow(&packet.key, config.nat_port_seed ^ seed);
    let limits = Reclaimable::in_round(&config.nat_timeouts, packet.is_tcp(), round).merged(tables);
    let first_source = tables.launder(u64::from(first_source)) as u32;
    for _ in 0..PORTS_PER_ROUND {
        let source = first_source + hash::reduce(random << 16, u32::from(count));
        let Some(source) = tables.nat_source(source) else {
            return InsertResult::Exists;
        };
        ends.source = source;
        let offset = hash::reduce(random, u32::from(config.nat_port_count));
        ends.source_port = config.nat_port_first.wrapping_add(offset as u16);
        let key = reverse_key(packet, ends);
        let mut added = tables.add_reverse(&key, reverse);
        if added as u8 == InsertResult::Exists as u8
            && reclaim_port(tables, &key, (reverse.last_ticks, limits))
        {
            added = tables.add_reverse(&key, reverse);
        }
        if added as u8 != InsertResult::Exists as u8 {
            return added;
        }
        random = random
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x1234_5678_9abc_def1);
    }
    InsertResult::Exists
}

/// Removes the flow of a port, if it may be reclaimed.
#[inline(always)]
fn reclaim_port<T: Tables>(tables: &T, key: &FlowKey, (now, limits): (u32, Reclaimable)) -> bool {
    let gone = |state: u8, last_ticks: u32| limits.may_take(state, age(now, last_ticks));
    let mut owner = FlowKey::default();
    let found = tables.with_reverse(key, |entry| {
        owner = entry.forward_key(key);
        gone(entry.state | entry.peer_state, entry.last_ticks)
    });
    if found != Some(true) {
        return false;
    }
    // The client may still be active, which only its own entry shows.
    let found = tables.with_forward(&owner, |entry| {
        if entry.reverse_key(&owner) != *key {
            PortOwner::Elsewhere
        } else if gone(entry.state | entry.peer_state, entry.last_ticks) {
            PortOwner::Gone
        } else {
            PortOwner::Talks
        }
    });
    match found {
        Some(PortOwner::Talks) => return false,
        Some(PortOwner::Gone) => {
            // If it still counts as in flight, garbage collection corrects that: looking up its
            // member sixteen times would be too much for the verifier here.
            tables.remove_forward(&owner);
        }
        Some(PortOwner::Elsewhere) | None => {}
    }
    tables.remove_reverse(key);
    true
}

/// State of a port's previous flow, by its client's entry.
#[derive(Clone, Copy)]
enum PortOwner {
    /// The flow has another port by now.
    Elsewhere,
    /// The flow may be removed.
    Gone,
    Talks,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_reclaimed_in_later_rounds_from_flows_that_hardly_need_them() {
        const OPEN: u8 = nat_state::ANSWERED | nat_state::ASSURED;
        const OVER: u8 = OPEN | nat_state::CLIENT_DONE | nat_state::BACKEND_DONE;
        let timeouts = NatTimeouts {
            idle_ticks: 300_000,
            udp_idle_ticks: 200_000,
            unassured_ticks: 30_000,
            udp_unassured_ticks: 10_000,
            closed_ticks: 60_000,
        };
        for (is_tcp, state, idle, first_round) in [
            (true, OPEN, 299_000, None),
            (true, OPEN, 301_000, Some(0)),
            (true, OPEN | nat_state::CLIENT_DONE, 299_000, None),
            (false, OPEN, 199_000, None),
            (false, OPEN, 201_000, Some(0)),
            (true, OVER, 61_000, Some(0)),
            (true, OVER, 31_000, Some(2)),
            (true, OVER, 29_000, Some(3)),
            (true, OPEN | nat_state::RESET, 0, Some(3)),
            (true, nat_state::ANSWERED, 31_000, Some(0)),
            (true, nat_state::ANSWERED, 1_500, Some(2)),
            (true, 0, 500, Some(3)),
            (false, 0, 11_000, Some(0)),
            (false, nat_state::ANSWERED, 9_000, Some(2)),
            (false, 0, 500, Some(3)),
        ] {
            let found = (0..MAX_PORT_ROUNDS).find(|round| {
                Reclaimable::in_round(&timeouts, is_tcp, *round).may_take(state, idle)
            });
            assert_eq!(found, first_round, "{is_tcp} {state:#x} {idle}");
        }
    }
}
