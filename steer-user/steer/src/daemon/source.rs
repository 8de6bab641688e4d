//! Sources of backends. The daemon's own file is the first.

use std::{fmt, path::PathBuf};

use steer_core::config::{ConfigError, Document};

/// A set of backends, with the services that they serve, as a source has it.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// Version of the set: another set has another.
    pub version: String,
    /// The set.
    pub document: Document,
}

/// A source of backends.
pub trait BackendSource: fmt::Debug + Send + Sync {
    /// Reads the set as it is now.
    ///
    /// # Errors
    /// If it cannot be read, or is no valid document.
    fn read(&self) -> Result<Versioned, ConfigError>;
}

/// The daemon's own file, and the files beside it that belong to it.
#[derive(Clone, Debug)]
pub struct FileSource(PathBuf);

impl FileSource {
    /// A file that is read again each time.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl BackendSource for FileSource {
    fn read(&self) -> Result<Versioned, ConfigError> {
        let document = Document::read(&self.0)?;
        Ok(Versioned {
            version: document.fingerprint(),
            document,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_has_another_version_when_it_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steer.toml");
        let source = FileSource::new(path.clone());
        assert!(source.read().is_err(), "there is no file yet");
        fs::write(&path, "[node]\nname = \"a\"\n").unwrap();
        let first = source.read().unwrap().version;
        assert_eq!(source.read().unwrap().version, first);
        fs::write(&path, "[node]\nname = \"b\"\n").unwrap();
        assert_ne!(source.read().unwrap().version, first);
    }
}
