//! Distinction of code, string literals and comments in a Rust source text.

/// Kind of one byte of a source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Code,
    /// Content of a string literal, without its quotes.
    Text,
    Comment,
}

/// Returns the kind of every byte.
pub(super) fn kinds(source: &[u8]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; source.len()];
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        if rest.starts_with(b"//") {
            let end = find(source, at, b"\n");
            kinds[at..end].fill(Kind::Comment);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = (find(source, at + 2, b"*/") + 2).min(source.len());
            kinds[at..end].fill(Kind::Comment);
            at = end;
        } else if let Some((begin, end)) = raw_string(source, at).or_else(|| string(source, at)) {
            kinds[begin..end].fill(Kind::Text);
            at = end + 1;
        } else if let Some(length) = character(rest) {
            at += length;
        } else {
            at += 1;
        }
    }
    kinds
}

/// Returns where a sequence begins at or after an offset, or the end of the text.
fn find(source: &[u8], from: usize, sequence: &[u8]) -> usize {
    let from = from.min(source.len());
    source[from..]
        .windows(sequence.len())
        .position(|window| window == sequence)
        .map_or(source.len(), |found| from + found)
}

/// Returns the range of the content of a plain string literal that begins here.
fn string(source: &[u8], at: usize) -> Option<(usize, usize)> {
    if source[at] != b'"' {
        return None;
    }
    let mut end = at + 1;
    while end < source.len() && source[end] != b'"' {
        end += if source[end] == b'\\' { 2 } else { 1 };
    }
    Some((at + 1, end.min(source.len())))
}

/// Returns the range of the content of a raw string literal that begins here.
fn raw_string(source: &[u8], at: usize) -> Option<(usize, usize)> {
    if source[at] != b'r' || (at > 0 && is_word(source[at - 1]) && source[at - 1] != b'b') {
        return None;
    }
    let hashes = source[at + 1..].iter().take_while(|b| **b == b'#').count();
    let quote = at + 1 + hashes;
    if source.get(quote) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &source[at + 1..quote]].concat();
    Some((quote + 1, find(source, quote + 1, &close)))
}

/// Returns the length of a character literal that begins here; a lifetime is none.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.first() != Some(&b'\'') {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        return Some(find(rest, 3, b"'") + 1);
    }
    // Characters have up to four bytes; a lifetime has no second quote that near after one character.
    let length = match rest.get(1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + length) == Some(&b'\'')).then_some(length + 2)
}

/// Returns whether a byte may stand in a name.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes of one kind, in order.
    fn only(source: &str, kind: Kind) -> String {
        let bytes = source.as_bytes();
        let kept = kinds(bytes).into_iter().zip(bytes);
        let kept = kept.filter(|(k, _)| *k == kind).map(|(_, byte)| *byte);
        String::from_utf8(kept.collect()).unwrap()
    }

    #[test]
    fn strings_are_told_from_code_and_comments() {
        let source = r#"let a = "x\"y"; // "no"
/* "no" */ f('"', 'é', '\'', "z")"#;
        assert_eq!(only(source, Kind::Text), r#"x\"yz"#);
        assert_eq!(only(source, Kind::Comment), "// \"no\"/* \"no\" */");
    }

    #[test]
    fn raw_strings_end_at_their_own_quote() {
        assert_eq!(
            only("br##\"a\"#b\"##, r\"c\\\", for\"\"", Kind::Text),
            "a\"#bc\\"
        );
    }

    #[test]
    fn lifetimes_open_no_literal() {
        assert_eq!(only("fn f<'a>(x: &'a str) { \"t\" }", Kind::Text), "t");
    }
}
