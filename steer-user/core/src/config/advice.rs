//! Advice in plain words: turns the TOML reader's message about a section into a correction.

use std::sync::OnceLock;

use humantime_serde::re::humantime::parse_duration;
use serde_json::Value;

use super::{read::is_list, schema::schema, suggest};

/// Length from which values are truncated in messages.
const MAX_SHOWN: usize = 60;

/// A mistake, and the keys that were probably meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) what: String,
    pub(super) todo: String,
    pub(super) meant: Vec<String>,
}

/// Position of a mistake.
pub(super) struct Place<'a> {
    /// Section, without brackets.
    pub(super) section: &'a str,
    /// Key in the section; empty if unknown.
    pub(super) key: &'a str,
    /// Value as written in the file, with variables not expanded.
    pub(super) value: &'a str,
    /// Whether the value is an element of the key's value.
    pub(super) inside: bool,
}

impl Place<'_> {
    /// Rewrites a message of the TOML reader.
    pub(super) fn advice(&self, message: &str) -> Advice {
        let message = message.trim().replace('\n', ", ");
        let (found, expected) = message
            .split_once(", expected ")
            .unwrap_or((message.as_str(), ""));
        if let Some(key) = quoted(found, "unknown field ") {
            return self.unknown_key(key, &names(expected));
        }
        if let Some(value) = quoted(found, "unknown variant ") {
            return self.unknown_word(value, expected);
        }
        if let Some(key) = quoted(found, "missing field ") {
            let todo = match self.described(key) {
                Some(words) => format!("add it: {}", words.trim_end_matches('.')),
                None => "add it".to_owned(),
            };
            let what = format!("{} has no key `{key}`", self.bracketed());
            return told(what, todo);
        }
        if found.starts_with("data did not match") || found.starts_with("wanted ") {
            return told(self.value_is(), self.other_value());
        }
        if expected.is_empty() || self.key.is_empty() {
            return told(found.to_owned(), "see `steer config example`".to_owned());
        }
        told(self.value_is(), self.needed(expected))
    }

    fn unknown_key(&self, key: &str, known: &[&str]) -> Advice {
        let nearest = suggest::nearest(key, known.iter().copied());
        let todo = match (suggest::foreign_key(self.section, key), nearest) {
            (Some(todo), _) => todo.to_owned(),
            (None, Some(name)) => format!("did you mean `{name}`?"),
            (None, None) => format!("its keys are {}", known.join(", ")),
        };
        // Advice about another program's key already names the right one.
        let meant = match suggest::foreign_key(self.section, key) {
            Some(todo) => names(todo),
            None => nearest.into_iter().collect(),
        };
        Advice {
            what: format!("unknown key `{key}` in {}", self.bracketed()),
            todo,
            meant: meant.into_iter().map(str::to_owned).collect(),
        }
    }

    fn unknown_word(&self, value: &str, expected: &str) -> Advice {
        let known = names(expected);
        let todo = match (
            suggest::foreign_value(self.key, value),
            suggest::nearest(value, known.iter().copied()),
        ) {
            (Some(todo), _) => todo.to_owned(),
            (None, Some(name)) => format!("did you mean `{name}`?"),
            (None, None) => format!("write {}", either(&known)),
        };
        told(format!("`{}` cannot be {value:?}", self.key), todo)
    }

    /// Describes the current value of the key.
    fn value_is(&self) -> String {
        let (key, value) = (self.key, self.value.trim());
        let shown: String = match value.char_indices().nth(MAX_SHOWN) {
            Some((at, _)) => format!("{}…", &value[..at]),
            None => value.to_owned(),
        };
        let begins = if self.inside {
            format!("an entry of `{key}`")
        } else {
            format!("`{key}`")
        };
        match value.chars().next() {
            Some('"' | '\'') => format!("{begins} is the text {shown}"),
            Some('[') => format!("{begins} is a list"),
            Some('{') => format!("{begins} is a table"),
            _ => format!("{begins} is {shown}"),
        }
    }

    fn other_value(&self) -> String {
        let words = self.words(self.key);
        if !words.is_empty() {
            let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            return format!("write one of {}", quoted.join(", "));
        }
        let words = self.described(self.key).unwrap_or("see its description");
        format!("write another value: {}", words.trim_end_matches('.'))
    }

    /// Returns what to write where the reader expects a type.
    fn needed(&self, expected: &str) -> String {
        let value = self.value.trim();
        let bare = value.trim_matches(['"', '\'']);
        let is_text = value.starts_with(['"', '\'']);
        let (key, words) = (self.key, self.described(self.key).unwrap_or(""));
        match expected {
            "a string" if is_duration(words) => {
                "write a duration in quotes with its unit, like \"100ms\" or \"5s\"".to_owned()
            }
            "a string" if ["beacon", "metrics", "listen"].contains(&key) => {
                "write an address and a port in quotes, like \"192.0.2.1:7100\"".to_owned()
            }
            "a string" if value.starts_with('[') => "write one text in quotes".to_owned(),
            "a string" if value.starts_with('{') => "write a text in quotes".to_owned(),
            "a string" if self.inside => format!("write it in quotes: \"{value}\""),
            "a string" => format!("write it in quotes: {key} = \"{value}\""),
            "a boolean" => "write true or false, without quotes".to_owned(),
            "a sequence" => format!("write a list: {key} = [{value}]"),
            "u8" | "u16" | "u32" | "u64" | "usize" => {
                if is_text && bare.parse::<u64>().is_ok() {
                    return format!("write it without quotes: {key} = {bare}");
                }
                let share = bare.strip_suffix('%').map(str::trim_end);
                if let Some(share) = share.filter(|share| share.parse::<u64>().is_ok()) {
                    return format!("write it without quotes and %: {key} = {share}");
                }
                let (first, last) = range(words).unwrap_or(match expected {
                    "u8" => ("0", "255"),
                    "u16" => ("0", "65535"),
                    _ => ("0", "4294967295"),
                });
                format!("write a number from {first} to {last}")
            }
            _ if expected.starts_with("struct ") || expected == "a map" => {
                "write a table, like { name = 1 }".to_owned()
            }
            _ => format!("write {expected}"),
        }
    }

    /// Returns the section as written.
    fn bracketed(&self) -> String {
        bracketed(self.section)
    }

    fn described(&self, key: &str) -> Option<&'static str> {
        self.property(key)?["description"].as_str()
    }

    /// Words that a key may have, if they are fixed.
    fn words(&self, key: &str) -> Vec<&'static str> {
        let kind = self.property(key).and_then(|p| p["$ref"].as_str());
        let kind = kind.and_then(|kind| kind.strip_prefix("#/$defs/"));
        let words = kind.and_then(|kind| definitions()[kind]["oneOf"].as_array());
        let words = words.into_iter().flatten();
        words.filter_map(|word| word["const"].as_str()).collect()
    }

    fn property(&self, key: &str) -> Option<&'static Value> {
        let mut letters = self.section.chars();
        let first = letters.next()?.to_ascii_uppercase();
        let name: String = std::iter::once(first).chain(letters).collect();
        Some(&definitions()[name]["properties"][key])
    }
}

/// Descriptions of all sections and values.
fn definitions() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    &SCHEMA.get_or_init(schema)["$defs"]
}

/// Returns a section as written: one that may be repeated has two brackets.
pub(super) fn bracketed(section: &str) -> String {
    if is_list(section) {
        format!("[[{section}]]")
    } else {
        format!("[{section}]")
    }
}

fn told(what: String, todo: String) -> Advice {
    Advice {
        what,
        todo,
        meant: Vec::new(),
    }
}

/// Returns the name in backticks after these words.
fn quoted<'m>(message: &'m str, words: &str) -> Option<&'m str> {
    let rest = message.strip_prefix(words)?.strip_prefix('`')?;
    Some(rest.rsplit_once('`')?.0)
}

/// Returns all names in backticks.
fn names(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns names as a choice.
fn either(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match &quoted[..] {
        [] => "another value".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// Returns the bounds in a key's description: "10 to 100000".
fn range(words: &str) -> Option<(&str, &str)> {
    let percents = words.contains("in percent").then_some(("1", "100"));
    let words: Vec<&str> = words.split_whitespace().map(bare).collect();
    let found = words.windows(3).find_map(|three| match three {
        [first, "to", last] if is_number(first) && is_number(last) => Some((*first, *last)),
        _ => None,
    });
    found.or(percents)
}

/// Returns whether a key's description contains a duration.
fn is_duration(words: &str) -> bool {
    let mut words = words.split_whitespace().map(bare);
    words.any(|word| {
        let begins = word.starts_with(|c: char| c.is_ascii_digit());
        begins && !is_number(word) && parse_duration(word).is_ok()
    })
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn bare(word: &str) -> &str {
    word.trim_matches([',', '.', ':', ';', '(', ')'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_say_what_a_key_takes() {
        let words = "Upper bound of probes per second from this node, 10 to 100000 (default 5000).";
        assert_eq!(range(words), Some(("10", "100000")));
        assert!(!is_duration(words));
        assert_eq!(range("Port; 0 means any."), None);
        assert!(is_duration(
            "Interval between full handshakes (default 30s)."
        ));
        assert!(is_duration(
            "Interval between pings, 10ms to 1m (default 100ms)."
        ));
        assert!(!is_duration(
            "Weight relative to the other backends (default 1)."
        ));
    }

    #[test]
    fn choices_are_listed_with_or() {
        assert_eq!(either(&["a"]), "`a`");
        assert_eq!(either(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
