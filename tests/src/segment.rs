//! Links shared by more than two hosts.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use anyhow::Result;

use crate::netns::Namespace;
use crate::pass::Pass;
use crate::veth::{End, Veth};

const BRIDGE: &str = "switch";

/// A switch in a namespace of its own, which joins the two ends of a link and further hosts.
pub struct Segment {
    // Dropped before the namespace of their interfaces.
    passes: Mutex<Vec<Pass>>,
    ports: AtomicU8,
    namespace: Namespace,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Joins two ends, of which the first one runs the program under test.
    ///
    /// # Errors
    ///
    /// Returns an error if devices cannot be created.
    pub fn between(a: End<'_>, b: End<'_>) -> Result<Self> {
        let namespace = Namespace::create("segment")?;
        namespace.run(&["ip", "link", "add", BRIDGE, "type", "bridge"])?;
        namespace.run(&["ip", "link", "set", BRIDGE, "up"])?;
        let first = plug(&namespace, 0, a)?;
        // Frames that a program sends back by XDP_TX reach only a peer with a program.
        let segment = Self {
            passes: Mutex::new(vec![Pass::attach(&namespace, &first)?]),
            ports: AtomicU8::new(1),
            namespace,
        };
        segment.plug_in(b)?;
        a.resolve(&b)?;
        b.resolve(&a)?;
        Ok(segment)
    }

    /// Plugs in another host. It resolves its neighbours itself.
    ///
    /// # Errors
    ///
    /// Returns an error if the devices cannot be created.
    pub fn plug_in(&self, end: End<'_>) -> Result<()> {
        plug(&self.namespace, self.ports.fetch_add(1, Relaxed), end).map(drop)
    }

    /// Plugs in another host that runs the program under test.
    ///
    /// # Errors
    ///
    /// Returns an error if the devices cannot be created.
    pub fn plug_in_node(&self, end: End<'_>) -> Result<()> {
        let port = plug(&self.namespace, self.ports.fetch_add(1, Relaxed), end)?;
        let pass = Pass::attach(&self.namespace, &port)?;
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.push(pass);
        Ok(())
    }

    /// Makes the switch flood every frame to all ports, like one without known addresses.
    ///
    /// # Errors
    ///
    /// Returns an error if the switch is gone.
    pub fn flood(&self) -> Result<()> {
        let flood = [
            "ip",
            "link",
            "set",
            BRIDGE,
            "type",
            "bridge",
            "ageing_time",
            "0",
        ];
        self.namespace.run(&flood).map(drop)
    }
}

/// Connects an end to a port of the switch, and returns the port's name.
fn plug(switch: &Namespace, number: u8, end: End<'_>) -> Result<String> {
    let port = format!("port{number}");
    Veth::pair([end.namespace, switch], [end.name, &port])?;
    // A checksum left to the device is lost in a program.
    let offloads = ["tx", "off", "gro", "off"];
    for (namespace, device) in [(end.namespace, end.name), (switch, port.as_str())] {
        namespace.run(&[&["ethtool", "-K", device], &offloads[..]].concat())?;
    }
    switch.run(&["ip", "link", "set", &port, "master", BRIDGE, "up"])?;
    end.configure()?;
    // Gives the port the receive queue for frames sent by XDP.
    switch.run(&["ethtool", "-K", &port, "gro", "on"])?;
    Ok(port)
}
