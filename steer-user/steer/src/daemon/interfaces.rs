//! The interfaces of the configuration: attached to, and attached to again when they come back.

use std::time::Duration;

use anyhow::Result;
use steer_core::{
    config::{Config, Node, XdpMode},
    control::Attachment,
    dataplane::SteeringTables as _,
};
use steer_dataplane::{Attacher, Changes, Device, FrameFilter, KernelMaps, OwnLinks};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::{info, warn};

use super::event_loop::{Daemon, targets};

/// Wait after a change: changes of links come in bursts, and one look answers them all.
const SETTLE: Duration = Duration::from_millis(20);

/// Attaches to the interfaces of the configuration, and to no other.
pub(crate) fn attach(
    attacher: &mut Attacher,
    maps: &mut KernelMaps,
    own_links: &mut OwnLinks,
    config: &Config,
) -> Result<Vec<Attachment>> {
    // Before the first packet: where the program does not know its addresses yet it takes no frame.
    refresh_own_links(own_links, maps, &frame_filter(&config.node), 0);
    // A name that is wrong shows before anything is attached.
    for interface in &config.node.interfaces {
        add_ports(maps, &Device::find(interface)?)?;
    }
    let generic = config.node.xdp_mode == XdpMode::Generic;
    let mut attached = Vec::new();
    for interface in &config.node.interfaces {
        attached.push(attach_to(attacher, interface, generic)?);
    }
    for interface in attacher.interfaces() {
        if !config.node.interfaces.contains(&interface) {
            attacher.detach(&interface)?;
            info!(interface, "detached: the configuration does not name it");
        }
    }
    Ok(attached)
}

/// Writes what packets have to know of interfaces. `event` counts the events of interfaces.
fn refresh_own_links(
    own_links: &mut OwnLinks,
    maps: &mut KernelMaps,
    filter: &FrameFilter,
    event: u64,
) {
    if let Err(error) = own_links.refresh(maps, filter, event) {
        let error = format!("{error:#}");
        warn!(error, "cannot keep the MAC addresses of this node current");
    }
}

fn frame_filter(node: &Node) -> FrameFilter {
    FrameFilter {
        interfaces: node.interfaces.clone(),
        macs: node.macs.clone(),
        accepts_any: node.accept_any_mac,
    }
}

fn attach_to(attacher: &mut Attacher, interface: &str, generic: bool) -> Result<Attachment> {
    attacher.attach(interface, generic)?;
    let device = Device::find(interface)?;
    if generic {
        warn!(
            interface,
            "attached in generic mode, as `xdp_mode` says: each packet costs several times what it does \
             in the driver"
        );
    }
    Ok(Attachment {
        interface: interface.to_owned(),
        index: Some(device.index),
        mode: device.program.map(|program| program.mode),
        failure: None,
    })
}

/// Lets packets be redirected to an interface, and to those that belong to it: packets that come in
/// by a bond come in by one of its devices, and answers of `nat` go back there.
fn add_ports(maps: &mut KernelMaps, device: &Device) -> Result<()> {
    for index in [device.index].iter().chain(&device.ports) {
        maps.add_egress_interface(*index)?;
    }
    Ok(())
}

/// Tells when links may have changed. Nothing waits for it: what changes meanwhile is one change.
pub(crate) fn changes(mut links: watch::Receiver<Changes>) -> mpsc::Receiver<()> {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut seen = links.borrow_and_update().others;
        while links.changed().await.is_ok() {
            sleep(SETTLE).await;
            let now = links.borrow_and_update().others;
            // Neighbours change all the time.
            if std::mem::replace(&mut seen, now) == now {
                continue;
            }
            if tell.send(()).await.is_err() {
                return;
            }
        }
    });
    told
}

impl Daemon {
    /// Pins again what was removed, and attaches to interfaces that came back, be it another one with the same name
    /// or the same one renamed away and back.
    pub(crate) fn watch_interfaces(&mut self) {
        // Before one that came back is attached to.
        self.refresh_own_links();
        let mut changed = false;
        let unpinned = match self.attacher.repin() {
            Ok(0) => None,
            Ok(missing) => {
                warn!(
                    missing,
                    "pins were removed under the daemon, and are pinned again"
                );
                None
            }
            Err(error) => Some(format!(
                "pins were removed and cannot be made again: {error:#}"
            )),
        };
        for number in 0..self.attached.len() {
            let interface = self.attached[number].interface.clone();
            let is_attached = self.attacher.is_attached(&interface);
            let before = &self.attached[number];
            let now = match &is_attached {
                Ok(Some(true)) if before.failure.is_none() => continue,
                Ok(Some(true)) => seen(interface),
                Ok(None) => Attachment {
                    index: None,
                    mode: None,
                    failure: Some("there is no such interface".to_owned()),
                    interface,
                },
                Ok(Some(false)) => match &unpinned {
                    // Without its pin a link would end with this process.
                    Some(why) => Attachment {
                        index: None,
                        mode: None,
                        failure: Some(why.clone()),
                        interface,
                    },
                    None => self.attach_again(interface),
                },
                Err(error) => failed(interface, error),
            };
            let before = &mut self.attached[number];
            let is_other = *before != now;
            match &now.failure {
                // A link that ended with its pin leads to the same state as before.
                None if is_other || matches!(is_attached, Ok(Some(false))) => info!(
                    interface = now.interface,
                    index = now.index,
                    "attached again"
                ),
                Some(failure) if is_other => warn!(
                    interface = now.interface,
                    failure, "not attached: packets that come in by it are not steered"
                ),
                _ => {}
            }
            if !is_other {
                continue;
            }
            *before = now;
            changed = true;
        }
        if changed {
            self.targets
                .send_replace(targets(self.controller.view().config()));
        }
        self.refresh_icmp_sources();
    }

    fn refresh_own_links(&mut self) {
        let event = self.link_events.borrow().links;
        let filter = frame_filter(&self.controller.view().config().node);
        let maps = &mut self.controller.dataplane;
        refresh_own_links(&mut self.own_links, maps, &filter, event);
    }

    fn refresh_icmp_sources(&mut self) {
        let config = self.controller.view().config();
        let interfaces = config.node.interfaces.clone();
        let services = config
            .services
            .iter()
            .map(|service| service.address)
            .collect();
        let maps = &mut self.controller.dataplane;
        if let Err(error) = self.icmp_sources.refresh(maps, &interfaces, &services) {
            let error = format!("{error:#}");
            warn!(error, "cannot keep the sources of ICMP errors current");
        }
    }

    fn attach_again(&mut self, interface: String) -> Attachment {
        let generic = self.controller.view().config().node.xdp_mode == XdpMode::Generic;
        let maps = &mut self.controller.dataplane;
        let attached = Device::find(&interface)
            .and_then(|device| add_ports(maps, &device))
            .and_then(|()| attach_to(&mut self.attacher, &interface, generic));
        attached.unwrap_or_else(|error| failed(interface, &error))
    }
}

/// An interface that the program is attached to, as the kernel has it.
fn seen(interface: String) -> Attachment {
    match Device::find(&interface) {
        Ok(device) => Attachment {
            index: Some(device.index),
            mode: device.program.map(|program| program.mode),
            failure: None,
            interface,
        },
        Err(error) => failed(interface, &error),
    }
}

fn failed(interface: String, error: &anyhow::Error) -> Attachment {
    Attachment {
        index: None,
        mode: None,
        failure: Some(format!("{error:#}")),
        interface,
    }
}
