//! Parser of hex dumps.

/// Number of bytes per line of a dump.
const LINE: usize = 16;

/// Error for a text that is no hex dump.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoDump {
    /// A word that is no bytes.
    #[error("line {line}: \"{}\" is not made of pairs of hexadecimal digits", .word.escape_debug())]
    Word {
        /// Line number.
        line: usize,
        /// Word.
        word: String,
    },
    /// No bytes at all.
    #[error("there are no bytes")]
    Empty,
}

/// Parses plain hexadecimal digits, optionally separated by spaces and colons, or a dump with an
/// offset at the start of each line and characters at its end (tcpdump -XX, tshark -x, xxd, hexdump
/// -C).
///
/// # Errors
///
/// Returns an error for any other text.
pub(super) fn parse(text: &str) -> Result<Vec<u8>, NoDump> {
    let mut bytes = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match dumped(line, bytes.len()) {
            Some(columns) => bytes.extend(columns),
            None => plain(number, line, &mut bytes)?,
        }
    }
    if bytes.is_empty() {
        return Err(NoDump::Empty);
    }
    Ok(bytes)
}

/// Returns the bytes of a line that starts with its offset, `at`. `None` if it does not.
fn dumped(line: &str, at: usize) -> Option<Vec<u8>> {
    let line = line.trim();
    let (offset, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let digits = offset.strip_suffix(':');
    // An offset without a colon is recognized by its length and the gap after it.
    let is_apart = rest.starts_with(' ') || rest.is_empty() && !bytes_like(offset, at);
    let digits = digits.or_else(|| is_apart.then_some(offset))?;
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    if digits.len() < 3 || usize::from_str_radix(digits, 16) != Ok(at) {
        return None;
    }
    let mut bytes = Vec::new();
    // Characters come after a wide gap, unless the line is full.
    let columns = rest.trim_start();
    let columns = columns.split("   ").next().unwrap_or(columns);
    for word in columns.split_whitespace() {
        let Some(pairs) = pairs(word) else { break };
        bytes.extend(pairs);
        if bytes.len() >= LINE {
            bytes.truncate(LINE);
            break;
        }
    }
    Some(bytes)
}

/// Returns whether a line of one word contains bytes, as opposed to the offset at the end of a
/// dump.
fn bytes_like(word: &str, at: usize) -> bool {
    at == 0 || word.len() != 8
}

fn plain(number: usize, line: &str, bytes: &mut Vec<u8>) -> Result<(), NoDump> {
    for word in line.split(|c: char| c.is_whitespace() || c == ':') {
        let pairs = pairs(word.strip_prefix("0x").unwrap_or(word));
        let pairs = pairs.ok_or_else(|| NoDump::Word {
            line: number,
            word: word.to_owned(),
        })?;
        bytes.extend(pairs);
    }
    Ok(())
}

fn pairs(word: &str) -> Option<Vec<u8>> {
    if !word.len().is_multiple_of(2) || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let at = (0..word.len()).step_by(2);
    at.map(|at| u8::from_str_radix(word.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not fill the last line, some of which print as hexadecimal digits.
    const BYTES: [u8; 20] = [
        0x02, 0xbe, 0xef, 0x00, 0x01, 0x02, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x08, 0x00, 0x45,
        0x00, 0x61, 0x62, 0x63, 0x64,
    ];

    #[test]
    fn dumps_of_common_programs_are_read() {
        let dumps = [
            "02beef0001026162636465660800450061626364",
            "02:be:ef:00:01:02 61:62:63:64:65:66 0800\n4500 61626364\n",
            // tcpdump -XX
            "\t0x0000:  02be ef00 0102 6162 6364 6566 0800 4500  ......abcdef..E.\n\
             \t0x0010:  6162 6364                                abcd\n",
            // tshark -x
            "0000  02 be ef 00 01 02 61 62 63 64 65 66 08 00 45 00   ......abcdef..E.\n\
             0010  61 62 63 64                                       abcd\n",
            // xxd
            "00000000: 02be ef00 0102 6162 6364 6566 0800 4500  ......abcdef..E.\n\
             00000010: 6162 6364                                abcd\n",
            // hexdump -C
            "00000000  02 be ef 00 01 02 61 62  63 64 65 66 08 00 45 00  |......abcdef..E.|\n\
             00000010  61 62 63 64                                       |abcd|\n00000014\n",
        ];
        for dump in dumps {
            assert_eq!(parse(dump).as_deref(), Ok(&BYTES[..]), "{dump}");
        }
    }

    #[test]
    fn something_else_is_refused_with_its_line() {
        assert_eq!(parse("  \n"), Err(NoDump::Empty));
        for (text, line, word) in [("0800 45x0", 1, "45x0"), ("0800\n450", 2, "450")] {
            let word = word.to_owned();
            assert_eq!(parse(text), Err(NoDump::Word { line, word }), "{text}");
        }
    }
}
