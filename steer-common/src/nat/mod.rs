//! Flows with rewritten addresses.
//!
//! The kernel evicts no entry of the nat table: both entries of a flow go together, by the daemon's sweep,
//! by a new flow that wants the port ([`ports`]), or by newer flows while the client has not gone on after an
//! answer ([`create`]). So a port never belongs to two flows, and a flood of SYNs pushes out
//! others of its kind only.
//!
//! The state of a TCP flow follows acceptable segments only ([`window`]). The program for most packets knows those whose
//! numbers are near the last ones; it leaves all others, and those with SYN, FIN or RST, to a program of their own
//! ([`segment`](crate::segment)), which looks at checksums and at the entry of the other direction as well.

mod create;
mod latency;
mod lookup;
mod ports;
mod reply;
mod window;

pub(crate) use create::open;
pub(crate) use lookup::{Known, known};
pub(crate) use reply::reply;
pub(crate) use window::proves_sender;

use crate::{
    abi::{Config, FlowKey, NatForward, NatReverse, nat_state},
    verdict::Ends,
    wire::{FIN, Packet, Part, RST},
};

/// How many times ports are tried for a new flow before it is refused: with nine in ten of a backend's ports taken, one
/// flow in eight hundred finds none.
pub(crate) const ROUNDS: u16 = 4;

/// Less is no request: what HTTP/2 and TLS say besides, and keep-alives.
const REQUEST: u32 = 96;
/// Less is no part of an answer: an alert of TLS, the end of a chunked body, "100 Continue".
const ANSWER: u32 = 32;

/// Whether packets like this one are measured. Fragments are not.
#[inline(always)]
const fn is_measured(packet: &Packet, config: &Config) -> bool {
    config.burst_gap_us != 0 && packet.is_tcp() && packet.part as u8 == Part::Packet as u8
}

/// Flows in flight that a packet makes more, or less, by what was said before and is now.
#[inline(always)]
const fn flights(before: u8, now: u8) -> i64 {
    nat_state::over(before) as i64 - nat_state::over(now) as i64
}

/// What a client's packet becomes.
#[inline(always)]
pub(crate) const fn to_member(entry: &NatForward) -> Ends {
    Ends {
        source: entry.source,
        destination: entry.backend,
        source_port: entry.source_port,
        destination_port: entry.backend_port,
    }
}

/// What a backend's packet becomes.
#[inline(always)]
pub(crate) const fn to_client(entry: &NatReverse) -> Ends {
    Ends {
        source: entry.vip,
        destination: entry.client,
        source_port: entry.vip_port,
        destination_port: entry.client_port,
    }
}

/// The key of the backend's packets.
#[inline(always)]
fn reverse_key(packet: &Packet, ends: &Ends) -> FlowKey {
    ends.reverse_key(&packet.key, 0)
}

/// What a packet that is acceptable says of its flow, in bits of [`nat_state`]; `done` is the bit of its sender.
#[inline(always)]
const fn heard(packet: &Packet, done: u8) -> u8 {
    // Products instead of branches.
    let reset = packet.tcp_flags >> RST.trailing_zeros() & 1;
    let fin = packet.tcp_flags >> FIN.trailing_zeros() & 1;
    reset * nat_state::RESET | fin * done
}
