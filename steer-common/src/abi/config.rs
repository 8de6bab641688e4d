//! Settings of the node for the program.

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
    /// 1 if there is a service on any port, so that a second look-up is needed.
    pub any_port: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// Settings of the node in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Index of the active bank: 0 or 1. Written last by the daemon.
    pub active: u32,
    /// Number of `nat` source addresses towards IPv4 backends.
    pub nat_v4: u16,
    /// Number of `nat` source addresses towards IPv6 backends.
    pub nat_v6: u16,
    /// Banks of the perfect hash.
    pub banks: [Bank; 2],
    /// Seed of the flow hash. Nodes that must send a flow to the same slot share it.
    pub flow_seed: u64,
    /// Outer source of encapsulated packets to IPv4 backends.
    pub outer_v4: Address,
    /// Outer source of encapsulated packets to IPv6 backends.
    pub outer_v6: Address,
    /// First port of the `nat` port range.
    pub nat_port_first: u16,
    /// Number of ports in the range.
    pub nat_port_count: u16,
    /// Time after which the retransmission of an unanswered SYN tries the other choice, in ticks.
    pub nat_retry_ticks: u32,
    /// Number of low-order bits of `outer_v4` that vary by flow, so that the backend's network card
    /// spreads flows over its queues. At most 32.
    pub outer_v4_bits: u8,
    /// The same number for `outer_v6`. At most 32.
    pub outer_v6_bits: u8,
    /// UDP port of backends in mode `gue`.
    pub gue_port: u16,
    /// 1 if any address is denied.
    pub denies: u32,
    /// Idle timeouts of nat flows.
    pub nat_timeouts: NatTimeouts,
    /// Pause within an answer that separates two bursts, in units of 2^10 ns; 0 disables
    /// measurement.
    pub burst_gap_us: u32,
    /// Length of each CPU's ring of [`UNASSURED_FLOWS`](super::maps::UNASSURED_FLOWS); 0 disables eviction.
    pub nat_unassured_max: u32,
    /// Bits of [`nat_flags`].
    pub nat_flags: u32,
    /// Seed of the choice of nat ports. It is drawn when the maps are created, and unknown to other
    /// nodes.
    pub nat_port_seed: u64,
    /// Layouts of QUIC connection ids.
    pub cids: CidLayouts,
    /// Seed of the hash of MAC addresses in [`NODE_MACS`](super::maps::NODE_MACS); 0 accepts frames
    /// for any address.
    pub mac_seed: u64,
    /// Shortest idle time after which a TCP flow of `nat` may be gone, in ticks.
    pub nat_idle_min_ticks: u32,
    /// Number of changes of [`ROUTERS`](super::maps::ROUTERS): return paths with another number are
    /// looked up again.
    pub routers_epoch: u16,
    /// Minimum of the interfaces' [`Interface::mtu`](super::Interface::mtu); 0 if none is known.
    /// Written by the daemon together with them.
    pub min_mtu: u16,
}

/// Bits of [`Config::nat_flags`].
pub mod nat_flags {
    /// TCP segments that open or close a connection change nothing unless their checksum is
    /// correct.
    pub const VERIFIES_CHECKSUMS: u32 = 1;
    /// Answers must carry the VLAN tag of their member's next hop. Cannot be set where the kernel
    /// strips tags before the program sees a packet.
    pub const CHECKS_VLAN: u32 = 2;
}
