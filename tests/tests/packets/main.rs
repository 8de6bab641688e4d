//! Packets through the program and through the host's build of the same code, every byte compared;
//! this needs root.
//!
//! Where to look for a case: `parse` for headers and lengths, `encap`, `modes` and `decap` for what is around a
//! packet, `segments` for what anybody can send into a connection, `routers` for ways back to clients, `nat`, `lifetime`, `ports`, `sweep` and `passive` for rewritten addresses, `icmp` and
//! `fragments` for those, `flows` for slots, members' states and resets, `memory` for what floods and changes leave
//! alone, `quic`, `quic_handshakes` and `quic_ids` for QUIC, `admission` and `classes` for who may come and where to, `agree` for all of it at random.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod admission;
mod agree;
mod classes;
mod decap;
mod encap;
mod fixture;
mod flows;
mod fragments;
mod icmp;
mod in_flight;
mod lifetime;
mod limits;
mod memory;
mod modes;
mod nat;
mod parse;
mod passive;
mod pool;
mod ports;
mod quic;
mod quic_handshakes;
mod quic_ids;
mod routers;
mod segments;
mod strangers;
mod sweep;
mod ttl;
