//! The writer thread, which appends events and syncs when its queue is empty.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::{error, info, warn};

use super::{Event, Limits, Message, Record, line, read};
use crate::durable;

/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// End of the journal.
pub(super) struct Writer {
    folder: PathBuf,
    limits: Limits,
    end: Option<End>,
    /// Number of events lost since the last one written.
    lost: u64,
    failed: Option<Instant>,
    files_begun: Arc<AtomicU64>,
}

struct End {
    file: File,
    bytes: u64,
    seq: u64,
    hash: String,
}

impl Writer {
    pub(super) fn new(folder: &Path, limits: Limits, files_begun: Arc<AtomicU64>) -> Self {
        Self {
            folder: folder.to_owned(),
            limits,
            end: None,
            lost: 0,
            failed: None,
            files_begun,
        }
    }

    /// Processes messages until all senders are gone.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let mut flushes = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Write { at, micros, event } => self.append(at, micros, *event),
                    Message::Flush(done) => flushes.push(done),
                    Message::Limits(limits) => self.limits = limits,
                }
                next = messages.try_recv().ok();
            }
            if let Some(Err(error)) = self.end.as_ref().map(|end| end.file.sync_data()) {
                self.give_up(&error);
            }
            for done in flushes {
                let _ = done.send(());
            }
        }
    }

    /// Opens the end of the journal, and returns the number of torn bytes truncated.
    pub(super) fn open_or_complain(&mut self) -> u64 {
        match self.open() {
            Ok((end, cut)) => {
                if cut > 0 {
                    warn!(
                        bytes = cut,
                        "the last line of the journal was torn, and is truncated"
                    );
                }
                self.end = Some(end);
                cut
            }
            Err(error) => {
                self.give_up(&error);
                0
            }
        }
    }

    fn append(&mut self, at: SystemTime, t: u64, event: Event) {
        let waits = self.failed.is_some_and(|at| at.elapsed() < RETRY);
        if self.end.is_none()
            && (waits || {
                self.open_or_complain();
                self.end.is_none()
            })
        {
            self.lost += 1;
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        let written = match lost {
            0 => Ok(()),
            lost => self.write(at, t, Event::Gap { lost }),
        };
        match written.and_then(|()| self.write(at, t, event)) {
            Ok(()) => {
                if self.failed.take().is_some() {
                    info!(lost, "the journal is writable again");
                }
            }
            Err(error) => {
                self.lost = lost + 1;
                self.give_up(&error);
            }
        }
    }

    fn write(&mut self, at: SystemTime, t: u64, event: Event) -> io::Result<()> {
        self.rotate()?;
        let Some(end) = &mut self.end else {
            return Err(io::Error::other("not open"));
        };
        let record = Record {
            prev: end.hash.clone(),
            seq: end.seq + 1,
            at,
            t,
            event,
        };
        let (text, hash) = line::encode(&record)?;
        end.file.write_all(text.as_bytes())?;
        end.bytes += text.len() as u64;
        end.seq = record.seq;
        end.hash = hash;
        Ok(())
    }

    /// Starts the next file once this one is full.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(end) = self.end.take_if(|end| end.bytes >= self.limits.file_bytes) else {
            return Ok(());
        };
        end.file.sync_data()?;
        self.end = Some(self.start_file(end.seq, end.hash)?);
        let files = read::files(&self.folder)?;
        let surplus = files.len().saturating_sub(self.limits.files.max(1));
        for (_, path) in files.into_iter().take(surplus) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// A partial line is truncated when the journal is opened again.
    fn give_up(&mut self, error: &io::Error) {
        if self.failed.is_none() {
            error!(
                folder = %self.folder.display(),
                %error,
                "the journal cannot be written; steering continues without it until there is space"
            );
        }
        self.end = None;
        self.failed = Some(Instant::now());
    }

    fn start_file(&self, seq: u64, hash: String) -> io::Result<End> {
        let path = read::path(&self.folder, seq + 1);
        let file = open(&path)?;
        durable::sync_folder(&path)?;
        let bytes = file.metadata()?.len();
        self.files_begun.fetch_add(1, Ordering::Relaxed);
        Ok(End {
            file,
            bytes,
            seq,
            hash,
        })
    }

    /// Finds the last line, and truncates what follows it.
    fn open(&self) -> io::Result<(End, u64)> {
        durable::folder(&self.folder)?;
        let mut cut = 0;
        for (first, path) in read::files(&self.folder)?.into_iter().rev() {
            let mut file = open(&path)?;
            let mut text = Vec::new();
            file.seek(SeekFrom::Start(0))?;
            file.read_to_end(&mut text)?;
            let whole = text
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |at| at + 1);
            if whole < text.len() {
                file.set_len(whole as u64)?;
                file.sync_all()?;
                cut += (text.len() - whole) as u64;
            }
            let lines: Vec<_> = text[..whole].split_inclusive(|b| *b == b'\n').collect();
            let Some(last) = lines.last() else {
                // The file was started and has no line.
                std::fs::remove_file(&path)?;
                continue;
            };
            let found = line::decode(&last[..last.len() - 1]);
            // A modified line stays for `verify` to find; new lines follow it.
            let seq = match &found.record {
                Ok(record) if found.holds() => record.seq,
                _ => first + lines.len() as u64 - 1,
            };
            let end = End {
                file,
                bytes: whole as u64,
                seq,
                hash: found.computed,
            };
            return Ok((end, cut));
        }
        Ok((self.start_file(0, line::ORIGIN.to_owned())?, cut))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    durable::open(&mut options, path)
}
