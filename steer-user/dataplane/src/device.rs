//! Synchronous rtnetlink queries about one interface.

use std::thread;

use anyhow::{Context, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, new_connection,
    packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};
use steer_core::dataplane::AttachedMode;
use tokio::runtime;

/// Properties of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Index.
    pub index: u32,
    /// Device kind, if it is not a network card.
    pub kind: Option<String>,
    /// Lower device, for VLAN devices and the like.
    pub below: Option<String>,
    /// Indexes of the ports of a bond.
    pub ports: Vec<u32>,
    /// XDP program attached to it.
    pub program: Option<Attached>,
}

/// An XDP program that is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Attach mode.
    pub mode: AttachedMode,
    /// Program id, as shown by `bpftool prog`.
    pub id: u32,
}

impl Device {
    /// Queries an interface of this thread's network namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no interface of that name, or the kernel does not answer.
    pub fn find(name: &str) -> Result<Self> {
        // The caller may be inside asynchronous code, so the query runs on a thread of its own. A
        // new thread inherits the network namespace.
        thread::scope(|scope| {
            let asked = scope.spawn(|| -> Result<Self> {
                let runtime = runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(query(name))
            });
            asked
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread has failed")))
        })
        .with_context(|| format!("interface {name}"))
    }

    /// Returns the reason not to attach a program, with advice, if there is one.
    pub(super) fn refusal(&self, name: &str, generic: bool) -> Option<String> {
        let below = self.below.as_deref();
        match (self.kind.as_deref(), below) {
            (Some("vlan"), Some(below)) if !generic => Some(format!(
                "a VLAN device has no native XDP: its packets arrive on {below}. Write {below:?} \
                 instead of {name:?} in `interfaces`: steer handles VLAN tags in both directions"
            )),
            (Some("macvlan" | "ipvlan"), Some(below)) if !generic => Some(format!(
                "its packets arrive on {below}, where native XDP sees them first. Write {below:?} \
                 in `interfaces`, or set `xdp_mode = \"generic\"`"
            )),
            _ => None,
        }
    }
}

async fn query(name: &str) -> Result<Device> {
    let (connection, handle, _) = new_connection().context("cannot open a netlink socket")?;
    let task = tokio::spawn(connection);
    let device = find(&handle, name).await;
    task.abort();
    device
}

async fn find(handle: &Handle, name: &str) -> Result<Device> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    let link = found.try_next().await;
    let link = link
        .map_err(|error| anyhow!("{error}; `ip link` lists all interfaces"))?
        .context("it does not exist; `ip link` lists all interfaces")?;
    let (mut device, below) = read(&link);
    if let Some(index) = below {
        // An interface of another namespace has no name here.
        let mut links = handle.link().get().match_index(index).execute();
        device.below = links.try_next().await.ok().flatten().and_then(name_of);
    }
    if device.kind.as_deref() == Some("bond") {
        let mut all = handle.link().get().execute();
        while let Some(link) = all.try_next().await? {
            let belongs = |a: &LinkAttribute| *a == LinkAttribute::Controller(device.index);
            if link.attributes.iter().any(belongs) {
                device.ports.push(link.header.index);
            }
        }
    }
    Ok(device)
}

/// Parses one message; returns the device and the index of the lower device.
fn read(link: &LinkMessage) -> (Device, Option<u32>) {
    let mut device = Device {
        index: link.header.index,
        ..Device::default()
    };
    let mut below = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                device.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => device.program = attached(attributes),
            _ => (),
        }
    }
    // A veth reports its peer in the same attribute.
    let below = below.filter(|_| device.kind.as_deref() != Some(&InfoKind::Veth.to_string()));
    (device, below)
}

fn attached(attributes: &[LinkXdp]) -> Option<Attached> {
    let (mut mode, mut id) = (None, None);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => return None,
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(AttachedMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(AttachedMode::Generic),
            LinkXdp::Attached(_) => mode = Some(AttachedMode::Other),
            LinkXdp::ProgId(number) => id = Some(*number),
            LinkXdp::DrvProgId(number) | LinkXdp::SkbProgId(number) => {
                id = id.or(Some(*number));
            }
            _ => (),
        }
    }
    Some(Attached {
        mode: mode?,
        id: id?,
    })
}

fn name_of(link: LinkMessage) -> Option<String> {
    link.attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(kind: InfoKind, below: Option<u32>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = 5;
        let infos = vec![LinkInfo::Kind(kind)];
        link.attributes = vec![LinkAttribute::LinkInfo(infos)];
        link.attributes.extend(below.map(LinkAttribute::Link));
        link
    }

    #[test]
    fn what_lies_on_another_device_is_refused_and_that_one_named() {
        let (mut vlan, below) = read(&kind(InfoKind::Vlan, Some(3)));
        assert_eq!((vlan.index, below), (5, Some(3)));
        vlan.below = Some("eth0".to_owned());
        let said = vlan.refusal("eth0.30", false).unwrap();
        assert!(
            said.contains("Write \"eth0\" instead of \"eth0.30\""),
            "{said}"
        );
        assert_eq!(vlan.refusal("eth0.30", true), None);
        let (bond, _) = read(&kind(InfoKind::Bond, None));
        assert_eq!(bond.refusal("bond0", false), None);
        // The link of a veth is its peer.
        assert_eq!(read(&kind(InfoKind::Veth, Some(7))).1, None);
    }

    #[test]
    fn how_a_program_is_attached_is_read() {
        let mut link = kind(InfoKind::Veth, None);
        assert_eq!(read(&link).0.program, None);
        let xdp = vec![
            LinkXdp::Attached(XdpAttached::SocketBuffer),
            LinkXdp::ProgId(42),
            LinkXdp::SkbProgId(42),
        ];
        link.attributes.push(LinkAttribute::Xdp(xdp));
        let generic = Attached {
            mode: AttachedMode::Generic,
            id: 42,
        };
        assert_eq!(read(&link).0.program, Some(generic));
        let none = vec![LinkXdp::Attached(XdpAttached::None)];
        *link.attributes.last_mut().unwrap() = LinkAttribute::Xdp(none);
        assert_eq!(read(&link).0.program, None);
    }
}
