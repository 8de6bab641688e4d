//! What the XDP programs and the daemon share: the map ABI, the packet parser, and the steering
//! decision. Compiled for BPF and for the host; does no I/O.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
