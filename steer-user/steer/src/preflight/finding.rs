//! Findings of a check.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Severity of a finding.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A daemon does not start.
    Fatal,
    /// Something will not work well.
    #[default]
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fatal => "fatal",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// Something that will not work, or not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Finding {
    /// Severity.
    #[serde(default)]
    pub severity: Severity,
    /// Subject: an interface, an address, a file.
    pub subject: String,
    /// Description of the problem.
    pub what: String,
    /// Advice in words; empty if the command is enough.
    pub todo: String,
    /// Command that fixes it, if there is one.
    #[serde(default)]
    pub fix: Option<String>,
    /// Section and key of the configuration, if it concerns one.
    #[serde(skip)]
    pub key: Option<(&'static str, &'static str)>,
}

impl Finding {
    /// Creates a warning without a command.
    pub(super) fn new(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            subject: subject.into(),
            what: what.into(),
            todo: String::new(),
            fix: None,
            key: None,
        }
    }

    pub(super) fn of_key(self, section: &'static str, key: &'static str) -> Self {
        Self {
            key: Some((section, key)),
            ..self
        }
    }

    pub(super) fn fatal(self) -> Self {
        Self {
            severity: Severity::Fatal,
            ..self
        }
    }

    pub(super) fn into_note(self) -> Self {
        Self {
            severity: Severity::Note,
            ..self
        }
    }

    pub(super) fn todo(self, todo: impl Into<String>) -> Self {
        Self {
            todo: todo.into(),
            ..self
        }
    }

    pub(super) fn fix(self, command: impl Into<String>) -> Self {
        Self {
            fix: Some(command.into()),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.what)?;
        match (&self.fix, self.todo.as_str()) {
            (Some(fix), "") => write!(f, "; `{fix}`"),
            (Some(fix), todo) => write!(f, "; `{fix}`, or {todo}"),
            (None, "") => Ok(()),
            (None, todo) => write!(f, "; {todo}"),
        }
    }
}
