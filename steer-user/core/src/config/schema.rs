//! JSON schema of a document, for editors and for programs that generate documents.

use schemars::{JsonSchema, schema_for};

use super::raw;

/// Configuration of steer, in one file or together with those of `conf.d`.
#[derive(JsonSchema)]
#[schemars(title = "steer", deny_unknown_fields)]
#[expect(dead_code, reason = "read by its derived schema only")]
struct Document {
    /// Node settings.
    node: Option<raw::Node>,
    /// Settings of mode "nat".
    nat: Option<raw::Nat>,
    /// Settings of modes "ipip" and "gue".
    encap: Option<raw::Encap>,
    /// Admission control.
    admission: Option<raw::Admission>,
    /// Sizes of the flow tables; they take memory even while empty.
    limits: Option<raw::Limits>,
    /// Probe settings.
    probe: Option<raw::Probe>,
    /// Distribution of new flows.
    balance: Option<raw::Balance>,
    /// Access to the API, besides root.
    api: Option<raw::Api>,
    /// Export of metrics.
    telemetry: Option<raw::Telemetry>,
    /// Layouts of QUIC connection ids.
    quic: Option<Vec<raw::Quic>>,
    /// Inference endpoints.
    backend: Option<Vec<raw::Backend>>,
    /// Groups of interchangeable backends.
    pool: Option<Vec<raw::Pool>>,
    /// Virtual services.
    service: Option<Vec<raw::Service>>,
    /// Groups of a service's clients.
    class: Option<Vec<raw::Class>>,
}

/// Returns the schema of one file (JSON Schema 2020-12). Every string may contain variables,
/// `${NAME}`.
#[must_use]
pub fn schema() -> serde_json::Value {
    schema_for!(Document).to_value()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::Document;
    use super::schema;

    const EXAMPLE: &str = include_str!("../../../../deploy/steer.toml");

    /// Returns the keys of all sections as `section.key`.
    fn in_schema() -> BTreeSet<String> {
        let schema = schema();
        let mut keys = BTreeSet::new();
        for (section, value) in schema["properties"].as_object().unwrap() {
            let name = value.to_string();
            let definitions = schema["$defs"].as_object().unwrap();
            let own = definitions
                .iter()
                .find(|(definition, _)| name.contains(&format!("#/$defs/{definition}\"")))
                .unwrap_or_else(|| panic!("{section} has no definition: {name}"));
            for key in own.1["properties"].as_object().unwrap().keys() {
                keys.insert(format!("{section}.{key}"));
            }
            assert_eq!(
                own.1["additionalProperties"],
                Value::Bool(false),
                "{section}"
            );
        }
        keys
    }

    /// Returns the keys of the example, including those that are commented out.
    fn in_example() -> BTreeSet<String> {
        let spelled: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.split('#').next().unwrap().contains(" = ") => {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let table: toml::Table = spelled.parse().unwrap();
        let mut keys = BTreeSet::new();
        for (section, value) in &table {
            let items = match value {
                toml::Value::Array(items) => items.iter().collect(),
                other => vec![other],
            };
            for item in items {
                let own = item.as_table().unwrap().keys();
                keys.extend(own.map(|key| format!("{section}.{key}")));
            }
        }
        keys
    }

    #[test]
    fn schema_and_example_have_the_same_keys() {
        assert_eq!(in_schema(), in_example());
    }

    #[test]
    fn the_sections_are_those_that_are_read() {
        let said = Document::single("f".as_ref(), "[nonsense]")
            .config()
            .unwrap_err()
            .to_string();
        for section in schema()["properties"].as_object().unwrap().keys() {
            assert!(said.contains(&format!("[{section}]")), "{section}: {said}");
        }
        let sections = said.matches('[').count() - said.matches("[[").count();
        let known = schema()["properties"].as_object().unwrap().len();
        assert_eq!(sections, known, "{said}");
    }

    #[test]
    fn values_of_a_fixed_set_are_listed() {
        let text = schema().to_string();
        for word in [
            "native", "generic", "nat", "ipip", "gue", "l2", "tcp", "udp", "reject", "drop",
            "resteer",
        ] {
            assert!(text.contains(&format!("\"{word}\"")), "{word}");
        }
    }
}
