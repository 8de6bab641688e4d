//! IP protocol numbers.

/// IP protocol number of ICMP (RFC 792).
pub const PROTOCOL_ICMP: u8 = 1;

/// IP protocol number of ICMPv6 (RFC 4443).
pub const PROTOCOL_ICMPV6: u8 = 58;

/// IP protocol number of IPv4 in IP (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;

/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// IP protocol number of IPv6 in IP (RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;
