//! Interfaces and next hops from rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use steer_dataplane::Neighbours;
use tokio::time::timeout;

/// Time for a next hop to answer.
const NEIGHBOUR: Duration = Duration::from_secs(1);

/// Properties of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Kind, like veth or bridge; empty for a network card.
    pub kind: String,
    /// Id of the attached XDP program.
    pub program: Option<u32>,
    /// Whether it has VLAN devices on top.
    pub vlans: bool,
    /// Lower device, for VLAN devices and the like.
    pub below: Option<String>,
    /// Bond or bridge that it is a port of.
    pub controller: Option<String>,
    /// Peer of a veth, if that is in this namespace.
    pub peer: Option<String>,
}

/// A link as parsed from one message, with the indexes of other links, whose names are not known
/// yet.
#[derive(Default)]
struct Read {
    name: String,
    link: Link,
    /// Lower device, or the peer of a veth.
    lower: Option<u32>,
    /// Whether that one is in another namespace.
    elsewhere: bool,
    controller: Option<u32>,
}

/// Returns all links of this network namespace by name.
pub(super) fn links() -> Result<BTreeMap<String, Link>> {
    in_runtime(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        tokio::spawn(connection);
        let mut all: BTreeMap<u32, Read> = BTreeMap::new();
        let mut links = handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            all.insert(message.header.index, Read::from_message(message));
        }
        let below: BTreeSet<u32> = all
            .values()
            .filter(|read| read.link.kind == "vlan")
            .filter_map(|read| read.lower)
            .collect();
        let names: BTreeMap<u32, String> = all
            .iter()
            .map(|(index, read)| (*index, read.name.clone()))
            .collect();
        let name = |index: Option<u32>| index.and_then(|index| names.get(&index).cloned());
        let mut found = BTreeMap::new();
        for (index, read) in all {
            let mut link = read.link;
            let lower = name(read.lower.filter(|_| !read.elsewhere));
            match link.kind.as_str() {
                "veth" => link.peer = lower,
                _ => link.below = lower,
            }
            link.controller = name(read.controller);
            link.vlans = below.contains(&index);
            found.insert(read.name, link);
        }
        Ok(found)
    })
}

impl Read {
    fn from_message(message: LinkMessage) -> Self {
        let mut read = Self::default();
        read.link.up = message.header.flags.contains(LinkFlags::Up);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => read.name = text,
                LinkAttribute::Link(index) => read.lower = Some(index),
                LinkAttribute::LinkNetNsId(_) => read.elsewhere = true,
                LinkAttribute::Controller(index) => read.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            read.link.kind = kind.to_string();
                        }
                    }
                }
                LinkAttribute::Xdp(parts) => {
                    for part in parts {
                        if let LinkXdp::ProgId(id) = part {
                            read.link.program = Some(id).filter(|id| *id != 0);
                        }
                    }
                }
                _ => {}
            }
        }
        read
    }
}

/// Returns the outgoing interface for each address, and whether the address is on its link.
pub(super) fn ways(addresses: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, (u32, bool)>> {
    in_runtime(async {
        let neighbours = Neighbours::new()?;
        let mut found = BTreeMap::new();
        for address in addresses {
            // A missing route is reported elsewhere.
            if let Ok(route) = neighbours.route(*address).await {
                let on_link = route.next_hop() == *address;
                found.insert(*address, (route.interface(), on_link));
            }
        }
        Ok(found)
    })
}

/// Returns addresses whose next hop does not answer. Sends an empty datagram to each unresolved
/// one.
pub(super) fn unresolved(addresses: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>> {
    in_runtime(async {
        let neighbours = Neighbours::new()?;
        let mut missing: Vec<IpAddr> = Vec::new();
        // The first pass asks for all of them, so that they have the same time.
        for address in addresses {
            if let Ok(None) = neighbours.next_hop(*address, &[]).await {
                missing.push(*address);
            }
        }
        let mut changes = neighbours.changes();
        let all_answer = async {
            while !missing.is_empty() && changes.changed().await.is_ok() {
                let mut still = Vec::new();
                for address in &missing {
                    if let Ok(None) = neighbours.next_hop(*address, &[]).await {
                        still.push(*address);
                    }
                }
                missing = still;
            }
        };
        // The addresses missing by then are the result.
        let _ = timeout(NEIGHBOUR, all_answer).await;
        Ok(missing)
    })
}

/// Runs a future on a thread of its own, because the caller may be in a runtime, which cannot be
/// nested. The thread is in the caller's network namespace.
fn in_runtime<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build()?.block_on(work)
        });
        thread.join().map_err(|_| anyhow!("a thread has failed"))?
    })
}
