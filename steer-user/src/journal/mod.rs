//! The journal: every change of steering as one line of JSON, chained by SHA-256, in files of the
//! state directory that are rotated.
//!
//! A line is `{"hash":H,"prev":P,"seq":N,"at":…,"t":…,"event":…}`. H is the digest of all that
//! stands behind it in the line, P the H of the line before: who changes, removes or inserts a line
//! has to change all behind it.

mod event;
mod line;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;

pub use self::event::{Base, Event, Input, Judged, Outcome, Probe, Why};
pub use self::line::Record;
pub use self::read::{Damage, Located, Verified, records, verify};
use self::write::Writer;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes after which a file is ended and the next begun.
    pub file_bytes: u64,
    /// Files that are kept, with the one that is written.
    pub files: usize,
}

impl Limits {
    /// Limits that keep about so many bytes, in eight files.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        Self {
            file_bytes: (bytes / 8).max(1 << 12),
            files: 8,
        }
    }
}

/// Events that wait for those who watch.
pub const CHANGES: usize = 1024;

/// Where a state directory has its journal.
#[must_use]
pub fn folder(state: &Path) -> PathBuf {
    state.join("journal")
}

enum Message {
    Write {
        at: SystemTime,
        micros: u64,
        event: Box<Event>,
    },
    Flush(SyncSender<()>),
    Limits(Limits),
}

/// Takes events, and never waits for the disk: a thread of its own writes them.
#[derive(Clone, Debug)]
pub struct Journal {
    writer: Option<Sender<Message>>,
    epoch: Instant,
    files_begun: Arc<AtomicU64>,
    changes: broadcast::Sender<Value>,
}

/// What those who watch are told of an event.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(with = "humantime_serde")]
    at: SystemTime,
    #[serde(flatten)]
    event: &'a Event,
}

impl Journal {
    /// A journal that keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            writer: None,
            epoch: Instant::now(),
            files_begun: Arc::default(),
            changes: broadcast::Sender::new(CHANGES),
        }
    }

    /// Opens the journal in a folder, which is made if it is not there. A last line that a crash
    /// tore is cut off; the second value is how many bytes that were. While the folder cannot be
    /// written, events are counted, and once it can the journal says how many it lacks.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn open(folder: &Path, limits: Limits) -> Result<(Self, u64)> {
        let (sender, messages) = channel();
        let files_begun = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::new(folder, limits, Arc::clone(&files_begun));
        let cut = writer.open_or_complain();
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&messages))
            .context("no thread for the journal")?;
        let journal = Self {
            writer: Some(sender),
            epoch: Instant::now(),
            files_begun,
            changes: broadcast::Sender::new(CHANGES),
        };
        Ok((journal, cut))
    }

    /// Returns whether anything is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Microseconds from the journal's opening to a time: the clock of its records.
    #[must_use]
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// The time of a number of microseconds: the other way round.
    #[must_use]
    pub fn instant(&self, micros: u64) -> Instant {
        self.epoch + Duration::from_micros(micros)
    }

    /// How many files were begun. Older ones go, and with them what later lines build on: after a
    /// change of this it is to be told again.
    #[must_use]
    pub fn files_begun(&self) -> u64 {
        self.files_begun.load(Ordering::Relaxed)
    }

    /// Appends an event of now.
    pub fn tell(&self, event: Event) {
        self.write(Instant::now(), event);
    }

    /// Appends an event of that time.
    pub fn write(&self, at: Instant, event: Event) {
        if self.changes.receiver_count() > 0 {
            let at = SystemTime::now();
            let change = serde_json::to_value(Change { at, event: &event });
            // Who watched a moment ago may be gone.
            let _ = self.changes.send(change.unwrap_or_default());
        }
        if let Some(writer) = &self.writer {
            // The thread lives as long as there is a sender.
            let _ = writer.send(Message::Write {
                at: SystemTime::now(),
                micros: self.micros(at),
                event: Box::new(event),
            });
        }
    }

    /// Events from now on, as JSON objects with their time in `at`; who is more than [`CHANGES`] behind
    /// is told how many were missed.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Value> {
        self.changes.subscribe()
    }

    /// Changes how much is kept.
    pub fn set_limits(&self, limits: Limits) {
        if let Some(writer) = &self.writer {
            let _ = writer.send(Message::Limits(limits));
        }
    }

    /// Waits until all that was appended is on the disk, or was given up.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            let (done, wait) = sync_channel(1);
            if writer.send(Message::Flush(done)).is_ok() {
                let _ = wait.recv();
            }
        }
    }
}
