//! One line, and what chains it to the one before.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Event;
use crate::digest::sha256;

/// What the first line of all has as the hash of the line before it.
pub(super) const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const BEFORE_HASH: &str = "{\"hash\":\"";
const BEHIND_HASH: &str = "\",";
const HASH_LEN: usize = 64;

/// A line without its own hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of the line before.
    pub prev: String,
    /// Its number, from 1 over all files.
    pub seq: u64,
    /// When it was written, by the wall clock.
    #[serde(with = "humantime_serde")]
    pub at: SystemTime,
    /// When it happened, in microseconds of the daemon's monotonic clock.
    pub t: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A line with its end, and its hash.
pub(super) fn encode(record: &Record) -> serde_json::Result<(String, String)> {
    let json = serde_json::to_string(record)?;
    // All but the opening brace, which stands before the hash.
    let body = &json[1..];
    let hash = sha256(&[body.as_bytes()]);
    Ok((format!("{BEFORE_HASH}{hash}{BEHIND_HASH}{body}\n"), hash))
}

/// A line as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Whether all but hash and body is as it has to be.
    framed: bool,
    /// The hash that it says it has.
    pub(super) claimed: String,
    /// The hash that it has.
    pub(super) computed: String,
    /// What it says, or why that makes no sense.
    pub(super) record: Result<Record, String>,
}

/// Takes a line without its end apart. Hash and body are where they have to be, whatever is around
/// them: so that one wrong byte spoils one line.
pub(super) fn decode(line: &[u8]) -> Found {
    let parts = line
        .split_at_checked(BEFORE_HASH.len())
        .and_then(|(before, rest)| Some((before, rest.split_at_checked(HASH_LEN)?)))
        .and_then(|(before, (hash, rest))| {
            let (behind, body) = rest.split_at_checked(BEHIND_HASH.len())?;
            Some((before, hash, behind, body))
        });
    let Some((before, hash, behind, body)) = parts else {
        return Found {
            framed: false,
            claimed: String::new(),
            computed: sha256(&[line]),
            record: Err("it is too short for a record".to_owned()),
        };
    };
    let json = [b"{", body].concat();
    Found {
        framed: before == BEFORE_HASH.as_bytes() && behind == BEHIND_HASH.as_bytes(),
        claimed: String::from_utf8_lossy(hash).into_owned(),
        computed: sha256(&[body]),
        record: serde_json::from_slice(&json).map_err(|error| error.to_string()),
    }
}

impl Found {
    /// Returns whether it is as it was written.
    pub(super) fn holds(&self) -> bool {
        self.framed && self.claimed == self.computed
    }
}
