//! SHA-256 (FIPS 180-4), as hexadecimal text.

use std::fmt::Write as _;

use ring::digest::{Context, SHA256};

/// Returns the digest of some bytes as 64 hexadecimal digits.
pub fn sha256(parts: &[&[u8]]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut text = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_digests() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::sha256(&[b"abc"]), abc);
        assert_eq!(super::sha256(&[b"a", b"", b"bc"]), abc);
    }
}
