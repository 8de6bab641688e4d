//! What rtnetlink says of interfaces and next hops.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkXdp};
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
}

/// All links of this network namespace by name.
pub(super) fn links() -> Result<BTreeMap<String, Link>> {
    in_runtime(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        tokio::spawn(connection);
        let mut found = BTreeMap::new();
        let mut numbers = BTreeMap::new();
        let mut below = BTreeSet::new();
        let mut links = handle.link().get().execute();
        while let Some(message) = links.try_next().await? {
            let mut link = Link {
                up: message.header.flags.contains(LinkFlags::Up),
                ..Link::default()
            };
            let (mut name, mut lower) = (String::new(), None);
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = text,
                    LinkAttribute::Link(index) => lower = Some(index),
                    LinkAttribute::LinkInfo(infos) => {
                        for info in infos {
                            if let LinkInfo::Kind(kind) = info {
                                link.kind = kind.to_string();
                            }
                        }
                    }
                    LinkAttribute::Xdp(parts) => {
                        for part in parts {
                            if let LinkXdp::ProgId(id) = part {
                                link.program = Some(id).filter(|id| *id != 0);
                            }
                        }
                    }
                    _ => {}
                }
            }
            if link.kind == "vlan" {
                below.extend(lower);
            }
            numbers.insert(message.header.index, name.clone());
            found.insert(name, link);
        }
        for index in below {
            let link = numbers.get(&index).and_then(|name| found.get_mut(name));
            if let Some(link) = link {
                link.vlans = true;
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
