//! Parsing of the headers that steering needs: Ethernet with up to two VLAN tags, IPv4 with
//! options, IPv6 with a bounded chain of extension headers, TCP and UDP.
//!
//! Packets that cannot be parsed are left to the kernel: [`parse`] returns `None`.

mod ethernet;
mod icmp;
mod ip;
mod martian;
mod packet;
mod protocol;
mod transport;

pub(crate) use ethernet::ETHERTYPE_VLAN;
pub use ethernet::{ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, VLAN_TAG, ethertype, is_v6};
pub(crate) use icmp::{ICMP_HEADER, parse_icmp_error};
pub use ip::{IPV4_HEADER, IPV6_HEADER};
pub(crate) use ip::{Network, is_extension};
pub(crate) use martian::is_martian;
pub use packet::{Packet, PacketKind, parse, parse_v4, parse_v6};
pub(crate) use packet::{network, packet, without_transport};
pub use protocol::{
    PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, PROTOCOL_UDP,
};
pub(crate) use transport::UDP_HEADER;
pub use transport::{ACK, FIN, RST, SYN};
