//! What the program needs to know of the node.

use super::{Address, CidLayouts, NatTimeouts};

/// One of the two perfect hashes. Packets use the active one while the daemon writes the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bank {
    /// Seed of the hash of a service key.
    pub seed: u64,
    /// Number of displacements in use, minus one; the number is a power of two.
    pub displacement_mask: u32,
    /// Number of entries in use, minus one; the number is a power of two.
    pub service_mask: u32,
    /// 1 if there is a service with any port, so that a second look-up is worth it.
    pub any_port: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// The node's settings in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Which of `banks` is in use: 0 or 1. The daemon writes it last.
    pub active: u32,
    /// Addresses that `nat` uses as sources towards IPv4 backends.
    pub nat_v4: u16,
    /// Addresses that `nat` uses as sources towards IPv6 backends.
    pub nat_v6: u16,
    /// The two banks of the perfect hash.
    pub banks: [Bank; 2],
    /// Seed of the hash of flows. Nodes that shall send a flow to the same slot share it.
    pub flow_seed: u64,
    /// Outer source of encapsulated packets to IPv4 backends.
    pub outer_v4: Address,
    /// Outer source of encapsulated packets to IPv6 backends.
    pub outer_v6: Address,
    /// First port that `nat` gives out.
    pub nat_port_first: u16,
    /// How many ports `nat` gives out, from `nat_port_first` on.
    pub nat_port_count: u16,
    /// How long a SYN is left unanswered before its retransmission tries the other choice, in
    /// milliseconds.
    pub nat_retry_ms: u32,
    /// How many of the last bits of `outer_v4` each flow has its own value of, so that the backend's
    /// network card spreads flows over its queues. At most 32.
    pub outer_v4_bits: u8,
    /// The same of `outer_v6`. At most 32.
    pub outer_v6_bits: u8,
    /// UDP port of backends with mode `gue`.
    pub gue_port: u16,
    /// 1 if any address is denied.
    pub denies: u32,
    /// How long flows of `nat` keep their ports without a packet.
    pub nat_timeouts: NatTimeouts,
    /// Silence between two parts of an answer that makes them two bursts, in units of 2^10 ns; 0 measures
    /// nothing.
    pub burst_gap_us: u32,
    /// How many [`OPENINGS`](super::OPENINGS) each CPU has for itself; with 0 none has to make room.
    pub nat_openings: u32,
    /// Bits of [`nat_flags`].
    pub nat_flags: u32,
    /// Seed of the choice of ports of `nat`. It is drawn when the maps are made, and no other node knows it.
    pub nat_port_seed: u64,
    /// How connection ids of QUIC are laid out.
    pub cids: CidLayouts,
    /// Leads from a MAC address to its place in [`OWN_MACS`](super::maps::OWN_MACS); 0 takes frames for any.
    pub mac_seed: u64,
    /// The shortest time without a packet after which a TCP flow of `nat` may be gone, in ticks.
    pub nat_idle_min_ms: u32,
    /// Counts changes of [`ROUTERS`](super::maps::ROUTERS): ways back with another number are looked up anew.
    pub routers_epoch: u16,
    /// The smallest of the interfaces' [`Interface::mtu`](super::Interface::mtu); 0 if none is known. The daemon
    /// writes it with them.
    pub least_mtu: u16,
}

/// Bits of [`Config::nat_flags`].
pub mod nat_flags {
    /// TCP segments that begin or end a connection change nothing unless their checksum is right.
    pub const VERIFIES_CHECKSUMS: u32 = 1;
    /// Answers have to carry the VLAN tag of the next hop of their member. Where the kernel takes tags off before
    /// the program sees a packet, that cannot be asked for.
    pub const CHECKS_VLAN: u32 = 2;
}
