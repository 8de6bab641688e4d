//! The journal: every change of steering as one line of JSON, chained by SHA-256, in rotated files
//! of the state directory.
//!
//! A line is `{"hash":H,"prev":P,"seq":N,"at":…,"t":…,"event":…}`. H is the digest of everything
//! after it in the line, P is the H of the previous line: changing, removing or inserting a line
//! requires changing all lines after it.

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

pub use self::event::{Base, Event, Input, Judged, Outcome, Probe, ReplanCause};
pub use self::line::Record;
pub use self::read::{Damage, Located, Verified, records, verify};
use self::write::Writer;

/// Size limits of the journal.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// File size in bytes from which a new file is started.
    pub file_bytes: u64,
    /// Number of files to keep, including the current one.
    pub files: usize,
}

impl Limits {
    /// Returns limits for a total of about this many bytes, in eight files.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self {
            file_bytes: (bytes / 8).max(1 << 12),
            files: 8,
        }
    }
}

/// Returns the journal's folder in a state directory.
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

/// Handle for appending events, which never waits for the disk: a thread of its own writes them.
#[derive(Clone, Debug)]
pub struct Journal {
    writer: Option<Sender<Message>>,
    epoch: Instant,
    files_begun: Arc<AtomicU64>,
    watchers: Arc<dyn Watchers>,
}

/// Clients that watch events while they happen.
pub trait Watchers: std::fmt::Debug + Send + Sync {
    /// Returns whether there is any.
    fn are_there(&self) -> bool;

    /// Sends an event to all, as a JSON object with its time in `at`, without waiting.
    fn send(&self, change: Value);
}

/// Watchers of a journal that nobody can watch.
#[derive(Debug)]
struct NoWatchers;

impl Watchers for NoWatchers {
    fn are_there(&self) -> bool {
        false
    }

    fn send(&self, _change: Value) {}
}

/// Form of an event for watchers.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(with = "humantime_serde")]
    at: SystemTime,
    #[serde(flatten)]
    event: &'a Event,
}

impl Journal {
    /// Creates a journal that stores nothing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            writer: None,
            epoch: Instant::now(),
            files_begun: Arc::default(),
            watchers: Arc::new(NoWatchers),
        }
    }

    /// Opens the journal in a folder, which is created if missing. A last line torn by a crash is
    /// truncated; the second value is the number of its bytes. While the folder is not writable,
    /// events are counted, and the journal records their number once it is.
    ///
    /// # Errors
    ///
    /// Returns an error if no thread can be started.
    pub fn open(folder: &Path, limits: Limits) -> Result<(Self, u64)> {
        let (sender, messages) = channel();
        let files_begun = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::new(folder, limits, Arc::clone(&files_begun));
        let cut = writer.open_or_complain();
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&messages))
            .context("cannot start the journal's thread")?;
        let journal = Self {
            writer: Some(sender),
            epoch: Instant::now(),
            files_begun,
            watchers: Arc::new(NoWatchers),
        };
        Ok((journal, cut))
    }

    /// Returns whether events are stored.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Converts a time to microseconds since the journal was opened: the clock of its records.
    #[must_use]
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// Converts microseconds of that clock to a time.
    #[must_use]
    pub fn instant(&self, micros: u64) -> Instant {
        self.epoch + Duration::from_micros(micros)
    }

    /// Returns the number of files started. Old files are removed, and with them the context of
    /// later lines: when this number changes, that context must be written again.
    #[must_use]
    pub fn files_begun(&self) -> u64 {
        self.files_begun.load(Ordering::Relaxed)
    }

    /// Appends an event that happens now.
    pub fn record(&self, event: Event) {
        self.write(Instant::now(), event);
    }

    /// Appends an event with its time.
    pub fn write(&self, at: Instant, event: Event) {
        if self.watchers.are_there() {
            let at = SystemTime::now();
            let change = serde_json::to_value(Change { at, event: &event });
            self.watchers.send(change.unwrap_or_default());
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

    /// Sends new events to `watchers` as well. Handles cloned before do not.
    #[must_use]
    pub fn watched_by(self, watchers: Arc<dyn Watchers>) -> Self {
        Self { watchers, ..self }
    }

    /// Changes the size limits.
    pub fn set_limits(&self, limits: Limits) {
        if let Some(writer) = &self.writer {
            let _ = writer.send(Message::Limits(limits));
        }
    }

    /// Waits until everything appended is on disk, or was given up.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            let (done, wait) = sync_channel(1);
            if writer.send(Message::Flush(done)).is_ok() {
                let _ = wait.recv();
            }
        }
    }
}
