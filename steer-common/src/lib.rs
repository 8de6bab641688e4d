//! Code shared by the XDP programs and the daemon: the map ABI, the packet parser, the steering
//! decision and the rewriting of packets. Compiled for BPF and for the host; does no I/O.
//!
//! [`process()`] is the complete data path. It accesses packets through [`frame::Frame`] and maps
//! through [`tables::Tables`], so that the same code runs in the kernel, in `steer explain` and in
//! tests. Everything on that path is `#[inline(always)]`: the kernel runs it as one function.
#![no_std]
#![deny(clippy::wildcard_enum_match_arm)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod aes;
pub mod checksum;
pub mod cid;
pub mod data_path_log;
pub mod decap;
pub mod decide;
pub mod frame;
pub mod hash;
mod process;
pub mod programs;
mod rewrite;
pub mod tables;
mod transmit;
pub mod verdict;
pub mod wire;

pub use process::process;
pub use transmit::{Action, Outcome};
