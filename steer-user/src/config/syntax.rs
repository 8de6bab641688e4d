//! Messages about a file with invalid TOML syntax, one per mistake.

use toml::de::Error;

use super::{format, report::Report};

/// Reports the reader's errors in a file that starts at offset `start`. After a syntax error the
/// reader reports consequential ones, so only the first is kept; duplicate keys are always
/// reported.
pub(super) fn problems(text: &str, start: usize, errors: &[Error], report: &mut Report<'_>) {
    if errors.is_empty() {
        return;
    }
    if let Some((line, kind)) = format::of_text(text) {
        let at: usize = text
            .split_inclusive('\n')
            .take(line - 1)
            .map(str::len)
            .sum();
        let what = format!("this is {kind}, but steer reads TOML");
        let todo = "`steer config example` prints a file to begin with";
        report.add(start + at..start + at, what, todo);
        return;
    }
    let mut is_lost = false;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim().replace('\n', ", ");
        if message.starts_with("duplicate key") {
            let key = text.get(span.clone()).unwrap_or_default();
            let what = format!("`{key}` is written twice");
            report.add(
                span.start + start..span.end + start,
                what,
                "remove one of them",
            );
        } else if !std::mem::replace(&mut is_lost, true) {
            let (what, todo) = syntax(text, span.start, &message);
            report.add(span.start + start..span.end + start, what, todo);
        }
    }
}

/// Returns the mistake at a position, and its correction.
fn syntax(text: &str, at: usize, message: &str) -> (String, String) {
    let at = text.floor_char_boundary(at);
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[begin..].lines().next().unwrap_or_default();
    let (key, value) = match line.split_once('=') {
        Some((key, value)) => (key.trim(), value.trim()),
        None => (line.trim(), ""),
    };
    if line.contains(['“', '”', '„', '‘', '’']) {
        let what = "typographic quotes, as in word processors and web pages";
        return (what.to_owned(), "write \" around texts".to_owned());
    }
    let is_key = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_key && line.contains('=') {
        let empty = value.is_empty() || value.starts_with('#');
        if empty {
            let todo = format!("write one behind `=`, or remove `{key}`");
            return (format!("`{key}` has no value"), todo);
        }
        if matches!(value.to_lowercase().as_str(), "yes" | "no" | "on" | "off") {
            let what = format!("`{key}` is neither a text nor a number");
            return (what, "write true or false, or a text in quotes".to_owned());
        }
        if message.starts_with("string values must be quoted") {
            let word = value.split(['#', ',', ']']).next().unwrap_or(value).trim();
            let bare = word.trim_matches(['[', '"', '\'', ' ']);
            let what = format!("the text of `{key}` is not in quotes");
            return (what, format!("write it as \"{bare}\""));
        }
    }
    match message.split_once(", expected ") {
        Some((what, expected)) => (what.to_owned(), format!("write {expected}")),
        None => {
            let todo = "see `steer config example`, which shows how each key is written";
            (message.to_owned(), todo.to_owned())
        }
    }
}
