//! Tables that the daemon writes.

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use anyhow::Result;
use steer_common::abi::{
    CidKey, ClientNextHop, Config, Interface, Mac, Member, MemberState, RouterKey, Service, Slot,
    SourceLimit,
};

use super::{CidKeyFile, Class, Snapshot};

/// Tables that the daemon writes, and that packets are steered by.
pub trait SteeringTables {
    /// Returns the kernel's settings, without the fields of banks.
    fn config(&self) -> Config;

    /// Writes the settings except `active` and `banks`, which [`Self::publish`] owns.
    fn set_config(&mut self, config: &Config);

    /// Replaces the source addresses of `nat`, IPv4 and IPv6, at most
    /// [`MAX_NAT_ADDRESSES`](steer_common::abi::MAX_NAT_ADDRESSES) each.
    fn set_nat_sources(&mut self, sources: &[IpAddr]) -> Result<()>;

    /// Replaces the denied prefixes of clients. Unchanged prefixes are denied throughout.
    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()>;

    /// Returns the members of QUIC services by server id.
    fn cids(&self) -> BTreeMap<CidKey, u16>;

    /// Replaces the known server ids. Unchanged ids are known throughout.
    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()>;

    /// Replaces the keys of encrypted connection ids with those read from files.
    ///
    /// # Errors
    ///
    /// Returns an error if a key cannot be read or is invalid. The previous keys stay then.
    fn set_cid_keys(&mut self, keys: &[CidKeyFile]) -> Result<()>;

    /// Returns the services that packets currently use.
    fn services(&self) -> Vec<Service>;

    /// Returns the class policies that packets currently use.
    fn policies(&self) -> Vec<Service>;

    /// Replaces the services and their classes atomically: writes them to the inactive bank, then
    /// activates it. A `limit` in them is an index into `limits`, counted from 1.
    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()>;

    /// Works like [`Self::publish_with`], for services without classes.
    fn publish(&mut self, services: &[Service]) -> Result<()> {
        self.publish_with(services, &[], &[])
    }

    /// Clears the counters and due times of a service or class that gets this number.
    fn clear_policy(&mut self, id: u16) -> Result<()>;

    /// Sheds new flows of a service or class, by its number, with a priority below this.
    fn set_pressure(&mut self, id: u16, pressure: u32);

    /// Sets the idle timeout of nat flows of a service or class, by its number, in ticks; 0 means
    /// the default of the settings.
    fn set_nat_idle(&mut self, id: u16, ticks: u32) {
        let _ = (id, ticks);
    }

    /// Replaces the MAC addresses whose frames are steered; `None` steers frames for any address.
    fn set_node_macs(&mut self, macs: Option<&[Mac]>) -> Result<()> {
        let _ = macs;
        Ok(())
    }

    /// Replaces the properties of interfaces that packets need. Of two entries with the same
    /// position, the first one is used.
    fn set_interfaces(&mut self, interfaces: &[Interface]) {
        let _ = interfaces;
    }

    /// Returns the paths to routers.
    fn routers(&self) -> BTreeMap<RouterKey, ClientNextHop> {
        BTreeMap::new()
    }

    /// Replaces the paths to routers. Flows over a changed path look it up again.
    fn set_routers(&mut self, routers: &BTreeMap<RouterKey, ClientNextHop>) -> Result<()> {
        let _ = routers;
        Ok(())
    }

    /// Returns member `id`, below [`MEMBERS`](steer_common::abi::MAX_MEMBERS).
    fn member(&self, id: u16) -> Member;

    /// Writes a member that no packet uses yet, or one with a new next hop: its fields are written
    /// while [`RESOLVED`](steer_common::abi::member_flags::RESOLVED) is clear.
    fn set_member(&mut self, id: u16, member: &Member);

    /// Writes the state byte of a member, which takes effect for all slots with the next packet.
    fn set_member_state(&mut self, id: u16, state: MemberState);

    /// Writes the hot bit of a member, which makes its new flows try the second choice of their
    /// slots.
    fn set_member_hot(&mut self, id: u16, hot: bool);

    /// Returns a range of slots of the arena.
    fn slots(&self, range: Range<u32>) -> Vec<Slot>;

    /// Returns one slot.
    fn slot(&self, index: u32) -> Slot;

    /// Writes slots that no service uses yet.
    fn write_slots(&mut self, start: u32, slots: &[Slot]);

    /// Replaces a slot in use if it still equals `old`; otherwise returns its current value.
    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot>;

    /// Allows redirects to an interface.
    fn add_egress_interface(&mut self, interface: u32) -> Result<()>;

    /// Returns a snapshot of everything that decisions depend on, except flows.
    fn snapshot(&self) -> Snapshot;
}
