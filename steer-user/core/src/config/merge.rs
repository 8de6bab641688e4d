//! Merge of several files into one table. Lists of sections are concatenated; of a repeated key the
//! later file's value takes effect.

use std::collections::{BTreeMap, HashSet, btree_map::Entry};

use serde::de::Deserialize as _;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::{
    document::Document,
    report::{Report, shortened},
    syntax, variables,
};

/// Upper bound of listed changes.
const MAX_CHANGES: usize = 1000;
/// Upper bound of the length of a value in a list of changes.
const MAX_VALUE: usize = 400;
/// Placeholder for a variable in a value; cannot occur in TOML.
const MARK: char = '\u{0}';

/// Lookup of variables by name.
pub(super) type Variables<'v> = &'v dyn Fn(&str) -> Option<String>;

/// Returns the sections of all files, with spans in their concatenation. `None` if a file is no
/// valid TOML, or a variable is missing.
pub(super) fn table<'a>(
    document: &'a Document,
    variable: Variables<'_>,
    report: &mut Report<'_>,
) -> Option<DeTable<'a>> {
    let mut all = DeTable::new();
    let mut good = true;
    for (start, file) in document.placed() {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        // Values that the reader recovered after an error are not worth a message.
        good &= errors.is_empty();
        syntax::problems(&file.text, start, &errors, report);
        let mut adopt = Adopt {
            start,
            variable,
            good: true,
            report,
        };
        for (key, value) in table.into_inner() {
            if adopt.report.is_over() {
                return None;
            }
            let (key, value) = (adopt.spanned(key), adopt.value(value));
            add(&mut all, key, value);
        }
        good &= adopt.good;
    }
    good.then_some(all)
}

/// Shifts spans from offsets in a file to offsets in the document.
struct Adopt<'x, 'r, 'v> {
    start: usize,
    variable: Variables<'v>,
    good: bool,
    report: &'x mut Report<'r>,
}

impl Adopt<'_, '_, '_> {
    fn spanned<T>(&self, item: Spanned<T>) -> Spanned<T> {
        let span = item.span();
        Spanned::new(
            span.start + self.start..span.end + self.start,
            item.into_inner(),
        )
    }

    fn value<'a>(&mut self, value: Spanned<DeValue<'a>>) -> Spanned<DeValue<'a>> {
        let value = self.spanned(value);
        let span = value.span();
        let inner = match value.into_inner() {
            DeValue::String(text) if text.contains('$') => {
                match variables::expand(&text, self.variable) {
                    Ok(expanded) => {
                        self.report.hide(&expanded);
                        DeValue::String(expanded.text.into())
                    }
                    Err(error) => {
                        self.good = false;
                        self.report.add_described(span.clone(), &error);
                        DeValue::String(text)
                    }
                }
            }
            DeValue::Array(items) => {
                let mut adopted = DeArray::new();
                for item in items {
                    // Skipping the rest is harmless: the result is discarded.
                    if self.report.is_over() {
                        self.good = false;
                        break;
                    }
                    adopted.push(self.value(item));
                }
                DeValue::Array(adopted)
            }
            DeValue::Table(table) => {
                let entries = table.into_iter();
                let adopted = entries.map(|(key, item)| (self.spanned(key), self.value(item)));
                DeValue::Table(adopted.collect())
            }
            other => other,
        };
        Spanned::new(span, inner)
    }
}

fn add<'a>(
    all: &mut DeTable<'a>,
    key: Spanned<std::borrow::Cow<'a, str>>,
    value: Spanned<DeValue<'a>>,
) {
    let Some(before) = all.get_mut(&key) else {
        all.insert(key, value);
        return;
    };
    let span = value.span();
    let other = match (before.get_mut(), value.into_inner()) {
        (DeValue::Table(before), DeValue::Table(table)) => {
            table.into_iter().for_each(|(k, v)| add(before, k, v));
            None
        }
        (DeValue::Array(before), DeValue::Array(items)) if is_list(before) && is_list(&items) => {
            items.into_iter().for_each(|item| before.push(item));
            None
        }
        (_, value) => Some(value),
    };
    if let Some(value) = other {
        *before = Spanned::new(span, value);
    }
}

/// Returns whether it is a list of sections, as opposed to plain values.
fn is_list(items: &[Spanned<DeValue<'_>>]) -> bool {
    items.iter().all(|item| item.get_ref().is_table())
}

/// Keys by section and by named item; `None` stands for the item itself.
type Flat = BTreeMap<String, BTreeMap<String, String>>;

/// Returns the differences of a newer document to an older one in words.
pub(super) fn changes(older: &Document, newer: &Document) -> Vec<String> {
    // Each variable stands for itself: the output must not contain secrets.
    let itself = |name: &str| Some(format!("${{{name}}}"));
    let by_owner = |document| entries(document, &itself).into_iter().collect::<Flat>();
    let (older, mut newer) = (by_owner(older), by_owner(newer));
    let mut lines = Vec::new();
    for (owner, before) in older {
        let Some(after) = newer.remove(&owner) else {
            lines.push(shortened(format!("{owner} is gone"), MAX_VALUE));
            continue;
        };
        let mut values: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        for (index, keys) in [before, after].into_iter().enumerate() {
            for (key, value) in keys {
                match values.entry(key) {
                    Entry::Vacant(free) => free.insert(Default::default())[index] = Some(value),
                    Entry::Occupied(mut known) => known.get_mut()[index] = Some(value),
                }
            }
        }
        for (key, [before, after]) in values {
            if before != after {
                let text = |value: Option<String>| {
                    value.map_or_else(|| "unset".to_owned(), |v| shortened(v, MAX_VALUE))
                };
                lines.push(format!(
                    "{owner}: {key} {} -> {}",
                    text(before),
                    text(after)
                ));
            }
        }
    }
    lines.extend(
        newer
            .into_keys()
            .map(|owner| shortened(format!("{owner} is new"), MAX_VALUE)),
    );
    lines.sort();
    if lines.len() > MAX_CHANGES {
        let more = lines.len() - MAX_CHANGES;
        lines.truncate(MAX_CHANGES);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Returns the keys of `newer` whose value contains a variable and differs from that key's value in
/// `known`.
pub(super) fn new_variables(known: &Document, newer: &Document) -> Vec<String> {
    let marked = |name: &str| Some(format!("{MARK}{name}{MARK}"));
    let mut values: HashSet<(String, String, String)> = HashSet::new();
    for (owner, keys) in entries(known, &marked) {
        let own = keys.into_iter().filter(|(_, value)| has_variable(value));
        values.extend(own.map(|(key, value)| (owner.clone(), key, value)));
    }
    let mut found = Vec::new();
    for (owner, keys) in entries(newer, &marked) {
        for (key, value) in keys {
            if !has_variable(&value) {
                continue;
            }
            let place = (owner.clone(), key, value);
            if !values.contains(&place) {
                found.push(shortened(format!("{owner}: {}", place.1), MAX_VALUE));
            }
        }
    }
    found.sort();
    found.dedup();
    found.truncate(MAX_CHANGES);
    found
}

/// Returns whether a value contains a variable. Values are written as TOML, which escapes the
/// placeholder.
fn has_variable(value: &str) -> bool {
    value.contains(MARK) || value.contains("\\u0000")
}

/// Returns the sections and named items with their keys; a name may occur several times.
fn entries(
    document: &Document,
    variable: Variables<'_>,
) -> Vec<(String, BTreeMap<String, String>)> {
    let mut report = Report::new(document, &|| false);
    let table = table(document, variable, &mut report).unwrap_or_default();
    let mut entries = Vec::new();
    for (section, value) in table {
        let section = section.into_inner().into_owned();
        match toml::Value::deserialize(ValueDeserializer::from(value)) {
            Ok(toml::Value::Array(items)) => {
                for (number, item) in (1..).zip(items) {
                    let text = |key| item.get(key).and_then(|value| value.as_str());
                    // Another service may have a class of the same name.
                    let name = match (text("name"), text("service")) {
                        (Some(name), Some(service)) => format!("{:?}", format!("{service}/{name}")),
                        (Some(name), None) => format!("{name:?}"),
                        (None, _) => format!("number {number}"),
                    };
                    entries.push((format!("{section} {name}"), keys(item)));
                }
            }
            Ok(other) => entries.push((format!("[{section}]"), keys(other))),
            // An unreadable document was refused earlier.
            Err(_) => {}
        }
    }
    entries
}

fn keys(value: toml::Value) -> BTreeMap<String, String> {
    match value {
        toml::Value::Table(table) => {
            let entries = table.into_iter();
            entries.map(|(k, v)| (k, v.to_string())).collect()
        }
        other => [(String::new(), other.to_string())].into(),
    }
}
