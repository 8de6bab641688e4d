//! What rtnetlink says of interfaces and next hops.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use tokio::time::timeout;

use crate::dataplane::Neighbours;

/// How long a next hop may take to answer.
const NEIGHBOUR: Duration = Duration::from_secs(1);

/// What is known of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Its kind, like veth or bridge; empty for a network card.
    pub kind: String,
    /// The number of the XDP program that is attached.
    pub program: Option<u32>,
    /// Whether VLAN devices stand on it.
    pub vlans: bool,
    /// The device that it lies on, of VLAN devices and the like.
    pub below: Option<String>,
    /// The bond or bridge that it belongs to.
    pub controller: Option<String>,
    /// Of a veth: its other end, if that is in this namespace.
    pub peer: Option<String>,
}

/// A link as one message has it, with the numbers of other links, whose names are not known yet.
#[derive(Default)]
struct Read {
    name: String,
    link: Link,
    /// The device below, or the other end of a veth.
    lower: Option<u32>,
    /// Whether that one is of another namespace.
    elsewhere: bool,
    controller: Option<u32>,
}

/// All links of this network namespace by name.
pub(super) fn links() -> Result<BTreeMap<String, Link>> {
    in_runtime(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        tokio::spawn(connection);
        let mut all: BTreeMap<u32, Read> = BTreeMap::new();
        let mut links = handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            all.insert(message.header.index, Read::of(message));
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
    fn of(message: LinkMessage) -> Self {
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

/// The interface that the way to each address leads through, and whether the address is on its link.
pub(super) fn ways(addresses: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, (u32, bool)>> {
    in_runtime(async {
        let neighbours = Neighbours::new()?;
        let mut found = BTreeMap::new();
        for address in addresses {
            // One without a route is told of elsewhere.
            if let Ok(route) = neighbours.route(*address).await {
                let on_link = route.next_hop() == *address;
                found.insert(*address, (route.interface(), on_link));
            }
        }
        Ok(found)
    })
}

/// Addresses whose next hop does not answer. Sends a datagram without content to each that is not
/// known.
pub(super) fn unresolved(addresses: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>> {
    in_runtime(async {
        let neighbours = Neighbours::new()?;
        let mut missing: Vec<IpAddr> = Vec::new();
        // The first look asks for all of them; then they have the same time.
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
        // Those that are missing by then are what is found.
        let _ = timeout(NEIGHBOUR, all_answer).await;
        Ok(missing)
    })
}

/// Runs on a thread of its own: who asks may be in a runtime, which does not take another one. The
/// thread is in the network namespace of the one that asks.
fn in_runtime<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build()?.block_on(work)
        });
        thread.join().map_err(|_| anyhow!("a thread has failed"))?
    })
}
