//! What is wrong with a document, and where.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
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
    #[error("{}: {source}; check the path and its permissions", file.display())]
    Read {
        /// The document.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The document is wrong.
    #[error("{}", lines(file, problems))]
    Invalid {
        /// The document.
        file: PathBuf,
        /// All that is wrong, in order of lines; at least one.
        problems: Vec<Problem>,
    },
}

fn lines(file: &std::path::Path, problems: &[Problem]) -> String {
    let line = |problem| format!("{}:{problem}", file.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Collects problems.
pub(super) struct Report<'a> {
    text: &'a str,
    sections: HashMap<String, Range<usize>>,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            sections: HashMap::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        self.problems.push(Problem {
            line: 1 + before.iter().filter(|b| **b == b'\n').count(),
            what: what.into(),
            todo: todo.into(),
        });
    }

    /// A problem that the TOML reader found.
    pub(super) fn add_toml(&mut self, error: &toml::de::Error, fallback: Range<usize>) {
        let message = error.message().trim().replace('\n', ", ");
        let (what, todo) = match message.split_once(", expected ") {
            Some((what, expected)) => (what.to_owned(), format!("write {expected}")),
            None if message.starts_with("missing field") => (message, "add it".to_owned()),
            None => (message, "see deploy/steer.toml for an example".to_owned()),
        };
        let what = what.replace("field `", "key `");
        self.add(error.span().unwrap_or(fallback), what, todo);
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
        self.problems.sort_by_key(|p| p.line);
        self.problems.dedup();
        self.problems
    }
}
