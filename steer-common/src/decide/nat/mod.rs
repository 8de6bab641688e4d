//! Flows with rewritten addresses.
//!
//! The kernel evicts no entry of the nat table: both entries of a flow are removed together, by the
//! daemon's garbage collection, by a new flow that needs the port ([`ports`]), or by newer flows
//! while the flow is unassured ([`create`](mod@create)). So a port never belongs to two flows, and a flood of
//! SYNs evicts only others of its kind.
//!
//! The state of a TCP flow follows acceptable segments only ([`segment`]). The program for most
//! packets handles those whose numbers are near the last ones; it tail-calls a program of its own
//! ([`nat_tcp`](crate::programs::nat_tcp())) for all others, and for those with SYN, FIN or RST. That program
//! also verifies checksums and looks at the entry of the other direction.

pub(crate) mod client_hop;
mod create;
pub(crate) mod idle;
mod latency;
mod lookup;
mod ports;
mod reply;
mod segment;

pub(crate) use create::create;
pub(crate) use lookup::{Lookup, lookup};
pub(crate) use reply::reply;
pub(crate) use segment::proves_sender;

use crate::{
    abi::{Config, FlowKey, NatForward, NatReverse, nat_state},
    verdict::Endpoints,
    wire::{FIN, Packet, PacketKind, RST},
};

/// Number of rounds in which ports are tried before a new flow is refused: with nine in ten of a
/// backend's ports taken, one flow in eight hundred finds none.
pub(crate) const MAX_PORT_ROUNDS: u16 = 4;

/// Minimum size of a request, above other messages of HTTP/2 and TLS, and keep-alives.
const MIN_REQUEST_BYTES: u32 = 96;
/// Minimum size of a part of an answer, above an alert of TLS, the end of a chunked body, and "100
/// Continue".
const MIN_ANSWER_BYTES: u32 = 32;

/// Returns whether packets like this one are measured. Fragments are not.
#[inline(always)]
const fn is_measured(packet: &Packet, config: &Config) -> bool {
    config.burst_gap_us != 0 && packet.is_tcp() && packet.kind as u8 == PacketKind::Whole as u8
}

/// Returns the change of flows in flight between two states.
#[inline(always)]
const fn in_flight_change(before: u8, now: u8) -> i64 {
    nat_state::over(before) as i64 - nat_state::over(now) as i64
}

/// Returns the translation of a client's packet.
#[inline(always)]
pub(crate) const fn to_member(entry: &NatForward) -> Endpoints {
    Endpoints {
        source: entry.source,
        destination: entry.backend,
        source_port: entry.source_port,
        destination_port: entry.backend_port,
    }
}

/// Returns the translation of a backend's packet.
#[inline(always)]
pub(crate) const fn to_client(entry: &NatReverse) -> Endpoints {
    Endpoints {
        source: entry.vip,
        destination: entry.client,
        source_port: entry.vip_port,
        destination_port: entry.client_port,
    }
}

/// Returns the key of the backend's packets.
#[inline(always)]
fn reverse_key(packet: &Packet, ends: &Endpoints) -> FlowKey {
    ends.reverse_key(&packet.key, 0)
}

/// Returns the state bits of [`nat_state`] that an acceptable packet sets; `done` is the bit of its
/// sender.
#[inline(always)]
const fn state_bits(packet: &Packet, done: u8) -> u8 {
    // Products instead of branches.
    let reset = packet.tcp_flags >> RST.trailing_zeros() & 1;
    let fin = packet.tcp_flags >> FIN.trailing_zeros() & 1;
    (reset * nat_state::RESET) | (fin * done)
}
