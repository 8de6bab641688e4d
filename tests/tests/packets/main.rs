//! Packets through the program and through the host's build of the same code, compared byte by
//! byte; needs root.
//!
//! Where to find a case: `parse` for headers and lengths, `encap`, `modes` and `decap` for
//! encapsulation, `segments` for forged segments of a connection, `routers` for return paths to
//! clients, `nat`, `lifetime`, `ports`, `sweep` and `passive` for nat, `icmp` and `fragments` for
//! those, `flows` for slots, members' states and resets, `memory` for the effect of floods and
//! changes, `quic`, `quic_handshakes` and `quic_ids` for QUIC, `admission` and `classes` for access
//! and classes, `agree` for random combinations of everything.

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
