//! Results for the host: one JSON object per line, on the second serial port.

use std::{fs::File, io::Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;

const PORT: &str = "/dev/ttyS1";

/// Result of one step.
#[derive(Serialize)]
struct Line<'a> {
    step: &'a str,
    ok: bool,
    text: String,
    /// Instructions processed by the verifier, and bytes of machine code.
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<[u32; 2]>,
}

pub(crate) struct Results {
    port: File,
    refused: bool,
}

impl Results {
    pub(crate) fn open() -> Result<Self> {
        let port = File::options().write(true).open(PORT);
        Ok(Self {
            port: port.context(PORT)?,
            refused: false,
        })
    }

    /// Returns whether this kernel was refused.
    pub(crate) const fn is_refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn refuse(&mut self, reason: &anyhow::Error) -> Result<()> {
        self.refused = true;
        self.write("refused", true, format!("{reason:#}"), None)
    }

    /// Reports the result of a step, and returns its value.
    pub(crate) fn tell<T>(&mut self, step: &str, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => {
                self.write(step, true, String::new(), None)?;
                Ok(Some(value))
            }
            Err(error) => {
                self.write(step, false, format!("{error:#}"), None)?;
                Ok(None)
            }
        }
    }

    pub(crate) fn program(&mut self, step: &str, figures: Result<[u32; 2]>) -> Result<()> {
        match figures {
            Ok(figures) => self.write(step, true, String::new(), Some(figures)),
            Err(error) => self.write(step, false, format!("{error:#}"), None),
        }
    }

    /// Reports the end of the results.
    pub(crate) fn done(&mut self) -> Result<()> {
        self.write("done", true, String::new(), None)
    }

    fn write(
        &mut self,
        step: &str,
        ok: bool,
        text: String,
        program: Option<[u32; 2]>,
    ) -> Result<()> {
        let line = Line {
            step,
            ok,
            text,
            program,
        };
        let line = serde_json::to_string(&line)? + "\n";
        self.port.write_all(line.as_bytes()).context(PORT)
    }
}
