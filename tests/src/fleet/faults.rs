//! Faults of a site's processes, one at a time.

use std::{fs, path::PathBuf};

use anyhow::Result;

use super::Fleet;

impl Fleet {
    /// Returns the names of the backends.
    pub fn names(&self) -> Vec<&'static str> {
        self.plan.backends.iter().map(|(name, _)| *name).collect()
    }

    /// Kills a backend's chat server with SIGKILL.
    pub fn kill_server(&mut self, index: usize) {
        if let Some(mut chat) = self.servers[index].chat.take() {
            chat.kill();
        }
    }

    /// Kills a backend's beacon with SIGKILL.
    pub fn kill_beacon(&mut self, index: usize) {
        if let Some(mut beacon) = self.servers[index].beacon.take() {
            beacon.kill();
        }
    }

    /// Sends a signal to a backend's chat server.
    pub fn signal_server(&self, index: usize, signal: i32) {
        if let Some(chat) = &self.servers[index].chat {
            chat.signal(signal);
        }
    }

    /// Sends a signal to a backend's beacon.
    pub fn signal_beacon(&self, index: usize, signal: i32) {
        if let Some(beacon) = &self.servers[index].beacon {
            beacon.signal(signal);
        }
    }

    /// Switches the drain file of a watched backend's beacon.
    pub fn drain_by_beacon(&self, index: usize, drains: bool) -> Result<()> {
        let file: PathBuf = self.path(&format!("{}.drain", self.names()[index]));
        if drains {
            fs::write(file, "")?;
        } else {
            fs::remove_file(file)?;
        }
        Ok(())
    }
}
