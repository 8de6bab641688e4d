//! Packets that somebody asks about.

use anyhow::{Context, Result};

use super::run::Daemon;
use crate::{
    dataplane::interface_index,
    explain::{Explanation, PacketQuestion},
};

impl Daemon {
    /// What happens to a packet that comes in by an interface: by the first one if none is named.
    ///
    /// # Errors
    /// If there is no such interface.
    pub(super) fn explain_packet(
        &self,
        bytes: Vec<u8>,
        interface: Option<String>,
    ) -> Result<Explanation> {
        let first = self.controller.config().node.interfaces.first().cloned();
        let interface = interface
            .or(first)
            .context("the configuration has no interface; name one")?;
        let question = PacketQuestion {
            bytes,
            interface: interface_index(&interface)?,
        };
        Ok(self.controller.explain_packet(&question))
    }
}
