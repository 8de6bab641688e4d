//! The files that make a configuration, as they are written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use super::{Config, ConfigError, Problem, format, merge, read, report::Report};
use crate::digest::sha256;

/// Folder beside the main file whose `*.toml` files are added to it.
pub const DROP_INS: &str = "conf.d";
/// All files together; ten thousand backends take two.
const MAX_BYTES: u64 = 16 << 20;
/// Files of a document.
const MAX_FILES: usize = 4096;

/// A configuration as it is written: the main file and those of `conf.d` behind it, by name.
/// Variables are not expanded in it, so it may be stored and shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The files, the main one first.
    pub files: Vec<SourceFile>,
}

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Where it was read; for messages only.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl Document {
    /// A document of one file that is there already.
    #[must_use]
    pub fn single(path: &Path, text: &str) -> Self {
        let file = SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        Self { files: vec![file] }
    }

    /// Reads the file at `path`, and the `*.toml` files of `conf.d` beside it in the order of their
    /// names. Hidden files are left out.
    ///
    /// # Errors
    /// With the file that cannot be read.
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
    pub(crate) fn fits(&self) -> Result<(), ConfigError> {
        let bytes: u64 = self.files.iter().map(|f| f.text.len() as u64).sum();
        if bytes > MAX_BYTES || self.files.len() > MAX_FILES {
            return Err(too_large(self.path(), bytes));
        }
        Ok(())
    }

    /// Checks it, with variables from this process' environment.
    ///
    /// # Errors
    /// With everything that is wrong, each with file and line.
    pub fn config(&self) -> Result<Config, ConfigError> {
        self.config_with(&|name| std::env::var(name).ok())
    }

    /// As [`Self::config`], with variables from elsewhere.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn config_with(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        self.config_unless(variable, &|| false)
    }

    /// As [`Self::config_with`], for as long as `stop` does not say to give up. It is asked often.
    ///
    /// # Errors
    /// As [`Self::config`], and if it was given up.
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

    /// A text that documents which say the same in the same files have in common, wherever they
    /// were read: SHA-256 in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut parts: Vec<&[u8]> = Vec::new();
        for file in &self.files {
            // A byte that is not in any text stands between two of them.
            parts.extend([file.text.as_bytes(), &[0xff]]);
        }
        sha256(&parts)
    }

    /// The path of the main file; empty where there is none.
    #[must_use]
    pub fn path(&self) -> &Path {
        let first = self.files.first();
        first.map_or(Path::new(""), |file| &file.path)
    }

    /// The text that a key is given anywhere, even in a document that is no TOML; variables are not
    /// expanded. For a key that has to be known before the document is good.
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

    /// The file and the line of a key of a section that comes once; of several the last one, which counts.
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

    /// What differs from an older document, a line each, in the words of the files.
    #[must_use]
    pub fn changes_since(&self, older: &Self) -> Vec<String> {
        merge::changes(older, self)
    }

    /// Keys whose value has a variable, unless the other document has the same value there: what is asked by
    /// somebody who may not know the variables' values. Empty for a document that is no TOML.
    #[must_use]
    pub fn new_variables(&self, known: &Self) -> Vec<String> {
        merge::new_variables(known, self)
    }

    /// Files with the place where each begins, if all stood behind each other.
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

/// The one problem of a file that is not even read.
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
