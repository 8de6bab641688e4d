//! Frames for other hosts: flooded frames, broadcast and multicast are not packets of a service.

use crate::{
    abi::{first_mac, node_mac_index},
    frame::Frame,
    tables::Tables,
};

/// Returns whether a frame is for one of the node's MAC addresses. Before the daemon has set these,
/// every frame is.
#[inline(always)]
pub fn is_for_node<F: Frame, T: Tables>(frame: &F, tables: &T) -> bool {
    let seed = tables.config().map_or(0, |config| config.mac_seed);
    if seed == 0 {
        return true;
    }
    let Some(word) = frame.load(0) else {
        return true;
    };
    let mac = first_mac(word);
    tables.node_mac(node_mac_index(mac, seed)) == Some(mac)
}
