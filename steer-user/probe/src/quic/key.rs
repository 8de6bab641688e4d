//! Keys of encrypted connection ids.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::Hex;
use crate::regular_file;

/// Maximum size of a key file: a key and a line end.
const MAX_FILE: u64 = 128;

/// Error of reading a key.
#[derive(Debug, thiserror::Error)]
pub enum CidKeyError {
    /// The file cannot be read.
    #[error(
        "{path}: the key of connection ids cannot be read: {cause}; check `key_file` of [[quic]]"
    )]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        cause: io::Error,
    },
    /// The file contains something else.
    #[error(
        "{0}: not a key of connection ids; write 32 hexadecimal digits, as `openssl rand -hex 16` prints"
    )]
    Malformed(PathBuf),
}

/// Reads a key: 32 hexadecimal digits, optionally surrounded by white space.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or contains no key.
pub fn read_key(path: &Path) -> Result<[u8; 16], CidKeyError> {
    let unreadable = |cause| CidKeyError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let malformed = || CidKeyError::Malformed(path.to_owned());
    let bytes = regular_file::read(path, MAX_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => malformed(),
        _ => unreadable(error),
    })?;
    let text = String::from_utf8(bytes).map_err(|_| malformed())?;
    let hex: Hex = text.trim().parse().map_err(|_| malformed())?;
    hex.0.try_into().map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quic.key");
        let missing = read_key(&path).unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        fs::write(&path, "8f95f09245765f80256934e50c66207f\n").unwrap();
        assert_eq!(read_key(&path).unwrap()[..3], [0x8f, 0x95, 0xf0]);
        for bad in [
            "",
            "8f95",
            "8f95f09245765f80256934e50c66207g",
            &"8f".repeat(17),
            &"8f".repeat(90),
        ] {
            fs::write(&path, bad).unwrap();
            let malformed = read_key(&path).unwrap_err().to_string();
            assert!(malformed.contains("32 hexadecimal digits"), "{malformed}");
            assert!(
                bad.is_empty() || !malformed.contains(bad),
                "the key is told"
            );
        }
    }
}
