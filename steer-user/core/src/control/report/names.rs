//! Names of what the data path knows by numbers.

use std::{collections::BTreeMap, net::IpAddr};

use crate::control::site::Site;

/// Interfaces of the configuration, by their indexes.
pub type Interfaces = BTreeMap<u32, String>;

/// Names that the data path does not know.
pub trait Names {
    /// Returns the name of a member: its backend's.
    fn member(&self, id: u16) -> Option<String>;
    /// Returns the name of a service or class.
    fn service(&self, id: u16) -> Option<String>;
    /// Returns the reason why a client with this DSCP is in a class.
    fn class(&self, id: u16, client: IpAddr, dscp: u8) -> Option<String>;
    /// Returns the name of a configured interface by its index.
    fn interface(&self, index: u32) -> Option<String>;
}

/// Names of what the data path knows by numbers, in the running configuration.
pub struct SiteNames<'s> {
    pub(super) site: &'s Site,
    /// Interfaces of the configuration, by their indexes.
    pub(super) interfaces: &'s Interfaces,
}

impl Names for SiteNames<'_> {
    fn member(&self, id: u16) -> Option<String> {
        let mut members = self.site.ids.members.iter();
        let ((_, backend), _) = members.find(|(_, member)| **member == id)?;
        Some(self.site.config.backends[*backend].name.clone())
    }

    fn service(&self, id: u16) -> Option<String> {
        let index = self.site.ids.policies.iter().position(|known| *known == id);
        index.map(|index| self.site.policy_name(index))
    }

    fn class(&self, id: u16, client: IpAddr, dscp: u8) -> Option<String> {
        let index = self
            .site
            .ids
            .policies
            .iter()
            .position(|known| *known == id)?;
        let class = self.site.policy(index).class?;
        Some(class.because(client, dscp))
    }

    fn interface(&self, index: u32) -> Option<String> {
        self.interfaces.get(&index).cloned()
    }
}
