//! JSON documents of engines without a page of metrics (Ollama's `/api/ps`), converted to series.

use std::collections::BTreeMap;

use serde_json::Value;

use super::exposition::{Exposition, Series};

/// Upper bound of values. A document has a handful.
const MAX_SERIES: usize = 10_000;
/// Maximum nesting depth of a document.
const MAX_DEPTH: usize = 16;

/// Parses a document: a number or boolean at `/a/b` becomes the series `a_b`. The length of an
/// array becomes `a_length`, and the position of an element its label `index`.
///
/// # Errors
///
/// Returns an error if it is not JSON.
pub(super) fn parse(
    text: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Exposition, serde_json::Error> {
    let document: Value = serde_json::from_str(text)?;
    let mut page = Exposition::default();
    walk(
        &document,
        "",
        &BTreeMap::new(),
        0,
        &mut |name, labels, value| {
            if wanted(name) && page.series.len() < MAX_SERIES {
                page.series.push(Series {
                    name: name.to_owned(),
                    labels: labels.clone(),
                    value,
                    step: 0.0,
                });
            }
        },
    );
    Ok(page)
}

type Labels = BTreeMap<String, String>;

fn walk(
    value: &Value,
    name: &str,
    labels: &Labels,
    depth: usize,
    found: &mut impl FnMut(&str, &Labels, f64),
) {
    if depth > MAX_DEPTH {
        return;
    }
    let below = |key: &str| match name {
        "" => key.to_owned(),
        _ => format!("{name}_{key}"),
    };
    match value {
        Value::Number(number) => found(name, labels, number.as_f64().unwrap_or(f64::NAN)),
        Value::Bool(truth) => found(name, labels, u8::from(*truth).into()),
        Value::Array(elements) => {
            found(&below("length"), labels, elements.len() as f64);
            for (index, element) in elements.iter().enumerate() {
                let mut labels = labels.clone();
                labels.insert("index".to_owned(), index.to_string());
                walk(element, name, &labels, depth + 1, found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                walk(field, &below(key), labels, depth + 1, found);
            }
        }
        Value::Null | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_their_places() {
        let text = r#"{"models":[{"name":"m","size":7,"on":true},{"size":8}],"n":{"x":1.5}}"#;
        let page = parse(text, |_| true).unwrap();
        let mut lines: Vec<String> = page
            .series
            .iter()
            .map(|s| {
                let index = s.labels.get("index").map_or("", String::as_str);
                format!("{}[{index}] {}", s.name, s.value)
            })
            .collect();
        lines.sort();
        let want = [
            "models_length[] 2",
            "models_on[0] 1",
            "models_size[0] 7",
            "models_size[1] 8",
            "n_x[] 1.5",
        ];
        assert_eq!(lines, want);
        assert!(parse("<html>", |_| true).is_err());
        assert!(parse("{\"a\": ", |_| true).is_err());
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert!(
            parse(&deep, |name| name.is_empty())
                .unwrap()
                .series
                .is_empty()
        );
    }
}
