//! Links of devices other than a single veth pair.

use std::process::Command;

use anyhow::Result;

use crate::netns::{Namespace, output};
use crate::veth::{End, Veth};

/// Joins two namespaces by a VLAN: each end is `NAME.ID`, on a device with the end's name.
pub(crate) fn vlan(a: End<'_>, b: End<'_>, id: u16) -> Result<()> {
    Veth::pair([a.namespace, b.namespace], [a.name, b.name])?;
    let tagged = [a, b].map(|end| format!("{}.{id}", end.name));
    for (end, tagged) in [a, b].iter().zip(&tagged) {
        prepare(end.namespace, end.name, end.mac)?;
        // Native XDP loses a tag stored outside the frame, and a checksum left to the device.
        let run = |command: &[&str]| end.namespace.run(command);
        let offloads = ["txvlan", "off", "rxvlan", "off"];
        run(&[&["ethtool", "-K", end.name], &offloads[..]].concat())?;
        run(&[
            "ip",
            "link",
            "add",
            "link",
            end.name,
            "name",
            tagged,
            "type",
            "vlan",
            "id",
            &id.to_string(),
        ])?;
    }
    let [a, b] = [(a, &tagged[0]), (b, &tagged[1])].map(|(end, name)| End { name, ..end });
    finish(a, b)?;
    for (end, name) in [(a, a.name), (b, b.name)] {
        if end.gro {
            let parent = name.split('.').next().unwrap_or(name);
            end.namespace.run(&["ethtool", "-K", parent, "gro", "on"])?;
        }
    }
    Ok(())
}

/// Joins two namespaces by a bond of two pairs of devices.
pub(crate) fn bond(a: End<'_>, b: End<'_>) -> Result<()> {
    for end in [a, b] {
        end.namespace.run(&[
            "ip",
            "link",
            "add",
            end.name,
            "type",
            "bond",
            "mode",
            "balance-xor",
            "miimon",
            "100",
        ])?;
    }
    for number in 0..2 {
        let [name, peer] = [a, b].map(|end| format!("{}_{number}", end.name));
        Veth::pair([a.namespace, b.namespace], [&name, &peer])?;
        for (end, slave) in [(a, &name), (b, &peer)] {
            let run = |command: &[&str]| end.namespace.run(command);
            run(&["ethtool", "-K", slave, "tx", "off", "gro", "off"])?;
            run(&["ip", "link", "set", slave, "master", end.name])?;
            run(&["ip", "link", "set", slave, "up"])?;
        }
    }
    finish(a, b)?;
    for end in [a, b].iter().filter(|end| end.gro) {
        for number in 0..2 {
            let slave = format!("{}_{number}", end.name);
            end.namespace.run(&["ethtool", "-K", &slave, "gro", "on"])?;
        }
    }
    Ok(())
}

/// Joins two namespaces by devices of this one that are joined already.
pub(crate) fn devices(names: &[String; 2], a: End<'_>, b: End<'_>) -> Result<()> {
    for (end, device) in [a, b].iter().zip(names) {
        let mut command = Command::new("ip");
        command.args(["link", "set", device, "netns", end.namespace.name()]);
        output(command.args(["name", end.name]))?;
        prepare(end.namespace, end.name, end.mac)?;
    }
    finish(a, b)
}

/// Sets a device's hardware address, disables its offloads, and sets it up.
fn prepare(namespace: &Namespace, device: &str, mac: &str) -> Result<()> {
    namespace.run(&["ethtool", "-K", device, "tx", "off"])?;
    namespace.run(&["ip", "link", "set", device, "address", mac, "up"])?;
    Ok(())
}

fn finish(a: End<'_>, b: End<'_>) -> Result<()> {
    for (end, other) in [(a, b), (b, a)] {
        end.configure()?;
        end.resolve(&other)?;
    }
    Ok(())
}
