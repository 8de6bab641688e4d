//! Server ids of QUIC: which are known, and how long those of members that are on their way out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    time::{Duration, Instant},
};

use steer_common::{
    abi::{CidKey, CidLayouts},
    cid::Server,
};

use super::{Controller, desired::Numbers};
use crate::{
    config::Config,
    dataplane::{CidKeyFile, Dataplane},
};

/// How connection ids are laid out.
pub(super) fn layouts(config: &Config) -> CidLayouts {
    let layouts = config.quic.iter();
    layouts.fold(CidLayouts::default(), |all, one| match one.key_file {
        Some(_) => all.with_encryption(one.rotation),
        None => all.with(one.rotation, one.layout()),
    })
}

/// Keys of the connection ids that are encrypted.
pub(super) fn keys(config: &Config) -> Vec<CidKeyFile> {
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

/// The server ids of the members of services of QUIC.
fn wanted(config: &Config, numbers: &Numbers) -> BTreeMap<CidKey, u16> {
    let mut cids = BTreeMap::new();
    for ((service, backend), member) in &numbers.members {
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
                service: numbers.services[*service],
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

impl<D: Dataplane> Controller<D> {
    /// The server ids that are to be known. Members that the configuration no longer has keep theirs,
    /// unless another has it now: nothing but the ids remembers their connections.
    pub(super) fn cids(&self) -> BTreeMap<CidKey, u16> {
        let mut cids = wanted(&self.config, &self.numbers);
        let retired: BTreeSet<u16> = self.retired().into_iter().collect();
        let lives = |key: &CidKey| {
            let mut layouts = self.config.quic.iter();
            layouts.any(|l| {
                l.rotation == key.rotation && l.server_id == usize::from(key.server_id_len)
            })
        };
        for (key, member) in self.dataplane.cids() {
            if retired.contains(&member) && lives(&key) {
                cids.entry(key).or_insert(member);
            }
        }
        cids
    }
}

/// Members that are on their way out, with what they were sent, and since when no more.
#[derive(Debug, Default)]
pub(super) struct Quiet(HashMap<u16, (u64, Instant)>);

impl Quiet {
    /// Whether a member was sent nothing for so long. `packets` counts what it was ever sent.
    pub(super) fn is(&mut self, id: u16, packets: u64, idle: Duration, now: Instant) -> bool {
        let seen = self.0.entry(id).or_insert((packets, now));
        if seen.0 != packets {
            *seen = (packets, now);
        }
        now.saturating_duration_since(seen.1) > idle
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, ids: &[u16]) {
        self.0.retain(|id, _| ids.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_quiet_once_it_was_sent_nothing_for_long() {
        let mut quiet = Quiet::default();
        let (start, idle) = (Instant::now(), Duration::from_secs(60));
        let mut ask =
            |packets, after| quiet.is(3, packets, idle, start + Duration::from_secs(after));
        assert!(!ask(5, 0));
        assert!(!ask(5, 60));
        assert!(ask(5, 61));
        assert!(!ask(6, 62));
        assert!(!ask(6, 122));
        assert!(ask(6, 123));
        quiet.retain(&[4]);
        assert!(!quiet.is(3, 6, idle, start + Duration::from_secs(200)));
    }
}
