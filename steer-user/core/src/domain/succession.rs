//! The router that answers go to, where another one took over from the one that a client's packets came from.

use serde::{Deserialize, Serialize};

/// A router, as frames go to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterPort {
    /// The number of the interface.
    pub interface: u32,
    /// The MAC address.
    pub mac: String,
}

/// Chooses where a gateway takes over from a router: on the router's interface if it is there, else anywhere.
pub fn choose<T>(interface: u32, ports: &[T], interface_of: impl Fn(&T) -> u32) -> Option<&T> {
    let same = ports.iter().find(|port| interface_of(port) == interface);
    same.or_else(|| ports.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_interface_comes_first() {
        let ports = [3, 4, 4].map(|interface| RouterPort {
            interface,
            mac: format!("02:00:00:00:00:0{interface}"),
        });
        let chosen = |interface| choose(interface, &ports, |port| port.interface);
        assert_eq!(chosen(4), Some(&ports[1]));
        assert_eq!(chosen(9), Some(&ports[0]));
        assert_eq!(choose(9, &[], |port: &RouterPort| port.interface), None);
    }
}
