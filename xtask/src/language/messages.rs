//! Log and error messages: values as a person reads them, never Rust's `Debug` output.

use super::{
    Finding,
    lexer::{Kind, is_word, kinds},
};

const LOG_ADVICE: &str =
    "log the value as a person reads it: `%value`, or a snake_case word from a `name()`";
const ERROR_ADVICE: &str = "write the value with `{}`: implement `Display`, or name it in words";

const LOG_MACROS: [&str; 11] = [
    "debug!",
    "debug_span!",
    "error!",
    "error_span!",
    "event!",
    "info!",
    "info_span!",
    "trace!",
    "trace_span!",
    "warn!",
    "warn_span!",
];
const ERROR_MACROS: [&str; 5] = ["anyhow!", "bail!", "context", "ensure!", "with_context"];

/// Returns the messages outside `#[cfg(test)]` modules that contain `Debug` output.
pub(super) fn check(source: &str) -> Vec<Finding> {
    let bytes = source.as_bytes();
    let kinds = kinds(bytes);
    let mut findings = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if kinds[at] != Kind::Code {
            at += 1;
            continue;
        }
        if source.is_char_boundary(at) && source[at..].starts_with("#[cfg(test)]\nmod ") {
            at = end_of_group(bytes, &kinds, at, b'{', b'}');
            continue;
        }
        let Some((is_log, open)) = message(bytes, at) else {
            at += 1;
            continue;
        };
        let end = end_of_group(bytes, &kinds, open, b'(', b')');
        let debug = (open..end).find(|at| match kinds[*at] {
            Kind::Text => is_debug_placeholder(bytes, *at),
            Kind::Code => is_log && is_debug_field(bytes, *at),
            Kind::Comment => false,
        });
        if let Some(debug) = debug {
            let line = bytes[..debug].iter().filter(|byte| **byte == b'\n').count();
            findings.push(Finding {
                line: line + 1,
                text: source
                    .lines()
                    .nth(line)
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
                advice: if is_log { LOG_ADVICE } else { ERROR_ADVICE },
            });
        }
        // A message may stand inside another one, which is searched whole.
        at = if debug.is_some() { end } else { open + 1 };
    }
    findings
}

/// Returns whether a log message (or an error) begins here, and where its opening parenthesis stands.
fn message(bytes: &[u8], at: usize) -> Option<(bool, usize)> {
    if bytes[at..].starts_with(b"#[error(") {
        return Some((false, at + b"#[error".len()));
    }
    if at > 0 && is_word(bytes[at - 1]) {
        return None;
    }
    let opens = |name: &&str| {
        let rest = &bytes[at..];
        rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&b'(')
    };
    let log = LOG_MACROS.iter().find(|name| opens(name));
    let error = || ERROR_MACROS.iter().find(|name| opens(name));
    let name = log.or_else(error)?;
    Some((log.is_some(), at + name.len()))
}

/// Returns the offset behind the group that opens at or after an offset.
fn end_of_group(bytes: &[u8], kinds: &[Kind], from: usize, open: u8, close: u8) -> usize {
    let mut depth = 0_usize;
    for at in from..bytes.len() {
        if kinds[at] != Kind::Code {
            continue;
        }
        if bytes[at] == open {
            depth += 1;
        } else if bytes[at] == close {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at + 1;
            }
        }
    }
    bytes.len()
}

/// Returns whether a placeholder such as `{:?}` or `{name:#?}` ends here; a doubled brace is text.
fn is_debug_placeholder(bytes: &[u8], at: usize) -> bool {
    let Some(open) = bytes[..at].iter().rposition(|byte| *byte == b'{') else {
        return false;
    };
    let braces = bytes[..=open]
        .iter()
        .rev()
        .take_while(|byte| **byte == b'{');
    let inside = &bytes[open..at];
    bytes[at..].starts_with(b"?}")
        && braces.count() % 2 == 1
        && inside.contains(&b':')
        && !inside.contains(&b'"')
}

/// Returns whether a field such as `?reason` or `reason = ?reason` begins here.
fn is_debug_field(bytes: &[u8], at: usize) -> bool {
    let before = bytes[..at]
        .iter()
        .rev()
        .find(|byte| !byte.is_ascii_whitespace());
    bytes[at] == b'?'
        && matches!(before, Some(b'(' | b',' | b'='))
        && bytes
            .get(at + 1)
            .is_some_and(|byte| is_word(*byte) || *byte == b'&')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        check(source).iter().map(|found| found.line).collect()
    }

    #[test]
    fn debug_fields_of_logs_are_found() {
        assert_eq!(lines("info!(?reason, \"ejected\");"), [1]);
        assert_eq!(
            lines("tracing::warn!(\n    backend,\n    reason = ?why,\n    \"x\"\n);"),
            [3]
        );
        assert_eq!(lines("debug!(\"left {:?} of {all}\", left);"), [1]);
    }

    #[test]
    fn debug_placeholders_of_errors_are_found() {
        assert_eq!(
            lines("#[error(\"no answer within {0:?}\")]\nTimeout(Duration),"),
            [1]
        );
        assert_eq!(lines("bail!(\"{word:#?} is unknown\");"), [1]);
        assert_eq!(
            lines("f().with_context(|| format!(\"in {path:?}\"))?;"),
            [1]
        );
    }

    #[test]
    fn display_and_the_question_mark_operator_pass() {
        let source = "info!(%reason, count = of(a)?, \"what? {reason} {{:?}}\");\n\
                      bail!(\"{}\", text()?);\n#[error(\"no: {0}\")]\nlet x = format!(\"{y:?}\");\n";
        assert!(lines(source).is_empty());
    }

    #[test]
    fn each_message_is_found_once_and_the_next_one_too() {
        let source = "bail!(\"{a:?} {b:?}\");\nwarn!(?a, ?b, \"c\");\n";
        assert_eq!(lines(source), [1, 2]);
    }

    #[test]
    fn test_modules_are_skipped_and_what_follows_is_not() {
        let source =
            "#[cfg(test)]\nmod tests {\n    fn f() { bail!(\"{a:?}\") }\n}\nbail!(\"{b:?}\");\n";
        assert_eq!(lines(source), [5]);
    }
}
