//! Keys of encrypted connection ids, which the configuration names by their files.

use std::path::PathBuf;

use steer_common::{abi::CidCipher, cid::Layout};
use steer_probe::quic::{CidKeyError, read_key};

/// A key and what it encrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidKeyFile {
    /// The first three bits of the connection ids.
    pub rotation: u8,
    /// What follows their first octet.
    pub layout: Layout,
    /// Where the key is.
    pub path: PathBuf,
}

impl CidKeyFile {
    /// Reads the key for decryption.
    ///
    /// # Errors
    /// As [`read_key`].
    pub fn cipher(&self) -> Result<CidCipher, CidKeyError> {
        Ok(CidCipher::new(&read_key(&self.path)?, self.layout))
    }
}
