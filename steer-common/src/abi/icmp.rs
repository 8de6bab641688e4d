//! Source addresses of ICMP errors that the data path sends about packets that end at this node.

use super::Address;

/// A link on which packets arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkKey {
    /// Index of the interface.
    pub interface: u32,
    /// VLAN of the outer tag; 0 for frames without one.
    pub vlan: u16,
    #[doc(hidden)]
    pub _pad: u16,
}

/// This node's addresses on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct IcmpSource {
    /// IPv4 address; all zero if there is none.
    pub v4: Address,
    /// IPv6 address; all zero if there is none.
    pub v6: Address,
}

impl IcmpSource {
    /// Returns the address of a family, if there is one.
    #[inline(always)]
    pub const fn address(&self, v6: bool) -> Option<Address> {
        let (address, is_set) = if v6 {
            let [high, low] = self.v6.words();
            (self.v6, high | low != 0)
        } else {
            (self.v4, self.v4.v4() != 0)
        };
        if is_set { Some(address) } else { None }
    }
}
