//! Code shared by the XDP programs and the daemon: the map ABI, the packet parser, the steering
//! decision and the rewriting of packets. Compiled for BPF and for the host; does no I/O.
//!
//! [`process`] is the complete data path. It accesses packets through [`frame::Frame`] and maps
//! through [`tables::Tables`], so that the same code runs in the kernel, in `steer explain` and in
//! tests. Everything on that path is `#[inline(always)]`: the kernel runs it as one function.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
mod admission;
pub mod aes;
mod answer;
pub mod checksum;
mod choose;
pub mod cid;
mod class;
pub mod decap;
pub mod decide;
mod flight;
mod fragment;
pub mod frame;
mod gate;
pub mod hash;
mod icmp;
mod integrity;
mod martian;
mod nat;
mod nat_check;
mod nat_idle;
mod nat_way;
mod own;
mod process;
pub mod quic;
mod rare;
mod rewrite;
mod segment;
pub mod tables;
mod time_exceeded;
pub mod verdict;
pub mod wire;

pub use answer::answer_reset;
pub use gate::hold;
pub use martian::martian;
pub use nat_check::nat_revalidate;
pub use own::is_for_node;
pub use process::{Action, Outcome, general, process, steer, steer_v4, steer_v6};
pub use quic::{decrypt, nat_quic, quic};
pub use rare::{first_fragment, icmp_error, later_fragment, nat_create, too_big};
pub use segment::{nat_retry, nat_tcp, verify_checksum};
pub use time_exceeded::time_exceeded;
