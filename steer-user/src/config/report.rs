//! What is wrong with a document, and where.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use humantime_serde::re::humantime::{format_duration, parse_duration};

use super::document::Document;
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

/// Collects problems.
pub(super) struct Report<'a> {
    document: &'a Document,
    sections: HashMap<String, Range<usize>>,
    /// With their places.
    problems: Vec<(usize, Problem)>,
    /// Values that no message may tell, and what is told instead.
    hidden: Vec<(String, String)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(document: &'a Document) -> Self {
        Self {
            document,
            sections: HashMap::new(),
            problems: Vec::new(),
            hidden: Vec::new(),
        }
    }

    /// Keeps the values of variables out of all messages.
    pub(super) fn hide(&mut self, expanded: &Expanded) {
        for (value, variable) in &expanded.values {
            for form in forms(value) {
                self.hidden.push((form, variable.clone()));
            }
        }
        // A value may be a part of another one.
        self.hidden.sort_by_key(|(value, _)| Reverse(value.len()));
    }

    fn safe(&self, text: String) -> String {
        let hidden = self.hidden.iter();
        hidden.fold(text, |text, (value, variable)| {
            text.replace(value, variable)
        })
    }

    fn place(&self, at: usize) -> (PathBuf, usize) {
        let files = self.document.placed();
        let Some((start, file)) = files.take_while(|(start, _)| *start <= at).last() else {
            return (PathBuf::new(), 1);
        };
        let before = &file.text.as_bytes()[..(at - start).min(file.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        (file.path.clone(), line)
    }

    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        let (file, line) = self.place(span.start);
        let problem = Problem {
            file,
            line,
            what: self.safe(what.into()),
            todo: self.safe(todo.into()),
        };
        self.problems.push((span.start, problem));
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
        // The reader may name several places of one line.
        self.problems.sort_by(|(a, p), (b, q)| {
            let file = |at: &usize| self.document.placed().take_while(|(s, _)| s <= at).count();
            (file(a), p.line).cmp(&(file(b), q.line))
        });
        let mut problems: Vec<Problem> = self.problems.into_iter().map(|(_, p)| p).collect();
        problems.dedup();
        problems
    }
}
