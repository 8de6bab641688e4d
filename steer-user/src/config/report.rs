//! What is wrong with a document, and where.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use humantime_serde::re::humantime::{format_duration, parse_duration};

use super::document::Document;
use super::lines::LineIndex;
use super::spanned::Spanned;
use super::variables::Expanded;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file that it is in.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.line, self.what, self.todo)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The document can't be read.
    #[error("{}: {cause}; check the path and its permissions", file.display())]
    Read {
        /// The document.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Reading was given up.
    #[error(
        "checking the configuration was given up: it took too long, or nobody waits for it any more"
    )]
    Stopped,
    /// The document is wrong.
    #[error("{}", lines(problems))]
    Invalid {
        /// All that is wrong, in order of files and lines; at least one.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}:{problem}", problem.file.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The forms that the value of a variable may have in a message: as it is, escaped, and as it is written
/// by what it was parsed to.
fn forms(value: &str) -> Vec<String> {
    let quoted = format!("{value:?}");
    let mut forms = vec![value.to_owned(), quoted[1..quoted.len() - 1].to_owned()];
    if let Ok(address) = value.parse::<IpAddr>() {
        forms.push(address.to_string());
    }
    if let Ok(address) = value.parse::<SocketAddr>() {
        forms.extend([address.to_string(), address.ip().to_string()]);
    }
    if let Ok(duration) = parse_duration(value) {
        forms.push(format_duration(duration).to_string());
    }
    forms.retain(|form| !form.is_empty());
    forms
}

/// Most problems that are told; a document with more of them is read no further.
const MAX_PROBLEMS: usize = 200;
/// Most letters of a problem's description.
const MAX_LETTERS: usize = 600;

/// Returns true once reading is to be given up: the client is gone, or it takes too long.
pub(super) type Cancelled<'s> = &'s dyn Fn() -> bool;

/// Collects problems.
pub(super) struct Report<'a> {
    document: &'a Document,
    lines: LineIndex,
    stop: Cancelled<'a>,
    stopped: bool,
    sections: HashMap<String, Range<usize>>,
    /// With their places.
    problems: Vec<(usize, Problem)>,
    /// Causes that are told once, wherever else they show.
    once: HashSet<String>,
    /// Values that no message may tell, and what is told instead.
    hidden: Vec<(String, String)>,
    known_hidden: HashSet<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(document: &'a Document, stop: Cancelled<'a>) -> Self {
        Self {
            document,
            lines: LineIndex::of(document),
            stop,
            stopped: false,
            sections: HashMap::new(),
            problems: Vec::new(),
            once: HashSet::new(),
            hidden: Vec::new(),
            known_hidden: HashSet::new(),
        }
    }

    /// Returns true once reading on is no use: enough is wrong already, or it was told to give up.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.stopped && (self.stop)() {
            self.stopped = true;
        }
        self.stopped || self.problems.len() >= MAX_PROBLEMS
    }

    /// Returns true if it was told to give up.
    pub(super) fn was_stopped(&self) -> bool {
        self.stopped
    }

    /// Keeps the values of variables out of all messages.
    pub(super) fn hide(&mut self, expanded: &Expanded) {
        let before = self.hidden.len();
        for (value, variable) in &expanded.values {
            if self.known_hidden.insert(value.clone()) {
                for form in forms(value) {
                    self.hidden.push((form, variable.clone()));
                }
            }
        }
        // A value may be a part of another one.
        if self.hidden.len() > before {
            self.hidden.sort_by_key(|(value, _)| Reverse(value.len()));
        }
    }

    fn safe(&self, text: String) -> String {
        let hidden = self.hidden.iter();
        hidden.fold(text, |text, (value, variable)| {
            text.replace(value, variable)
        })
    }

    fn place(&self, at: usize) -> (PathBuf, usize) {
        match self.lines.place(at) {
            Some((file, line)) => (self.document.files[file].path.clone(), line),
            None => (PathBuf::new(), 1),
        }
    }

    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let (file, line) = self.place(span.start);
        let problem = Problem {
            file,
            line,
            what: shortened(self.safe(what.into()), MAX_LETTERS),
            todo: shortened(self.safe(todo.into()), MAX_LETTERS),
        };
        self.problems.push((span.start, problem));
    }

    /// As [`Self::add`], the first time that it is about this `cause`: many places may show one mistake.
    pub(super) fn add_once(
        &mut self,
        cause: String,
        span: Range<usize>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        if self.once.insert(cause) {
            self.add(span, what, todo);
        }
    }

    /// The text of a place as it is written: variables are not expanded.
    pub(super) fn source(&self, span: &Range<usize>) -> &str {
        let files = self.document.placed();
        let Some((start, file)) = files.take_while(|(start, _)| *start <= span.start).last() else {
            return "";
        };
        file.text
            .get(span.start - start..span.end.saturating_sub(start))
            .unwrap_or_default()
    }

    /// Whether a value came from a variable, as a whole or in part, so that no part of it may be told.
    pub(super) fn is_hidden(&self, value: &str) -> bool {
        self.hidden.iter().any(|(hidden, _)| value.contains(hidden))
    }

    /// Parses a value, or says what it should be.
    pub(super) fn parse<T: std::str::FromStr>(
        &mut self,
        value: &Spanned<String>,
        kind: &str,
        todo: &str,
    ) -> Option<T> {
        let parsed = value.get_ref().parse().ok();
        if parsed.is_none() {
            let what = format!("{:?} is not {kind}", value.get_ref());
            self.add(value.span(), what, todo);
        }
        parsed
    }

    /// A problem whose description says after a colon what to do.
    pub(super) fn add_described(&mut self, span: Range<usize>, error: &impl fmt::Display) {
        let text = error.to_string();
        let (what, todo) = text.split_once(": ").unwrap_or((&text, "change it"));
        self.add(span, what, todo);
    }

    /// Remembers where a section begins.
    pub(super) fn section(&mut self, name: &str, span: Range<usize>) {
        self.sections.insert(name.to_owned(), span);
    }

    /// Where a section begins, or the beginning of the document if it isn't there.
    pub(super) fn find(&self, section: &str) -> Range<usize> {
        self.sections.get(section).cloned().unwrap_or(0..0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn finish(mut self) -> Vec<Problem> {
        let is_full = self.problems.len() >= MAX_PROBLEMS;
        // The reader may name several places of one line.
        self.problems
            .sort_by_cached_key(|(at, _)| self.lines.place(*at));
        let mut problems: Vec<Problem> = self.problems.into_iter().map(|(_, p)| p).collect();
        problems.dedup();
        if is_full && let Some(last) = problems.last() {
            problems.push(Problem {
                what: format!("these are the first {MAX_PROBLEMS} problems"),
                todo: "correct them, and check again".to_owned(),
                ..last.clone()
            });
        }
        problems
    }
}

/// Cuts a text off behind so many letters.
pub(super) fn shortened(mut text: String, letters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(letters) {
        text.truncate(end);
        text += "…";
    }
    text
}
