//! Format of a journal line, with the hash chain.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Event;
use crate::digest::sha256;

/// Previous hash in the first line of a journal.
pub(super) const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const BEFORE_HASH: &str = "{\"hash\":\"";
const BEHIND_HASH: &str = "\",";
const HASH_LEN: usize = 64;

/// A line without its own hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Hash of the previous line.
    pub prev: String,
    /// Sequence number, from 1 over all files.
    pub seq: u64,
    /// Wall-clock time of writing.
    #[serde(with = "humantime_serde")]
    pub at: SystemTime,
    /// Time of the event, in microseconds of the daemon's monotonic clock.
    pub t: u64,
    /// Event.
    #[serde(flatten)]
    pub event: Event,
}

/// Encodes a line with its end; also returns its hash.
pub(super) fn encode(record: &Record) -> serde_json::Result<(String, String)> {
    let json = serde_json::to_string(record)?;
    // Everything except the opening brace, which precedes the hash.
    let body = &json[1..];
    let hash = sha256(&[body.as_bytes()]);
    Ok((format!("{BEFORE_HASH}{hash}{BEHIND_HASH}{body}\n"), hash))
}

/// A line as read.
#[derive(Debug)]
pub(super) struct Found {
    /// Whether the frame around hash and body is intact.
    framed: bool,
    /// Hash written in the line.
    pub(super) claimed: String,
    /// Hash computed from the line.
    pub(super) computed: String,
    /// Content, or the reason why it is invalid.
    pub(super) record: Result<Record, String>,
}

/// Parses a line without its end. Hash and body are at fixed positions whatever the frame contains,
/// so that one wrong byte spoils one line only.
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
    /// Returns whether the line is unmodified.
    pub(super) fn holds(&self) -> bool {
        self.framed && self.claimed == self.computed
    }
}
