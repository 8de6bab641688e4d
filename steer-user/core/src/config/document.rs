//! Source files of a configuration.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use super::{Config, ConfigError, Problem, format, merge, read, report::Report};
use crate::digest::sha256;

/// Folder beside the main file whose `*.toml` files are merged into it.
pub const DROP_INS: &str = "conf.d";
/// Upper bound of the size of all files; ten thousand backends take 2 MiB.
const MAX_BYTES: u64 = 16 << 20;
/// Upper bound of the number of files.
const MAX_FILES: usize = 4096;

/// A configuration as written: the main file, then the files of `conf.d` sorted by name. Variables
/// are not expanded, so it is safe to store and show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Files, the main one first.
    pub files: Vec<SourceFile>,
}

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path it was read from, used only in messages.
    pub path: PathBuf,
    /// Content.
    pub text: String,
}

impl Document {
    /// Creates a document from the text of one file.
    #[must_use]
    pub fn single(path: &Path, text: &str) -> Self {
        let file = SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        Self { files: vec![file] }
    }

    /// Reads the file at `path`, and the `*.toml` files of `conf.d` beside it in order of their
    /// names. Hidden files are skipped.
    ///
    /// # Errors
    ///
    /// Returns the file that could not be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut files = vec![source(path)?];
        let folder = path.with_file_name(DROP_INS);
        for path in drop_ins(&folder).map_err(|cause| ConfigError::Read {
            file: folder.clone(),
            cause,
        })? {
            files.push(source(&path)?);
        }
        let document = Self { files };
        document.fits()?;
        Ok(document)
    }

    /// Checks that it is not too large.
    ///
    /// # Errors
    /// If it is.
    pub fn fits(&self) -> Result<(), ConfigError> {
        let bytes: u64 = self.files.iter().map(|f| f.text.len() as u64).sum();
        if bytes > MAX_BYTES || self.files.len() > MAX_FILES {
            return Err(too_large(self.path(), bytes));
        }
        Ok(())
    }

    /// Checks the document with variables from this process' environment.
    ///
    /// # Errors
    ///
    /// Returns all problems, each with file and line.
    pub fn config(&self) -> Result<Config, ConfigError> {
        self.config_with(&|name| std::env::var(name).ok())
    }

    /// Checks the document like [`Self::config`], with the given variables.
    ///
    /// # Errors
    ///
    /// The same as [`Self::config`].
    pub fn config_with(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        self.config_unless(variable, &|| false)
    }

    /// Checks the document like [`Self::config_with`], until `stop`, which is called often, returns
    /// true.
    ///
    /// # Errors
    ///
    /// The same as [`Self::config`], and an error if it was cancelled.
    pub fn config_unless(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Config, ConfigError> {
        self.fits()?;
        let mut report = Report::new(self, stop);
        let config = read::sections(self, variable, &mut report).build(&mut report);
        if report.was_stopped() {
            return Err(ConfigError::Stopped);
        }
        match (config, report.finish()) {
            (Some(config), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(ConfigError::Invalid { problems }),
        }
    }

    /// Returns the SHA-256 of the files in hexadecimal. Documents with the same texts in the same
    /// files have the same fingerprint, wherever they were read.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut parts: Vec<&[u8]> = Vec::new();
        for file in &self.files {
            // A byte that occurs in no text separates them.
            parts.extend([file.text.as_bytes(), &[0xff]]);
        }
        sha256(&parts)
    }

    /// Returns the path of the main file; empty if there is none.
    #[must_use]
    pub fn path(&self) -> &Path {
        let first = self.files.first();
        first.map_or(Path::new(""), |file| &file.path)
    }

    /// Returns the value of a key, even in a document that is no valid TOML; variables are not
    /// expanded. Used for keys needed before the document is valid.
    #[must_use]
    pub fn hint(&self, key: &str) -> Option<&str> {
        let lines = self.files.iter().rev().flat_map(|file| file.text.lines());
        let mut values = lines.filter_map(|line| {
            let value = line.trim_start().strip_prefix(key)?.trim_start();
            let value = value.strip_prefix('=')?.trim_start();
            let quote = value.chars().next().filter(|c| "\"'".contains(*c))?;
            value[1..].split_once(quote).map(|(text, _)| text)
        });
        values.next()
    }

    /// Returns the file and line of a key in a section that occurs once; if it occurs several
    /// times, of the last one, which takes effect.
    #[must_use]
    pub fn line_of(&self, section: &str, key: &str) -> Option<(&Path, usize)> {
        self.files.iter().rev().find_map(|file| {
            let (table, _) = DeTable::parse_recoverable(&file.text);
            let section = table.get_ref().get(section)?.get_ref().as_table()?;
            let (name, _) = section.get_key_value(key)?;
            let before = file.text.get(..name.span().start)?;
            Some((file.path.as_path(), 1 + before.matches('\n').count()))
        })
    }

    /// Returns the differences to an older document as lines of text.
    #[must_use]
    pub fn changes_since(&self, older: &Self) -> Vec<String> {
        merge::changes(older, self)
    }

    /// Returns the keys whose value contains a variable, unless the other document has the same
    /// value there. Used for callers who may not learn the values of variables. Empty for a
    /// document that is no valid TOML.
    #[must_use]
    pub fn new_variables(&self, known: &Self) -> Vec<String> {
        merge::new_variables(known, self)
    }

    /// Returns the files, each with its offset in their concatenation.
    pub(super) fn placed(&self) -> impl Iterator<Item = (usize, &SourceFile)> {
        let mut next = 0;
        self.files.iter().map(move |file| {
            let start = next;
            next += file.text.len() + 1;
            (start, file)
        })
    }
}

fn source(path: &Path) -> Result<SourceFile, ConfigError> {
    let failed = |cause| ConfigError::Read {
        file: path.to_owned(),
        cause,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let what = "this is a folder".to_owned();
        return Err(wrong(path, 1, what, "name the file in it"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(too_large(path, metadata.len()));
    }
    let bytes = fs::read(path).map_err(failed)?;
    if let Some((line, what)) = format::of_bytes(&bytes) {
        return Err(wrong(path, line, what, "write TOML, saved as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error)))?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(SourceFile { path, text })
}

fn too_large(path: &Path, bytes: u64) -> ConfigError {
    let what = format!(
        "the configuration has {bytes} bytes, and may have {MAX_BYTES} in {MAX_FILES} files"
    );
    wrong(path, 1, what, "spread the services over several nodes")
}

/// Returns the single problem of a file that could not be read.
fn wrong(path: &Path, line: usize, what: String, todo: &str) -> ConfigError {
    let problem = Problem {
        file: path.to_owned(),
        line,
        what,
        todo: todo.to_owned(),
    };
    ConfigError::Invalid {
        problems: vec![problem],
    }
}

fn drop_ins(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
