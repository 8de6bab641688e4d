//! Problems of a document, with their positions.

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

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File that contains it.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Description of the problem.
    pub what: String,
    /// Advice on how to fix it.
    pub todo: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.line, self.what, self.todo)
    }
}

/// Reason why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The document could not be read.
    #[error("{}: {cause}; check the path and its permissions", file.display())]
    Read {
        /// The document.
        file: PathBuf,
        /// Error of the system.
        cause: std::io::Error,
    },
    /// Checking was cancelled.
    #[error(
        "checking the configuration was cancelled: it took too long, or the client disconnected"
    )]
    Stopped,
    /// The document is invalid.
    #[error("{}", lines(problems))]
    Invalid {
        /// All problems, sorted by file and line; never empty.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}:{problem}", problem.file.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the forms that a variable's value may take in a message: as is, escaped, and as
/// formatted from its parsed value.
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

/// Upper bound of reported problems; reading stops there.
const MAX_PROBLEMS: usize = 200;
/// Upper bound of the length of a problem's description.
const MAX_LETTERS: usize = 600;

/// Callback that returns true once reading should stop: the client is gone, or it takes too long.
pub(super) type Cancelled<'s> = &'s dyn Fn() -> bool;

/// Collector of problems.
pub(super) struct Report<'a> {
    document: &'a Document,
    lines: LineIndex,
    stop: Cancelled<'a>,
    stopped: bool,
    sections: HashMap<String, Range<usize>>,
    /// Problems with their offsets.
    problems: Vec<(usize, Problem)>,
    /// Causes that are told once, wherever else they show.
    once: HashSet<String>,
    /// Values that no message may contain, and their replacements.
    hidden: Vec<(String, String)>,
    known_hidden: HashSet<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(document: &'a Document, stop: Cancelled<'a>) -> Self {
        Self {
            document,
            lines: LineIndex::from_document(document),
            stop,
            stopped: false,
            sections: HashMap::new(),
            problems: Vec::new(),
            once: HashSet::new(),
            hidden: Vec::new(),
            known_hidden: HashSet::new(),
        }
    }

    /// Returns whether reading should stop: there are enough problems, or it was cancelled.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.stopped && (self.stop)() {
            self.stopped = true;
        }
        self.stopped || self.problems.len() >= MAX_PROBLEMS
    }

    /// Returns whether reading was cancelled.
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

    /// Works like [`Self::add`], once for each `cause`: one mistake may show in many places.
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

    /// Returns the text of a span as written, with variables not expanded.
    pub(super) fn source(&self, span: &Range<usize>) -> &str {
        let files = self.document.placed();
        let Some((start, file)) = files.take_while(|(start, _)| *start <= span.start).last() else {
            return "";
        };
        file.text
            .get(span.start - start..span.end.saturating_sub(start))
            .unwrap_or_default()
    }

    /// Returns whether a value came from a variable, as a whole or in part, so that no part of it
    /// may be shown.
    pub(super) fn is_hidden(&self, value: &str) -> bool {
        self.hidden.iter().any(|(hidden, _)| value.contains(hidden))
    }

    /// Parses a value, or reports what it should be.
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

    /// Adds a problem whose description has its advice after a colon.
    pub(super) fn add_described(&mut self, span: Range<usize>, error: &impl fmt::Display) {
        let text = error.to_string();
        let (what, todo) = text.split_once(": ").unwrap_or((&text, "change it"));
        self.add(span, what, todo);
    }

    /// Records the position of a section.
    pub(super) fn section(&mut self, name: &str, span: Range<usize>) {
        self.sections.insert(name.to_owned(), span);
    }

    /// Returns the position of a section, or the beginning of the document if it is missing.
    pub(super) fn find(&self, section: &str) -> Range<usize> {
        self.sections.get(section).cloned().unwrap_or(0..0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn finish(mut self) -> Vec<Problem> {
        let is_full = self.problems.len() >= MAX_PROBLEMS;
        // The reader may report several positions in one line.
        self.problems
            .sort_by_cached_key(|(at, _)| self.lines.place(*at));
        let mut problems: Vec<Problem> = self.problems.into_iter().map(|(_, p)| p).collect();
        problems.dedup();
        if is_full && let Some(last) = problems.last() {
            problems.push(Problem {
                what: format!("these are the first {MAX_PROBLEMS} problems"),
                todo: "fix them, and check again".to_owned(),
                ..last.clone()
            });
        }
        problems
    }
}

/// Truncates a text to a number of characters.
pub(super) fn shortened(mut text: String, letters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(letters) {
        text.truncate(end);
        text += "…";
    }
    text
}
