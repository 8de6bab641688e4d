//! OpenAPI 3.1 description of the API: `/openapi.json`.

use axum::{Json, Router, routing::get};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use steer_core::{
    config::Document,
    control::{Decision, Readiness, Status},
    generations::{Generation, History},
};
use steer_dataplane::MapMemory;

use super::{
    ApplyAnswer, ApplyRequest, Confirmed, DrainRequest, ExplainPacket, Problem, RollbackRequest,
    SaveWarning, TuneRequest, WeightRequest,
};
use crate::{
    daemon::{Applied, Diff, SettingStatus, TraceRequest},
    explain::Explanation,
};

type Of = fn(&mut SchemaGenerator) -> Schema;

/// Kind of an answer.
enum Answer {
    /// JSON of this type.
    Json(Of),
    /// Empty.
    Nothing,
    /// Text of another media type.
    Text(&'static str),
}

/// An operation of the API.
struct Operation {
    method: &'static str,
    path: &'static str,
    /// Minimum role.
    role: &'static str,
    what: &'static str,
    request: Option<Of>,
    answer: Answer,
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn reads(path: &'static str, what: &'static str, answer: Of) -> Operation {
    Operation {
        method: "get",
        path,
        role: "read",
        what,
        request: None,
        answer: Answer::Json(answer),
    }
}

const fn does(path: &'static str, what: &'static str, request: Option<Of>) -> Operation {
    Operation {
        method: "post",
        path,
        role: "operate",
        what,
        request,
        answer: Answer::Nothing,
    }
}

/// Returns all operations.
fn operations() -> Vec<Operation> {
    let text = |path, role, what, kind| Operation {
        method: "get",
        path,
        role,
        what,
        request: None,
        answer: Answer::Text(kind),
    };
    let answers = |operation: Operation, answer: Of| Operation {
        answer: Answer::Json(answer),
        ..operation
    };
    let by = |operation: Operation, role| Operation { role, ..operation };
    let diff = does(
        "/v1/config/diff",
        "Show what a document would change and move",
        Some(schema_of::<Document>),
    );
    let apply = does(
        "/v1/config/apply",
        "Apply a document",
        Some(schema_of::<ApplyRequest>),
    );
    vec![
        reads(
            "/v1/status",
            "Return the current status of the node",
            schema_of::<Status>,
        ),
        reads(
            "/v1/memory",
            "Return the memory of each map",
            schema_of::<Vec<MapMemory>>,
        ),
        reads(
            "/v1/explain",
            "Explain the decision for a flow, given by protocol, source, destination, open and \
             dscp",
            schema_of::<Explanation>,
        ),
        answers(
            by(
                does(
                    "/v1/explain/packet",
                    "Explain the decision for a whole packet, up to the bytes that leave",
                    Some(schema_of::<ExplainPacket>),
                ),
                "read",
            ),
            schema_of::<Explanation>,
        ),
        reads(
            "/v1/backends/{name}/why",
            "Return the last decisions about a backend, with their inputs",
            schema_of::<Vec<Decision>>,
        ),
        reads(
            "/v1/tune",
            "List the settings of the running daemon",
            schema_of::<Vec<SettingStatus>>,
        ),
        text(
            "/v1/watch",
            "read",
            "Stream changes as they happen, one line of JSON each",
            "application/x-ndjson",
        ),
        reads(
            "/v1/config/history",
            "List the stored generations",
            schema_of::<History>,
        ),
        reads(
            "/v1/config/generations/current",
            "Return the generation in use",
            schema_of::<Generation>,
        ),
        reads(
            "/v1/config/generations/{number}",
            "A generation",
            schema_of::<Generation>,
        ),
        by(answers(diff, schema_of::<Diff>), "read"),
        by(answers(apply, schema_of::<ApplyAnswer>), "admin"),
        answers(
            does("/v1/config/confirm", "Confirm the pending generation", None),
            schema_of::<Confirmed>,
        ),
        answers(
            does(
                "/v1/config/rollback",
                "Roll back to a generation",
                Some(schema_of::<RollbackRequest>),
            ),
            schema_of::<Applied>,
        ),
        does(
            "/v1/backends/{name}/drain",
            "Drain a backend",
            Some(schema_of::<DrainRequest>),
        ),
        does(
            "/v1/backends/{name}/undrain",
            "End the drain of a backend",
            None,
        ),
        does(
            "/v1/backends/{name}/weight",
            "Set the weight of a backend in place of its capacity",
            Some(schema_of::<WeightRequest>),
        ),
        answers(
            does(
                "/v1/tune/{name}",
                "Change a setting of the running daemon",
                Some(schema_of::<TuneRequest>),
            ),
            schema_of::<SettingStatus>,
        ),
        Operation {
            answer: Answer::Text("application/x-ndjson"),
            ..does(
                "/v1/trace",
                "Stream live packets with their outcome, one line of JSON each, until the client \
                 disconnects",
                Some(schema_of::<TraceRequest>),
            )
        },
        text(
            "/metrics",
            "read",
            "Return metrics in the text format of OpenMetrics",
            "application/openmetrics-text",
        ),
        text(
            "/healthz",
            "none",
            "Check that the control loop answers",
            "text/plain",
        ),
        by(
            reads(
                "/readyz",
                "Check that the node is ready",
                schema_of::<Readiness>,
            ),
            "none",
        ),
        by(
            reads(
                "/openapi.json",
                "Return this description",
                schema_of::<Value>,
            ),
            "read",
        ),
    ]
}

/// Returns the description.
#[must_use]
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        let described = describe(&operation, &problem, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "steer",
            "description": "The daemon's API on its Unix socket. Roles depend on the credentials \
                            of the peer; `x-role` is the minimum role of an operation.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

fn describe(operation: &Operation, problem: &Schema, generator: &mut SchemaGenerator) -> Value {
    let good = match &operation.answer {
        Answer::Json(of) => json!({
            "200": {
                "description": "done",
                "content": { "application/json": { "schema": of(generator) } },
            }
        }),
        Answer::Nothing => json!({
            "200": {
                "description": "done, but not saved in the state directory",
                "content": { "application/json": { "schema": schema_of::<SaveWarning>(generator) } },
            },
            "204": { "description": "done" },
        }),
        Answer::Text(kind) => json!({
            "200": { "description": "done", "content": { *kind: { "schema": { "type": "string" } } } }
        }),
    };
    let mut described =
        json!({ "summary": operation.what, "x-role": operation.role, "responses": good });
    described["responses"]["default"] = json!({
        "description": "refused; the error, with advice",
        "content": { "application/json": { "schema": problem } },
    });
    let names = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        let schema = json!({ "type": "string" });
        Some(json!({ "name": name, "in": "path", "required": true, "schema": schema }))
    });
    let names: Vec<Value> = names.collect();
    if !names.is_empty() {
        described["parameters"] = names.into();
    }
    if let Some(request) = operation.request {
        described["requestBody"] = json!({
            "content": { "application/json": { "schema": request(generator) } },
        });
    }
    described
}

pub(super) fn describing() -> Router {
    Router::new().route("/openapi.json", get(|| async { Json(openapi()) }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the routes registered in the sources.
    fn registered() -> BTreeSet<(String, String)> {
        let sources = [
            include_str!("server.rs"),
            include_str!("config.rs"),
            include_str!("monitor.rs"),
            include_str!("watch.rs"),
            include_str!("trace.rs"),
            include_str!("packet.rs"),
            include_str!("openapi.rs"),
        ];
        let mut found = BTreeSet::new();
        for source in sources {
            let source = source.split("#[cfg(test)]").next().unwrap();
            for call in source.split(".route(").skip(1) {
                let path = call.split('"').nth(1).unwrap();
                let rest = &call[call.find(path).unwrap() + path.len()..];
                let method = rest.trim_start_matches(['"', ',', ' ', '\n']);
                let method = method.split('(').next().unwrap();
                found.insert((method.to_owned(), path.to_owned()));
            }
        }
        found
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let description = openapi();
        let mut described = BTreeSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.insert((method.clone(), path.clone()));
            }
        }
        assert_eq!(described, registered());
    }

    /// Collects the references in a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(target) if key == "$ref" => {
                            found.insert(target.clone());
                        }
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_is_there_and_says_what_its_fields_are() {
        let description = openapi();
        let mut found = BTreeSet::new();
        references(&description, &mut found);
        let schemas = description["components"]["schemas"].as_object().unwrap();
        for target in &found {
            let name = target.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{target}");
        }
        for name in [
            "Status",
            "BackendStatus",
            "Diff",
            "Problem",
            "SettingStatus",
            "History",
        ] {
            assert!(schemas.contains_key(name), "{name}");
        }
        for (name, schema) in schemas {
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                let described = schema["description"].is_string() || schema["$ref"].is_string();
                assert!(described, "{name}.{field} has no description: {schema}");
            }
        }
    }
}
