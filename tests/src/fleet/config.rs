//! Configuration of the daemon.

use std::net::SocketAddr;

use super::{BEACON, Fleet, HTTP, HTTPS, SOURCES, TUNNEL};
use crate::topology::NODE_CLIENT_PORT;

impl Fleet {
    /// Returns the configuration for the site's plan. Unless the plan asks for defaults, weights
    /// follow at once instead of after half a minute.
    pub fn config(&self) -> String {
        let folder = self.folder.path().display();
        let names: Vec<&str> = self.plan.backends.iter().map(|(name, _)| *name).collect();
        let balance = if self.plan.defaults {
            ""
        } else {
            "[balance]\ninterval = \"100ms\"\nslow_start = \"0s\"\nmax_shift = 100\n\n"
        };
        let mut interfaces = vec![NODE_CLIENT_PORT];
        interfaces.extend(self.site.backends.iter().map(|b| b.node_port.as_str()));
        let mut text = format!(
            "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = {interfaces:?}\n\
             state_dir = \"{folder}/state\"\nsocket = \"{}\"\nbpffs = \"{}\"\n\
             flow_seed_file = \"{folder}/flow.seed\"\n\n\
             {balance}[nat]\naddresses = {SOURCES:?}\n\n[encap]\nsources = {SOURCES:?}\n\n\
             [probe]\nca = \"{folder}/pki/ca.pem\"\ncert = \"{folder}/pki/edge.pem\"\n\
             key = \"{folder}/pki/edge.key\"\n",
            self.socket().display(),
            self.bpffs.path().display(),
        );
        for (index, (backend, name)) in self.site.backends.iter().zip(&names).enumerate() {
            let address = self.address(backend);
            let beacon = SocketAddr::new(address, BEACON);
            text += &format!(
                "\n[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\nmode = \"{}\"\n\
                 beacon = \"{beacon}\"\n",
                self.mode(index)
            );
        }
        let tunnelled = &self.plan.tunnelled;
        let others: Vec<_> = names.iter().filter(|n| !tunnelled.contains(n)).collect();
        let mut pools = vec![("all", others, vec![("chat", HTTP), ("chat-tls", HTTPS)])];
        if !tunnelled.is_empty() {
            let members = tunnelled.iter().collect();
            pools.push(("tunnelled", members, vec![("tunnel", TUNNEL)]));
        }
        for (pool, members, services) in pools {
            text += &format!("\n[[pool]]\nname = \"{pool}\"\nbackends = {members:?}\n");
            for (name, port) in services {
                text += &format!(
                    "\n[[service]]\nname = \"{name}\"\naddress = \"{}\"\nport = {port}\n\
                     pools = [\"{pool}\"]\n",
                    self.vip()
                );
            }
        }
        text
    }
}
