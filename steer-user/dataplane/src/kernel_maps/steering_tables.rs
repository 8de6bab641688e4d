//! [`SteeringTables`] over the kernel's maps.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering, fence},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use aya::{maps::lpm_trie::Key, util::nr_cpus};
use steer_common::abi::{
    self, Address, Admission, AdmissionDrops, CidCipher, CidKey, ClientNextHop, Config, Interface,
    MAX_CID_CIPHERS, Mac, Member, MemberState, RouterKey, Service, Slot, SourceLimit, member_flags,
};
use steer_core::dataplane::{CidKeyFile, Class, Snapshot, SteeringTables, classes};

use super::{GRACE, KernelMaps, policies_of};
use crate::{OwnMacs, perfect_hash, prefix, retry};

impl SteeringTables for KernelMaps {
    fn config(&self) -> Config {
        self.config.get(0)
    }

    fn set_config(&mut self, config: &Config) {
        let now = self.config.get(0);
        self.config.set(
            0,
            Config {
                active: now.active,
                banks: now.banks,
                mac_seed: now.mac_seed,
                routers_epoch: now.routers_epoch,
                min_mtu: now.min_mtu,
                ..*config
            },
        );
    }

    fn set_nat_sources(&mut self, sources: &[IpAddr]) -> Result<()> {
        for (family, first) in [(false, 0), (true, abi::MAX_NAT_ADDRESSES)] {
            let of_family = || sources.iter().filter(|address| address.is_ipv6() == family);
            if of_family().count() > abi::MAX_NAT_ADDRESSES as usize {
                bail!(
                    "{} source addresses of one family for nat; at most {} can be used",
                    of_family().count(),
                    abi::MAX_NAT_ADDRESSES
                );
            }
            for (index, address) in (first..).zip(of_family()) {
                self.nat_sources.set(index, (*address).into());
            }
        }
        Ok(())
    }

    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()> {
        let wanted: Vec<_> = denied.iter().map(|p| prefix::key(*p)).collect();
        for (key, (address, len)) in wanted.iter().zip(denied) {
            retry::update(|| self.denied.insert(key, 1, 0))
                .with_context(|| format!("{address}/{len}: cannot be denied"))?;
        }
        let is_wanted = |key: &Key<Address>| {
            let mut same = wanted.iter().filter(|w| w.prefix_len() == key.prefix_len());
            same.any(|wanted| wanted.data() == key.data())
        };
        let gone: Vec<_> = self.denied.keys().flatten().collect();
        for key in gone.into_iter().filter(|key| !is_wanted(key)) {
            self.denied.remove(&key)?;
        }
        Ok(())
    }

    fn cids(&self) -> BTreeMap<CidKey, u16> {
        let entries = self.cids.iter().flatten();
        entries.map(|(key, member)| (key, member as u16)).collect()
    }

    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()> {
        let present = self.cids();
        for (key, member) in cids {
            if present.get(key) != Some(member) {
                retry::update(|| self.cids.insert(key, u32::from(*member), 0))
                    .with_context(|| format!("server id {:#x}: cannot be added", key.server_id))?;
            }
        }
        for key in present.keys().filter(|key| !cids.contains_key(key)) {
            self.cids.remove(key)?;
        }
        Ok(())
    }

    fn set_cid_keys(&mut self, keys: &[CidKeyFile]) -> Result<()> {
        let read: Result<Vec<_>, _> = keys.iter().map(CidKeyFile::cipher).collect();
        let mut ciphers = [CidCipher::default(); MAX_CID_CIPHERS as usize];
        for (key, cipher) in keys.iter().zip(read?) {
            ciphers[usize::from(key.rotation) % ciphers.len()] = cipher;
        }
        self.set_cid_ciphers(&ciphers);
        Ok(())
    }

    fn services(&self) -> Vec<Service> {
        let config = self.config.get(0);
        let active = config.active & 1;
        let first = active * abi::MAX_SERVICE_ENTRIES;
        let mask = config.banks[active as usize].service_mask;
        (first..=first + mask)
            .map(|index| self.services.get(index))
            .filter(|service| service.key.family != 0)
            .collect()
    }

    fn policies(&self) -> Vec<Service> {
        policies_of(self.config.get(0).active & 1)
            .map(|index| self.services.get(index))
            .filter(|policy| policy.key.family != 0)
            .collect()
    }

    fn clear_policy(&mut self, id: u16) -> Result<()> {
        self.admission.set(u32::from(id), Admission::default());
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zero = vec![AdmissionDrops::default(); cpus];
        self.refused.set(u32::from(id), zero.try_into()?, 0)?;
        Ok(())
    }

    fn set_pressure(&mut self, id: u16, pressure: u32) {
        let admission = self.admission.at(u32::from(id)).as_ptr();
        // SAFETY: a field of a valid element.
        let word = unsafe { AtomicU32::from_ptr(&raw mut (*admission).pressure) };
        word.store(pressure, Ordering::SeqCst);
    }

    fn set_nat_idle(&mut self, id: u16, ticks: u32) {
        let admission = self.admission.at(u32::from(id)).as_ptr();
        // SAFETY: a field of a valid element.
        let word = unsafe { AtomicU32::from_ptr(&raw mut (*admission).nat_idle_ticks) };
        word.store(ticks, Ordering::SeqCst);
    }

    fn set_node_macs(&mut self, macs: Option<&[Mac]>) -> Result<()> {
        let table = macs.map(OwnMacs::new).transpose();
        let wanted = table.as_ref().ok().and_then(Option::as_ref);
        let is_there = wanted.is_some_and(|table| {
            let places = (0..).zip(&table.places);
            self.mac_seed().load(Ordering::SeqCst) == table.seed
                && places
                    .into_iter()
                    .all(|(place, mac)| self.own_macs.get(place) == *mac)
        });
        if is_there {
            return Ok(());
        }
        // While the table changes, frames for any address are accepted.
        let before = self.mac_seed().swap(0, Ordering::SeqCst);
        if let Some(table) = table? {
            // A packet may still use the previous seed.
            if before != 0 {
                thread::sleep(GRACE);
            }
            for (place, mac) in (0..).zip(&table.places) {
                self.own_macs.set(place, *mac);
            }
            fence(Ordering::SeqCst);
            self.mac_seed().store(table.seed, Ordering::SeqCst);
        }
        Ok(())
    }

    fn set_interfaces(&mut self, interfaces: &[Interface]) {
        let mut places = vec![Interface::default(); abi::MAX_INTERFACES as usize];
        for interface in interfaces {
            let place = &mut places[(interface.index % abi::MAX_INTERFACES) as usize];
            if place.index == 0 {
                *place = *interface;
            }
        }
        let known = interfaces.iter().filter(|interface| interface.mtu != 0);
        let least = known.map(|interface| interface.mtu).min().unwrap_or(0);
        let least = u16::try_from(least).unwrap_or(u16::MAX);
        self.min_mtu().store(least, Ordering::SeqCst);
        for (place, interface) in (0..).zip(places) {
            if self.interfaces.get(place) != interface {
                self.interfaces.set(place, interface);
            }
        }
    }

    fn routers(&self) -> BTreeMap<RouterKey, ClientNextHop> {
        self.routers.iter().flatten().collect()
    }

    fn set_routers(&mut self, routers: &BTreeMap<RouterKey, ClientNextHop>) -> Result<()> {
        let present = self.routers();
        let is_gone = |key: &&RouterKey| !routers.contains_key(key);
        for key in present.keys().filter(is_gone) {
            self.routers.remove(key)?;
        }
        for (key, way) in routers {
            if present.get(key) != Some(way) {
                retry::update(|| self.routers.insert(key, way, 0))
                    .context("the path to a router cannot be written")?;
            }
        }
        if present != *routers {
            self.routers_epoch().fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()> {
        let idle = (self.active().load(Ordering::Relaxed) & 1) ^ 1;
        let mut services = services.to_vec();
        let built = classes::build(idle, &mut services, classes, limits)?;
        let table = perfect_hash::build(&services)?;
        // A packet may still use the bank that was active before the last change.
        if let Some(since) = self.published {
            thread::sleep(GRACE.saturating_sub(since.elapsed()));
        }
        self.write_classes(idle, &built)?;
        for (index, value) in (idle * abi::MAX_DISPLACEMENTS..).zip(&table.displacements) {
            self.displacements.set(index, *value);
        }
        for (index, value) in (idle * abi::MAX_SERVICE_ENTRIES..).zip(&table.services) {
            self.services.set(index, *value);
        }
        let mut config = self.config.get(0);
        config.banks[idle as usize] = table.bank;
        self.config.set(0, config);
        fence(Ordering::SeqCst);
        self.active().store(idle, Ordering::SeqCst);
        self.published = Some(Instant::now());
        Ok(())
    }

    fn member(&self, id: u16) -> Member {
        self.members.get(u32::from(id))
    }

    fn set_member(&mut self, id: u16, member: &Member) {
        self.flags(id)
            .fetch_and(!member_flags::RESOLVED, Ordering::SeqCst);
        let without = Member {
            flags: member.flags & !member_flags::RESOLVED,
            state: self.state(id).load(Ordering::Relaxed),
            ..*member
        };
        self.members.set(u32::from(id), without);
        fence(Ordering::SeqCst);
        self.flags(id).store(member.flags, Ordering::SeqCst);
        self.state(id).store(member.state, Ordering::SeqCst);
    }

    fn set_member_hot(&mut self, id: u16, hot: bool) {
        let flags = self.flags(id);
        if hot {
            flags.fetch_or(member_flags::HOT, Ordering::Relaxed);
        } else {
            flags.fetch_and(!member_flags::HOT, Ordering::Relaxed);
        }
    }

    fn set_member_state(&mut self, id: u16, state: MemberState) {
        self.state(id).store(state as u8, Ordering::SeqCst);
    }

    fn slots(&self, range: Range<u32>) -> Vec<Slot> {
        range.map(|index| self.slot(index)).collect()
    }

    fn slot(&self, index: u32) -> Slot {
        Slot::from_bits(self.word(index).load(Ordering::Relaxed))
    }

    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        for (index, slot) in (start..).zip(slots) {
            self.word(index).store(slot.to_bits(), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot> {
        self.word(index)
            .compare_exchange(
                old.to_bits(),
                new.to_bits(),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .map(|_| ())
            .map_err(Slot::from_bits)
    }

    fn add_egress_interface(&mut self, interface: u32) -> Result<()> {
        self.ports
            .insert(interface, interface, None, 0)
            .with_context(|| format!("interface {interface}: cannot be redirected to"))
    }

    fn snapshot(&self) -> Snapshot {
        let config = self.config.get(0);
        let active = config.active & 1;
        let bank = config.banks[active as usize];
        let displacements = active * abi::MAX_DISPLACEMENTS;
        let services = active * abi::MAX_SERVICE_ENTRIES;
        Snapshot {
            config,
            displacements: (displacements..=displacements + bank.displacement_mask)
                .map(|index| self.displacements.get(index))
                .collect(),
            services: (services..=services + bank.service_mask)
                .map(|index| self.services.get(index))
                .collect(),
            policies: [0, 1]
                .into_iter()
                .flat_map(policies_of)
                .map(|index| self.services.get(index))
                .collect(),
            classes: self.prefixes.clone(),
            dscp_tables: (0..self.dscp_tables.len())
                .map(|index| self.dscp_tables.get(index))
                .collect(),
            limits: (0..self.limits.len())
                .map(|index| self.limits.get(index))
                .collect(),
            admission: (0..self.admission.len())
                .map(|index| self.admission.get(index))
                .collect(),
            members: (0..self.members.len())
                .map(|index| self.members.get(index))
                .collect(),
            slots: self.slots(0..self.slots.len()),
            nat_sources: (0..self.nat_sources.len())
                .map(|index| self.nat_sources.get(index))
                .collect(),
            denied: self
                .denied
                .keys()
                .flatten()
                .map(|key| (key.data(), key.prefix_len()))
                .collect(),
            cids: self.cids(),
            cid_ciphers: self.cid_ciphers(),
            icmp_sources: self.icmp_sources.iter().flatten().collect(),
            node_macs: (0..self.own_macs.len())
                .map(|place| self.own_macs.get(place))
                .collect(),
            interfaces: (0..self.interfaces.len())
                .map(|place| self.interfaces.get(place))
                .collect(),
            routers: self.routers(),
        }
    }
}
