//! The journal of systemd, where standard error leads there.

use std::{env, fs, os::unix::fs::MetadataExt as _};

/// The variable that says which stream leads to the journal (systemd.exec(5)).
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether what is written to standard error ends up in the journal.
pub(super) fn listens() -> bool {
    let Ok(stream) = env::var(VARIABLE) else {
        return false;
    };
    let Ok(own) = fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    names(&stream, own.dev(), own.ino())
}

/// Whether the variable's words are this device and inode.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream
        .split_once(':')
        .is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_counts() {
        assert!(names("9:12345", 9, 12_345));
        for other in ["9:12346", "8:12345", "9", "", "9:", "a:b"] {
            assert!(!names(other, 9, 12_345), "{other:?}");
        }
    }
}
