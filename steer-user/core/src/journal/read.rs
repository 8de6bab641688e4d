//! Reading and verification of the journal.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{Record, line};
use crate::durable;

/// Returns the files of a journal with the number of their first line, oldest first.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(number) = first(&path) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the number of a file's first line.
fn first(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".jsonl")?.parse().ok()
}

pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:012}.jsonl"))
}

/// An item of the journal with its position.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// Path of the file.
    pub file: PathBuf,
    /// Line in the file, from 1.
    pub line: usize,
    /// Item.
    pub item: T,
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, item } = self;
        write!(f, "{}:{line}: {item}", file.display())
    }
}

/// Damage of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The line was modified.
    Changed,
    /// The previous line is not the original one.
    Unchained {
        /// Actual and expected sequence number.
        seq: (u64, u64),
    },
    /// The line is unmodified, but unknown to this version.
    Unknown(String),
    /// The line has no end: torn by a crash, or still being written.
    Torn {
        /// Number of bytes.
        bytes: usize,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => write!(f, "this line was modified: its hash does not match"),
            Self::Unchained {
                seq: (is, expected),
            } if is != expected => {
                write!(
                    f,
                    "this is line {is} where {expected} was expected: lines are missing, or were \
                     inserted"
                )
            }
            Self::Unchained { .. } => {
                write!(f, "the previous line is not the original one")
            }
            Self::Unknown(error) => write!(f, "this version does not understand the line: {error}"),
            Self::Torn { bytes } => write!(
                f,
                "the last line has no end ({bytes} bytes); the next start of a daemon truncates it"
            ),
        }
    }
}

/// Result of verification.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Number of intact lines.
    pub good: u64,
    /// Numbers of the first and the last line.
    pub seq: Option<(u64, u64)>,
    /// Hash of the last line: kept elsewhere, it proves later that this journal was not rewritten.
    pub head: Option<String>,
    /// Damage found.
    pub damage: Vec<Located<Damage>>,
    /// A last line without an end.
    pub torn: Option<Located<Damage>>,
    /// Whether a line has the hash searched for.
    pub found: bool,
}

/// Verifies every line of a journal, and searches for a line with the hash `wanted`. Lines before
/// the first stored one count as rotated away.
///
/// # Errors
///
/// Returns an error if a file cannot be read.
pub fn verify(folder: &Path, wanted: Option<&str>) -> io::Result<Verified> {
    let mut verified = Verified::default();
    // Hashes of the previous line, and its number.
    let mut before: Option<([String; 2], u64)> = None;
    for line in Lines::open(folder)? {
        let Located { file, line, item } = line?;
        let located = |item| Located {
            file: file.clone(),
            line,
            item,
        };
        let text = match item {
            Raw::Whole(text) => text,
            Raw::Torn(bytes) => {
                verified.torn = Some(located(Damage::Torn { bytes }));
                continue;
            }
        };
        let found = line::decode(&text);
        let mut good = true;
        if !found.holds() {
            verified.damage.push(located(Damage::Changed));
            good = false;
        }
        let expected = before.as_ref().map(|(_, seq)| seq + 1);
        let mut seq = expected.or(first(&file)).unwrap_or(0);
        match &found.record {
            Ok(record) => {
                let chained = before
                    .as_ref()
                    .is_none_or(|(hashes, _)| hashes.contains(&record.prev));
                let wrong = expected.is_some_and(|e| e != record.seq) || !chained;
                // A modified line is reported once.
                if found.holds() {
                    if wrong {
                        let pair = (record.seq, expected.unwrap_or(record.seq));
                        verified
                            .damage
                            .push(located(Damage::Unchained { seq: pair }));
                        good = false;
                    }
                    seq = record.seq;
                }
            }
            Err(error) if good => {
                verified
                    .damage
                    .push(located(Damage::Unknown(error.clone())));
                good = false;
            }
            Err(_) => {}
        }
        verified.good += u64::from(good);
        verified.found |= wanted.is_some_and(|wanted| found.holds() && wanted == found.claimed);
        let first = verified.seq.map_or(seq, |(first, _)| first);
        verified.seq = Some((first, seq));
        verified.head = Some(found.claimed.clone());
        before = Some(([found.claimed, found.computed], seq));
    }
    Ok(verified)
}

/// Returns the valid records of a journal in order; invalid lines are skipped.
///
/// # Errors
///
/// Returns an error if the folder cannot be read.
pub fn records(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<Located<Record>>>> {
    let lines = Lines::open(folder)?;
    Ok(lines.filter_map(|line| match line {
        Ok(Located { file, line, item }) => match item {
            Raw::Whole(text) => {
                let item = line::decode(&text).record.ok()?;
                Some(Ok(Located { file, line, item }))
            }
            Raw::Torn(_) => None,
        },
        Err(error) => Some(Err(error)),
    }))
}

/// Iterator over the lines of all files.
struct Lines {
    files: std::vec::IntoIter<(u64, PathBuf)>,
    lines: std::vec::IntoIter<Located<Raw>>,
    last: Option<PathBuf>,
}

/// An unparsed line.
enum Raw {
    Whole(Vec<u8>),
    /// Bytes without a line end.
    Torn(usize),
}

impl Lines {
    fn open(folder: &Path) -> io::Result<Self> {
        let files = files(folder)?;
        Ok(Self {
            last: files.last().map(|(_, path)| path.clone()),
            files: files.into_iter(),
            lines: Vec::new().into_iter(),
        })
    }
}

impl Iterator for Lines {
    type Item = io::Result<Located<Raw>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(line) = self.lines.next() {
                return Some(Ok(line));
            }
            let (_, path) = self.files.next()?;
            let text = match durable::read(&path) {
                Ok(text) => text,
                // Rotated away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Some(Err(error)),
            };
            let lines = text.split_inclusive(|b| *b == b'\n').enumerate();
            let lines: Vec<_> = lines
                .map(|(index, line)| Located {
                    file: path.clone(),
                    line: index + 1,
                    item: match line.strip_suffix(b"\n") {
                        Some(line) => Raw::Whole(line.to_vec()),
                        None if self.last.as_ref() == Some(&path) => Raw::Torn(line.len()),
                        None => Raw::Whole(line.to_vec()),
                    },
                })
                .collect();
            self.lines = lines.into_iter();
        }
    }
}
