//! Several files become one table. Lists of sections add up; of a key that comes twice the later
//! file's value counts.

use std::collections::{BTreeMap, btree_map::Entry};

use serde::de::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{document::Document, report::Report, syntax, variables};

/// Where the values of variables come from.
pub(super) type Variables<'v> = &'v dyn Fn(&str) -> Option<String>;

/// The sections of all files, with spans that count over all of them. `None` if a file is no TOML,
/// or a variable is missing.
pub(super) fn table<'a>(
    document: &'a Document,
    variable: Variables<'_>,
    report: &mut Report<'_>,
) -> Option<DeTable<'a>> {
    let mut all = DeTable::new();
    let mut good = true;
    for (start, file) in document.placed() {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        // What the reader made up behind a mistake is not worth a message.
        good &= errors.is_empty();
        syntax::problems(&file.text, start, &errors, report);
        let mut adopt = Adopt {
            start,
            variable,
            good: true,
            report,
        };
        for (key, value) in table.into_inner() {
            let (key, value) = (adopt.spanned(key), adopt.value(value));
            add(&mut all, key, value);
        }
        good &= adopt.good;
    }
    good.then_some(all)
}

/// Moves values from places in their file to places in the document.
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
                DeValue::Array(items.into_iter().map(|item| self.value(item)).collect())
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

/// Whether it is a list of sections, and not of plain values.
fn is_list(items: &[Spanned<DeValue<'_>>]) -> bool {
    items.iter().all(|item| item.get_ref().is_table())
}

/// Keys of sections, and of each thing with a name; `None` stands for the thing itself.
type Flat = BTreeMap<String, BTreeMap<String, String>>;

/// What a newer document says otherwise than an older one, in words.
pub(super) fn changes(older: &Document, newer: &Document) -> Vec<String> {
    let (older, mut newer) = (flat(older), flat(newer));
    let mut lines = Vec::new();
    for (owner, before) in older {
        let Some(after) = newer.remove(&owner) else {
            lines.push(format!("{owner} is gone"));
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
                let text = |value: Option<String>| value.unwrap_or_else(|| "unset".to_owned());
                lines.push(format!(
                    "{owner}: {key} {} -> {}",
                    text(before),
                    text(after)
                ));
            }
        }
    }
    lines.extend(newer.into_keys().map(|owner| format!("{owner} is new")));
    lines.sort();
    lines
}

fn flat(document: &Document) -> Flat {
    let mut report = Report::new(document);
    // Each variable stands for itself: what is shown has no secrets.
    let itself = |name: &str| Some(format!("${{{name}}}"));
    let table = table(document, &itself, &mut report).unwrap_or_default();
    let mut flat = Flat::new();
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
                    flat.insert(format!("{section} {name}"), keys(item));
                }
            }
            Ok(other) => drop(flat.insert(format!("[{section}]"), keys(other))),
            // A document that cannot be read was refused before.
            Err(_) => {}
        }
    }
    flat
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
