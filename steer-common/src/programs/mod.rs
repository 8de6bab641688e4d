//! The BPF programs of the data path, one file for each. They are separate, so that the ones that most packets
//! go through stay small.

mod cutover;
mod first_fragment;
mod general;
mod icmp_error;
mod inline;
mod later_fragment;
mod main;
mod martian;
mod nat_create;
mod nat_quic;
mod nat_retry;
mod nat_revalidate;
mod nat_tcp;
mod quic;
mod quic_decrypt;
mod reset;
mod time_exceeded;
mod too_big;
mod v6;
mod verify_checksum;

pub use cutover::cutover;
pub use first_fragment::first_fragment;
pub use general::general;
pub use icmp_error::icmp_error;
pub use later_fragment::later_fragment;
pub use main::{is_for_node, main, v4};
pub use martian::martian;
pub use nat_create::nat_create;
pub use nat_quic::nat_quic;
pub use nat_retry::nat_retry;
pub use nat_revalidate::nat_revalidate;
pub use nat_tcp::nat_tcp;
pub use quic::quic;
pub use quic_decrypt::quic_decrypt;
pub use reset::reset;
pub use time_exceeded::time_exceeded;
pub use too_big::too_big;
pub use v6::v6;
pub use verify_checksum::verify_checksum;
