//! Packets through the program and through the host's build of the same code, every byte compared;
//! this needs root.

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
mod lifetime;
mod limits;
mod memory;
mod modes;
mod nat;
mod parse;
mod passive;
mod ports;
mod sweep;
