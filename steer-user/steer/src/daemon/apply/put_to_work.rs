//! Putting a configuration to work.

use std::time::Instant;

use steer_core::{config::Config, journal::Limits};
use steer_dataplane::interface_index;
use steer_probe::probe::channel;
use tracing::error;

use crate::daemon::{
    event_loop::{Daemon, MEASUREMENTS, targets},
    interfaces::attach,
};

impl Daemon {
    /// Puts a configuration to work, whole or not at all.
    pub(crate) fn put_to_work(&mut self, config: Config) -> anyhow::Result<()> {
        // All that can fail comes before the first change.
        for interface in &config.node.interfaces {
            interface_index(interface)?;
        }
        // What the probers of before still have to say may be of backends that moved.
        let (measured, measurements) = channel(MEASUREMENTS);
        let probers = self.probing.spawn(&config, &measured)?;
        let before = self.controller.view().config().clone();
        let now = Instant::now();
        let done = self.controller.reconfigure(config, now).and_then(|()| {
            let config = self.controller.view().config().clone();
            let maps = &mut self.controller.dataplane;
            attach(&mut self.attacher, maps, &mut self.own_links, &config)
        });
        let attached = match done {
            Ok(attached) => attached,
            Err(error) => {
                probers.into_iter().for_each(|prober| prober.abort());
                let back = self.controller.reconfigure(before.clone(), now);
                let maps = &mut self.controller.dataplane;
                let attached = attach(&mut self.attacher, maps, &mut self.own_links, &before);
                match back.and(attached) {
                    Ok(attached) => self.attached = attached,
                    Err(error) => error!(error = format!("{error:#}"), "cannot go back either"),
                }
                return Err(error);
            }
        };
        self.attached = attached;
        for prober in std::mem::replace(&mut self.probers, probers) {
            prober.abort();
        }
        self.measurements = measurements;
        let config = self.controller.view().config();
        self.store.set_keep(config.node.generations);
        self.journal
            .set_limits(Limits::from_bytes(config.node.journal_bytes));
        self.targets.send_replace(targets(config));
        (self.configured)(config);
        self.metrics.configured(config);
        self.name_for_traces();
        Ok(())
    }
}
