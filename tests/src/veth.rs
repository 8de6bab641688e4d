//! Links between namespaces.

use anyhow::Result;

use crate::netns::Namespace;

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Namespace of the end.
    pub namespace: &'a Namespace,
    /// Name of the interface there.
    pub name: &'a str,
    /// Hardware address of the interface.
    pub mac: &'a str,
    /// Addresses with prefix lengths, IPv4 and IPv6.
    pub addresses: &'a [&'a str],
    /// Whether to enable GRO, which is needed on the peer of a port that XDP redirects to.
    pub gro: bool,
}

impl End<'_> {
    /// Adds the interface's addresses, without duplicate detection, and sets it up.
    pub(crate) fn configure(&self) -> Result<()> {
        let run = |command: &[&str]| self.namespace.run(command);
        run(&["ip", "link", "set", self.name, "address", self.mac, "up"])?;
        for address in self.addresses {
            let mut command = vec!["ip", "addr", "add", address, "dev", self.name];
            command.extend(address.contains(':').then_some("nodad"));
            run(&command)?;
        }
        Ok(())
    }

    /// Makes the other end's addresses permanent neighbours.
    pub(crate) fn resolve(&self, other: &Self) -> Result<()> {
        for address in other.addresses {
            let address = address.split('/').next().unwrap_or(address);
            self.namespace.run(&[
                "ip",
                "neigh",
                "replace",
                address,
                "lladdr",
                other.mac,
                "dev",
                self.name,
                "nud",
                "permanent",
            ])?;
        }
        Ok(())
    }
}

/// A pair of virtual Ethernet devices, which ends with either namespace.
#[derive(Debug)]
pub struct Veth;

impl Veth {
    /// Joins two namespaces, resolves each end's neighbour and disables checksum offload: native
    /// XDP ignores that a local stack left a checksum to the device.
    pub fn between(a: End<'_>, b: End<'_>) -> Result<()> {
        Self::pair([a.namespace, b.namespace], [a.name, b.name])?;
        for (end, other) in [(a, b), (b, a)] {
            end.namespace
                .run(&["ethtool", "-K", end.name, "tx", "off", "gro", "off"])?;
            end.configure()?;
            end.resolve(&other)?;
        }
        // Only with both ends up does this give an end the receive queue for frames sent by XDP.
        for end in [a, b].iter().filter(|end| end.gro) {
            end.namespace
                .run(&["ethtool", "-K", end.name, "gro", "on"])?;
        }
        Ok(())
    }

    /// Creates the pair, with a name in each of two namespaces.
    pub(crate) fn pair([a, b]: [&Namespace; 2], [name, peer]: [&str; 2]) -> Result<()> {
        a.run(&[
            "ip",
            "link",
            "add",
            name,
            "type",
            "veth",
            "peer",
            "name",
            peer,
            "netns",
            b.name(),
        ])?;
        Ok(())
    }
}
