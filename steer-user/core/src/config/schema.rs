//! JSON schema of a document, for editors and for programs that generate documents.

use schemars::{JsonSchema, schema_for};
use serde_json::Value;

use super::{
    raw,
    settings::{Range, Setting},
};

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
pub fn schema() -> Value {
    let mut schema = schema_for!(Document).to_value();
    for setting in Setting::all_configured() {
        if let Some(property) = property(&mut schema, setting.key()) {
            describe(property, setting);
        }
    }
    schema
}

/// Returns the property of a key, as section and name.
fn property<'s>(schema: &'s mut Value, key: &str) -> Option<&'s mut Value> {
    let (section, name) = key.split_once('.')?;
    let section = schema["properties"][section].to_string();
    let definitions = schema["$defs"].as_object_mut()?.iter_mut();
    let mut named =
        definitions.filter(|(definition, _)| section.contains(&format!("#/$defs/{definition}\"")));
    named.next()?.1.get_mut("properties")?.get_mut(name)
}

/// Writes description, range and default of a setting into its property.
fn describe(property: &mut Value, setting: Setting) {
    property["description"] = setting.reference().into();
    if let Range::Count(range, default) | Range::Percent(range, default) = setting.range() {
        property["minimum"] = (*range.start()).into();
        property["maximum"] = (*range.end()).into();
        property["default"] = default.into();
    } else if let Some(default) = setting.default() {
        property["default"] = default.to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{super::Document, Setting, property, schema};

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
    fn settings_have_range_and_default() {
        let mut schema = schema();
        for setting in Setting::all_configured() {
            let key = setting.key();
            let property = property(&mut schema, key).unwrap_or_else(|| panic!("{key}"));
            let text = property["description"].as_str().unwrap();
            assert!(text.contains(&setting.values()), "{key}: {text}");
            let default = setting.default().unwrap().to_string();
            assert_eq!(
                property["default"].to_string().trim_matches('"'),
                default,
                "{key}"
            );
        }
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
