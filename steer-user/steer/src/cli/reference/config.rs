//! Reference of the configuration, from its schema.

use serde_json::Value;
use steer_core::config;

pub(super) fn page() -> String {
    let schema = config::schema();
    let mut page = "# Configuration\n\n\
        TOML; `/etc/steer/steer.toml` and the `*.toml` files of `conf.d` beside it. \
        `steer config example` prints a document with every key. Defaults are in parentheses.\n"
        .to_owned();
    let nothing = serde_json::Map::new();
    let sections = schema["properties"].as_object().unwrap_or(&nothing);
    for (name, section) in sections {
        let definition = resolve(&schema, section);
        let heading = if is_list(section) {
            format!("[[{name}]]")
        } else {
            format!("[{name}]")
        };
        let about = section["description"].as_str().unwrap_or_default();
        page +=
            &format!("\n## `{heading}`\n\n{about}\n\n| key | type | meaning |\n|---|---|---|\n");
        let required: Vec<_> = definition["required"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        for (key, value) in definition["properties"].as_object().unwrap_or(&nothing) {
            let about = value["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " ");
            let must = if required.iter().any(|name| *name == key) {
                " (required)"
            } else {
                ""
            };
            page += &format!("| `{key}` | {}{must} | {about} |\n", kind(&schema, value));
        }
    }
    page
}

fn is_list(value: &Value) -> bool {
    names(value).contains(&"array".to_owned())
}

/// Returns the names of a value's JSON types, except null.
fn names(value: &Value) -> Vec<String> {
    let mut found: Vec<String> = match &value["type"] {
        Value::String(name) => vec![name.clone()],
        Value::Array(all) => all
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    found.retain(|name| name != "null");
    found
}

/// Returns the definition that a value or its items refer to.
fn resolve<'s>(schema: &'s Value, value: &'s Value) -> &'s Value {
    let own = value["$ref"].as_str().or_else(|| {
        let all = value["anyOf"].as_array()?;
        all.iter().find_map(|one| one["$ref"].as_str())
    });
    let found = own.or_else(|| value["items"]["$ref"].as_str());
    match found.and_then(|reference| reference.strip_prefix("#/$defs/")) {
        Some(name) => &schema["$defs"][name],
        None => value,
    }
}

/// Returns a type in words.
fn kind(schema: &Value, value: &Value) -> String {
    let definition = resolve(schema, value);
    let mut words: Vec<String> = Vec::new();
    let variants = definition["oneOf"].as_array().into_iter().flatten();
    words.extend(variants.filter_map(|one| one["const"].as_str()).map(quoted));
    let values = definition["enum"].as_array().into_iter().flatten();
    words.extend(values.filter_map(Value::as_str).map(quoted));
    if words.is_empty() {
        words = names(definition);
    }
    let text = words.join(" or ");
    if is_list(value) {
        let of = kind_of_items(schema, value);
        return format!("list of {of}");
    }
    text
}

fn kind_of_items(schema: &Value, value: &Value) -> String {
    match &value["items"] {
        Value::Null => "values".to_owned(),
        items => kind(schema, items) + "s",
    }
}

fn quoted(word: &str) -> String {
    format!("`\"{word}\"`")
}
