//! Packets that somebody asks about.

use anyhow::{Context, Result};
use steer_core::control::Interfaces;
use steer_dataplane::interface_index;

use super::event_loop::Daemon;
use crate::explain::{Explanation, PacketQuestion, Question, explain, explain_packet};

impl Daemon {
    /// Explains what happens to a packet of a flow.
    pub(crate) fn explain(&self, question: &Question) -> Explanation {
        let interfaces = self.interfaces();
        let names = self.controller.view().names(&interfaces);
        explain(&self.controller.dataplane, question, &names)
    }

    /// Explains what happens to a packet that comes in by an interface: by the first one if none is named.
    ///
    /// # Errors
    /// If there is no such interface.
    pub(crate) fn explain_packet(
        &self,
        bytes: Vec<u8>,
        interface: Option<String>,
    ) -> Result<Explanation> {
        let first = self
            .controller
            .view()
            .config()
            .node
            .interfaces
            .first()
            .cloned();
        let interface = interface
            .or(first)
            .context("the configuration has no interface; name one")?;
        let question = PacketQuestion {
            bytes,
            interface: interface_index(&interface)?,
        };
        let interfaces = self.interfaces();
        let names = self.controller.view().names(&interfaces);
        Ok(explain_packet(
            &self.controller.dataplane,
            &question,
            &names,
        ))
    }

    /// Interfaces of the configuration that there are, by their indexes.
    fn interfaces(&self) -> Interfaces {
        let names = self.controller.view().config().node.interfaces.iter();
        let indexes = names.filter_map(|name| Some((interface_index(name).ok()?, name.clone())));
        // Of two names with one index the first one is shown.
        indexes.rev().collect()
    }
}
