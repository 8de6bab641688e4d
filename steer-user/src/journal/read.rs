//! Reading: lines in their order, and whether they are as they were written.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{Record, line};
use crate::durable;

/// Files of a journal with the number of their first line, the oldest first.
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

/// The number of a file's first line.
fn first(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".jsonl")?.parse().ok()
}

pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:012}.jsonl"))
}

/// A line of the journal and where it stands.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: usize,
    /// What stands there.
    pub item: T,
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, item } = self;
        write!(f, "{}:{line}: {item}", file.display())
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not as it was written.
    Changed,
    /// The one before it is not the one that was there.
    Unchained {
        /// Its number, and the one that was expected.
        seq: (u64, u64),
    },
    /// It is as it was written, and makes no sense to this version.
    Unknown(String),
    /// It has no end: a crash tore it, or it is being written.
    Torn {
        /// Its bytes.
        bytes: usize,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => write!(f, "this line was changed: its hash is another one"),
            Self::Unchained {
                seq: (is, expected),
            } if is != expected => {
                write!(
                    f,
                    "this is line {is} where {expected} was expected: lines are missing, or were put in"
                )
            }
            Self::Unchained { .. } => {
                write!(f, "the line before this one is not the one that was there")
            }
            Self::Unknown(error) => write!(f, "this version does not understand the line: {error}"),
            Self::Torn { bytes } => write!(
                f,
                "the last line has no end ({bytes} bytes); a daemon that starts cuts it off"
            ),
        }
    }
}

/// What a look at all lines found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Lines that hold.
    pub good: u64,
    /// Numbers of the first and the last line.
    pub seq: Option<(u64, u64)>,
    /// The hash of the last line: kept elsewhere, it proves later that this journal was not
    /// rewritten.
    pub head: Option<String>,
    /// What is wrong.
    pub damage: Vec<Located<Damage>>,
    /// A last line without an end.
    pub torn: Option<Located<Damage>>,
    /// Whether a line has the hash that was looked for.
    pub found: bool,
}

/// Looks at every line of a journal, and for one with the hash `wanted`. Lines older than the
/// first that is kept are taken to have been rotated away.
///
/// # Errors
/// If a file cannot be read.
pub fn verify(folder: &Path, wanted: Option<&str>) -> io::Result<Verified> {
    let mut verified = Verified::default();
    // What the line before has as hashes, and its number.
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
                // A line that was changed is told once.
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

/// The records of a journal that make sense, in their order; lines that do not are left out.
///
/// # Errors
/// If the folder cannot be read.
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

/// Lines of all files, in their order.
struct Lines {
    files: std::vec::IntoIter<(u64, PathBuf)>,
    lines: std::vec::IntoIter<Located<Raw>>,
    last: Option<PathBuf>,
}

/// A line that was not looked into.
enum Raw {
    Whole(Vec<u8>),
    /// Bytes without an end.
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
