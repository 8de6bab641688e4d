//! Server ids in connection ids of QUIC: those of the configuration, and those of retired members.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    time::{Duration, Instant},
};

use steer_common::{
    abi::{CidKey, CidLayouts},
    cid::Server,
};

use crate::{
    config::Config,
    control::site::Site,
    dataplane::{CidKeyFile, Dataplane},
};

/// Layouts of connection ids.
pub(crate) fn layouts(config: &Config) -> CidLayouts {
    let layouts = config.quic.iter();
    layouts.fold(CidLayouts::default(), |all, one| match one.key_file {
        Some(_) => all.with_encryption(one.rotation),
        None => all.with(one.rotation, one.layout()),
    })
}

/// Keys of the connection ids that are encrypted.
pub(crate) fn keys(config: &Config) -> Vec<CidKeyFile> {
    let layouts = config.quic.iter();
    let keys = layouts.filter_map(|one| {
        Some(CidKeyFile {
            rotation: one.rotation,
            layout: one.layout()?,
            path: one.key_file.clone()?,
        })
    });
    keys.collect()
}

/// Server ids of the members of services of QUIC.
fn configured(site: &Site) -> BTreeMap<CidKey, u16> {
    let config = &site.config;
    let mut cids = BTreeMap::new();
    for ((service, backend), member) in &site.ids.members {
        if !config.services[*service].quic {
            continue;
        }
        for layout in &config.quic {
            let id = config.backends[*backend].server_id(layout.server_id);
            let Some(server) = Server::new(layout.rotation, &id) else {
                continue;
            };
            let key = CidKey {
                server_id: server.id,
                service: site.ids.services[*service],
                rotation: server.rotation,
                server_id_len: server.len,
                _pad: 0,
            };
            // Of one host's addresses that of the service's family: with rewritten addresses no other will do.
            let service = &config.services[*service];
            let is_own = config.backends[*backend].address.is_ipv4() == service.address.is_ipv4();
            match cids.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(*member);
                }
                Entry::Occupied(mut entry) if is_own => {
                    entry.insert(*member);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    cids
}

/// Server ids that are to be known. Retired members keep theirs, unless another has it now: nothing but the ids
/// remembers their connections.
pub(crate) fn wanted(site: &Site, dataplane: &impl Dataplane) -> BTreeMap<CidKey, u16> {
    let mut cids = configured(site);
    let retired: BTreeSet<u16> = site.ids.retired(dataplane).into_iter().collect();
    let lives = |key: &CidKey| {
        let mut layouts = site.config.quic.iter();
        layouts.any(|l| l.rotation == key.rotation && l.server_id == usize::from(key.server_id_len))
    };
    for (key, member) in dataplane.cids() {
        if retired.contains(&member) && lives(&key) {
            cids.entry(key).or_insert(member);
        }
    }
    cids
}

/// Packets that retired members were sent, and since when there are no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdleTracker(HashMap<u16, (u64, Instant)>);

impl IdleTracker {
    /// Returns whether a member was sent nothing for that long. `packets` counts what it was ever sent.
    pub(crate) fn is_idle(&mut self, id: u16, packets: u64, idle: Duration, now: Instant) -> bool {
        let seen = self.0.entry(id).or_insert((packets, now));
        if seen.0 != packets {
            *seen = (packets, now);
        }
        now.saturating_duration_since(seen.1) > idle
    }

    /// Forgets all but these.
    pub(crate) fn retain(&mut self, ids: &[u16]) {
        self.0.retain(|id, _| ids.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_idle_once_it_was_sent_nothing_for_long() {
        let mut tracker = IdleTracker::default();
        let (start, idle) = (Instant::now(), Duration::from_secs(60));
        let mut ask =
            |packets, after| tracker.is_idle(3, packets, idle, start + Duration::from_secs(after));
        assert!(!ask(5, 0));
        assert!(!ask(5, 60));
        assert!(ask(5, 61));
        assert!(!ask(6, 62));
        assert!(!ask(6, 122));
        assert!(ask(6, 123));
        tracker.retain(&[4]);
        assert!(!tracker.is_idle(3, 6, idle, start + Duration::from_secs(200)));
    }
}
