//! Messages about a file with invalid TOML syntax, one per mistake.

use toml::de::Error;

use super::{advice::bracketed, format, read::is_list, report::Report};

/// A mistake: its place in the text, what is wrong, and what to do.
type Told = (usize, String, String);

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
    let mut errors: Vec<(usize, &Error)> = errors
        .iter()
        .map(|error| (error.span().map_or(0, |span| span.start), error))
        .collect();
    errors.sort_by_key(|(at, _)| *at);
    let mut is_lost = false;
    // A section that is there twice has its keys twice as well.
    let mut repeated = None;
    for (at, error) in errors {
        let at = text.floor_char_boundary(at);
        let message = error.message().trim().replace('\n', ", ");
        let section = text[..at].rfind("\n[");
        let (at, what, todo) = if message.starts_with("duplicate key") {
            if section.is_some() && section == repeated {
                continue;
            }
            if is_header(line_at(text, at)) {
                // Keys of this section are behind its bracket.
                repeated = section;
            }
            let key = error.span().and_then(|span| text.get(span));
            duplicate(text, at, key.unwrap_or_default())
        } else if !std::mem::replace(&mut is_lost, true) {
            syntax(text, at, &message)
        } else {
            continue;
        };
        report.add(start + at..start + at, what, todo);
    }
}

/// Begin of the line that a place is in.
fn line_begin(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

fn line_at(text: &str, at: usize) -> &str {
    text[line_begin(text, at)..]
        .lines()
        .next()
        .unwrap_or_default()
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// Says what a key or section is that is there twice.
fn duplicate(text: &str, at: usize, key: &str) -> Told {
    let line = line_at(text, at);
    if !is_header(line) {
        let todo = "remove one of them".to_owned();
        return (at, format!("`{key}` is written twice"), todo);
    }
    if is_list(key) {
        let is_single = |line: &str| line.trim_start().starts_with(&format!("[{key}]"));
        let single = text.lines().find(|line| is_single(line)).unwrap_or(line);
        let place = single.as_ptr() as usize - text.as_ptr() as usize;
        let todo = format!("write {}, with two brackets, each time", bracketed(key));
        return (place, format!("[{key}] is a list"), todo);
    }
    let dotted = |line: &&str| line.trim_start().starts_with(&format!("{key}."));
    match text.lines().find(dotted) {
        Some(dotted) => {
            let dotted = dotted.split('=').next().unwrap_or(dotted).trim();
            let todo = format!("put that key below [{key}], without `{key}.`");
            (at, format!("`{dotted}` begins [{key}] as well"), todo)
        }
        None => {
            let todo = "put all of its keys below the first one".to_owned();
            (at, format!("[{key}] is there twice"), todo)
        }
    }
}

/// Returns the mistake at a position, and its correction.
fn syntax(text: &str, at: usize, message: &str) -> Told {
    let line = line_at(text, at);
    let here = |what: &str, todo: String| (at, what.to_owned(), todo);
    if line.contains(['“', '”', '„', '‘', '’']) {
        let what = "typographic quotes, as word processors and web pages have them";
        return here(what, "write \" around texts".to_owned());
    }
    if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"]
        .iter()
        .any(|mark| line.starts_with(mark))
    {
        let what = "a mark of a merge that was not finished";
        let todo =
            "keep one of the two versions, and remove the lines with <<<<<<<, ======= and >>>>>>>";
        return here(what, todo.to_owned());
    }
    if let Some(mark) = [";", "//", "--"]
        .iter()
        .find(|mark| line.trim_start().starts_with(**mark))
    {
        return here(
            &format!("`{mark}` begins no comment"),
            "write `#`".to_owned(),
        );
    }
    if message.starts_with("carriage return") {
        let todo = "save it with line ends of Unix (LF)".to_owned();
        return here("the lines of this file end with CR alone", todo);
    }
    if let Some(told) = unclosed(text, at, message) {
        return told;
    }
    if let Some((what, todo)) = in_line(line, message) {
        return (at, what, todo);
    }
    match message.split_once(", expected ") {
        Some((what, expected)) if expected != "nothing" => here(what, format!("write {expected}")),
        _ => {
            let todo = "see `steer config example`, which shows how each key is written";
            here(message, todo.to_owned())
        }
    }
}

/// Says where a text or list begins that does not end.
fn unclosed(text: &str, at: usize, message: &str) -> Option<Told> {
    let key_of = |line: &str| {
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        key.to_owned()
    };
    if message.contains("multi-line") {
        let quotes = if message.contains("literal") {
            "'''"
        } else {
            "\"\"\""
        };
        let opened = text[..at].rfind(quotes)?;
        let what = format!(
            "the text of `{}` does not end",
            key_of(line_at(text, opened))
        );
        return Some((opened, what, format!("write {quotes} behind it")));
    }
    let line = line_at(text, at);
    if message.starts_with("invalid basic string") || message.starts_with("invalid literal string")
    {
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        let begins = value.trim_start_matches(['[', ' ']);
        let quote = begins.chars().next().filter(|c| "\"'".contains(*c))?;
        let what = format!("the text of `{key}` does not end");
        let todo = match value.chars().last() {
            Some(end @ ('"' | '\'')) if end != quote && value.len() > 1 => {
                format!("it begins with {quote} and ends with {end}: write the same at both ends")
            }
            _ => format!("write {quote} behind it"),
        };
        return Some((at, what, todo));
    }
    if message.contains("array") && !message.contains("array table") {
        let opened = text[..at].rfind('[')?;
        // Closed ones, and sections, are none.
        let opening = line_at(text, opened);
        let is_open = !text[opened..at].contains(']') && !is_header(opening);
        // A comma that is missing between two entries is told by the reader.
        let is_lost = line_begin(text, opened) != line_begin(text, at) && line.contains('=')
            || is_header(line)
            || at >= text.trim_end().len();
        if is_open && is_lost {
            let what = format!("the list of `{}` does not end", key_of(opening));
            return Some((opened, what, "write `]` behind its last entry".to_owned()));
        }
    }
    None
}

/// Says what is wrong with a line, and what to write instead.
fn in_line(line: &str, message: &str) -> Option<(String, String)> {
    let Some((key, value)) = line.split_once('=') else {
        return without_value(line);
    };
    let (key, value) = (key.trim(), value.trim());
    if !is_key(key) {
        return None;
    }
    if value.is_empty() || value.starts_with('#') {
        let todo = format!("write one behind `=`, or remove `{key}`");
        return Some((format!("`{key}` has no value"), todo));
    }
    let word = value.split(['#', ',', ']']).next().unwrap_or(value).trim();
    match word.to_lowercase().as_str() {
        "yes" | "no" | "on" | "off" => {
            let what = format!("`{key}` is neither a text nor a number");
            return Some((what, "write true or false, or a text in quotes".to_owned()));
        }
        "null" | "none" | "nil" | "~" => {
            let what = format!("`{key}` is {word}, which TOML does not have");
            return Some((what, format!("leave `{key}` out")));
        }
        _ => {}
    }
    if message.starts_with("string values must be quoted") {
        let bare = word.trim_matches(['[', '"', '\'', ' ']);
        let what = format!("the text of `{key}` is not in quotes");
        return Some((what, format!("write it as \"{bare}\"")));
    }
    if message.contains("leading zero") {
        let number = word.trim_start_matches('0');
        let number = if number.is_empty() { "0" } else { number };
        let what = format!("the number of `{key}` begins with 0");
        return Some((what, format!("write {number}")));
    }
    if message.contains("escape") {
        let what = format!("`\\` in the text of `{key}` begins an escape");
        let todo = "write `\\\\` for one, or put the text in single quotes".to_owned();
        return Some((what, todo));
    }
    message
        .starts_with("unexpected key or value")
        .then(|| behind_value(key, value))
}

fn is_key(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.chars().all(fits)
}

/// Says what is wrong with a line that has a key and no `=`.
fn without_value(line: &str) -> Option<(String, String)> {
    let line = line.split('#').next().unwrap_or(line).trim();
    if let Some((key, value)) = line.split_once(':').filter(|(key, _)| is_key(key.trim())) {
        let (key, value) = (key.trim(), value.trim());
        let what = format!("`{key}` has a colon, and TOML has `=`");
        let value = if value.is_empty() { "…" } else { value };
        return Some((what, format!("write {key} = {value}")));
    }
    let (key, value) = line.split_once(' ').unwrap_or((line, ""));
    if !is_key(key) {
        return None;
    }
    let value = value.trim();
    let what = format!("`{key}` has no `=`");
    Some(match value {
        "" => (what, format!("write {key} = and its value")),
        _ => (what, format!("write {key} = {value}")),
    })
}

/// Says what stands behind a value, where nothing may.
fn behind_value(key: &str, value: &str) -> (String, String) {
    let quote = value.chars().next().filter(|c| "\"'".contains(*c));
    let rest = match quote {
        Some(quote) => value[1..]
            .split_once(quote)
            .map_or("", |(_, rest)| rest.trim()),
        None => value.split_once(' ').map_or(value, |(_, rest)| rest.trim()),
    };
    let (what, todo) = match rest.chars().next() {
        Some(',' | ';') => {
            let mark = &rest[..1];
            let what = format!("`{mark}` stands behind the value of `{key}`");
            return (what, "remove it: the line ends a value".to_owned());
        }
        Some('/') => ("a comment", "write `#` before it".to_owned()),
        Some(_) if rest.contains('=') => {
            let other = rest.split('=').next().unwrap_or(rest).trim();
            let todo = format!("put `{other}` on a line of its own");
            ("another key", todo)
        }
        _ if quote.is_some() => (
            "something",
            "remove it; a quote within a text is written \\\"".to_owned(),
        ),
        _ => ("something", "remove it, or put a text in quotes".to_owned()),
    };
    (format!("{what} stands behind the value of `{key}`"), todo)
}
