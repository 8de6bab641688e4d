//! Interfaces of this network namespace, listed by rtnetlink.

use std::thread;

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage},
};
use steer_common::abi::Mac;

/// An interface with its upper and lower devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    /// Bond, bridge or team of which it is a port.
    pub controller: Option<u32>,
    /// Lower device, if it is in this namespace.
    pub below: Option<u32>,
    /// Lower device and VLAN id of a VLAN device.
    pub vlan: Option<(u32, u16)>,
    /// Whether its ports are links of one host, as for a bond or a team.
    pub is_bond: bool,
    pub mac: Option<Mac>,
    pub mtu: u32,
}

impl Link {
    pub(super) fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            ..Self::default()
        };
        let (mut below, mut vlan) = (None, None);
        let (mut is_foreign, mut is_veth) = (false, false);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Link(index) => below = Some(index),
                LinkAttribute::LinkNetNsId(_) => is_foreign = true,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                // An all-zero address means none.
                LinkAttribute::Address(bytes) => {
                    link.mac = Mac::try_from(bytes).ok().filter(|mac| *mac != [0; 6]);
                }
                LinkAttribute::LinkInfo(infos) => {
                    vlan = infos.iter().find_map(vlan_of);
                    is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                    link.is_bond = infos.iter().any(is_bond);
                }
                _ => {}
            }
        }
        // A veth reports its peer in the same attribute.
        link.below = below.filter(|_| !is_foreign && !is_veth);
        link.vlan = link.below.zip(vlan);
        link
    }
}

fn is_bond(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::Kind(InfoKind::Bond) => true,
        LinkInfo::Kind(kind) => kind.to_string() == "team",
        _ => false,
    }
}

fn vlan_of(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(parts)) = info else {
        return None;
    };
    parts.iter().find_map(|part| match part {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

/// Returns all interfaces.
///
/// # Errors
///
/// Returns an error if the kernel does not answer.
pub(super) async fn list(handle: &Handle) -> Result<Vec<Link>> {
    let all = handle.link().get().execute().try_collect::<Vec<_>>().await;
    let messages = all.context("the interfaces of this host")?;
    Ok(messages.into_iter().map(Link::from_message).collect())
}

/// Returns all interfaces. The query runs on a thread of its own in the same network namespace,
/// because the caller may be inside asynchronous code.
///
/// # Errors
///
/// Returns an error if the kernel does not answer.
pub(super) fn links() -> Result<Vec<Link>> {
    let ask = || -> Result<Vec<Link>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a netlink socket")?;
            let task = tokio::spawn(connection);
            let links = list(&handle).await;
            task.abort();
            links
        })
    };
    thread::scope(|scope| {
        let asked = scope.spawn(ask).join();
        asked.unwrap_or_else(|_| Err(anyhow!("the thread has failed")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 4;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_vlan_device_is_above_another_one_of_its_own_namespace_only() {
        let data = InfoData::Vlan(vec![InfoVlan::Id(30)]);
        let vlan = LinkAttribute::LinkInfo(vec![LinkInfo::Data(data)]);
        let mut attributes = vec![LinkAttribute::Link(7), vlan];
        let link = Link::from_message(message(attributes.clone()));
        assert_eq!((link.below, link.vlan), (Some(7), Some((7, 30))));
        attributes.push(LinkAttribute::LinkNetNsId(1));
        let link = Link::from_message(message(attributes));
        assert_eq!((link.below, link.vlan), (None, None));
    }

    #[test]
    fn the_peer_of_a_veth_is_not_below_it() {
        let veth = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        let link = Link::from_message(message(vec![LinkAttribute::Link(7), veth]));
        assert_eq!((link.below, link.is_bond), (None, false));
    }

    #[test]
    fn only_six_bytes_that_are_not_zero_are_a_mac_address() {
        let of = |bytes: &[u8]| {
            Link::from_message(message(vec![LinkAttribute::Address(bytes.to_vec())])).mac
        };
        assert_eq!(of(&[2, 0, 0, 0, 0, 9]), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(of(&[0; 6]), None);
        assert_eq!(of(&[10, 0, 0, 1]), None);
    }
}
