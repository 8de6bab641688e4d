//! Rewriting of packets.

mod answer;
mod encap;
mod icmp_error;
mod link;
mod nat;
mod next_hop;
mod quote;
mod reset;
mod write;

pub(crate) use encap::{encap, overhead};
pub(crate) use icmp_error::{time_exceeded, too_big};
pub(crate) use nat::{forward, reply};
pub(crate) use next_hop::{l2, next_hop};
pub(crate) use reset::{reset, reset_client};
