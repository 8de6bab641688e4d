//! Keys of encrypted connection ids, read from the files that the configuration names.

use std::path::PathBuf;

use steer_common::{abi::CidCipher, cid::Layout};
use steer_probe::quic::{CidKeyError, read_key};

/// A key with the connection ids it applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidKeyFile {
    /// Config rotation: the first three bits of the connection ids.
    pub rotation: u8,
    /// Layout of the bytes after the first octet.
    pub layout: Layout,
    /// Path of the key file.
    pub path: PathBuf,
}

impl CidKeyFile {
    /// Reads the key and prepares it for decryption.
    ///
    /// # Errors
    ///
    /// The same as [`read_key`].
    pub fn cipher(&self) -> Result<CidCipher, CidKeyError> {
        Ok(CidCipher::new(&read_key(&self.path)?, self.layout))
    }
}
