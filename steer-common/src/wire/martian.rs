//! Source addresses that no packet from a network can have (RFC 1812 section 5.3.7, RFC 4291
//! section 2.5).

use crate::abi::{Address, FlowKey};

/// Returns whether a flow has an impossible source: not a host's address, or its own destination.
#[inline(always)]
pub(crate) fn is_martian(flow: &FlowKey) -> bool {
    flow.source == flow.destination || is_martian_source(flow.source, flow.family)
}

/// Returns whether an address is no host's: unspecified, loopback, multicast, broadcast or
/// reserved; or IPv4 inside of IPv6.
#[inline(always)]
pub(crate) const fn is_martian_source(source: Address, family: u8) -> bool {
    if family == 4 {
        let first = u32::from_le(source.v4()) as u8;
        return first == 0 || first == 127 || first >= 224;
    }
    let [high, low] = source.words();
    if u64::from_le(high) as u8 == 0xff {
        return true;
    }
    // Nearly all sources are done with here.
    high == 0 && (u64::from_be(low) <= 1 || source.is_v4())
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use std::vec::Vec;

    use super::*;

    fn verdict(text: &str) -> bool {
        let address: IpAddr = text.parse().unwrap();
        let family = if address.is_ipv4() { 4 } else { 6 };
        is_martian_source(address.into(), family)
    }

    #[test]
    fn addresses_of_no_host_are_martian() {
        let martian = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "ff0e::101",
            "::ffff:192.0.2.1",
        ];
        let missed: Vec<_> = martian.into_iter().filter(|text| !verdict(text)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    #[test]
    fn addresses_of_hosts_are_not() {
        let hosts = [
            "1.0.0.1",
            "10.0.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.254.1.1",
            "192.0.2.7",
            "223.255.255.255",
            "::2",
            "::1:0:0:1",
            "2001:db8::1",
            "64:ff9b::192.0.2.1",
            "fd00::1",
            "fe80::1",
            "fe00::1",
        ];
        let wrong: Vec<_> = hosts.into_iter().filter(|text| verdict(text)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_packet_from_its_own_destination_is_martian() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let flow = FlowKey {
            source: address.into(),
            destination: address.into(),
            family: 4,
            ..FlowKey::default()
        };
        assert!(is_martian(&flow));
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let flow = FlowKey {
            source: other.into(),
            ..flow
        };
        assert!(!is_martian(&flow));
    }
}
