//! The description of the API, in OpenAPI 3.1: `/openapi.json`.

use axum::{Json, Router, routing::get};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    ApplyAnswer, ApplyRequest, Confirmed, DrainRequest, ExplainPacket, Problem, RollbackRequest,
    SaveWarning, TuneRequest, WeightRequest,
};
use crate::{
    config::Document,
    control::{Decision, Readiness, Status},
    daemon::{Applied, Diff, KnobStatus, TraceRequest},
    dataplane::MapMemory,
    explain::Explanation,
    generations::{Generation, History},
};

type Of = fn(&mut SchemaGenerator) -> Schema;

/// What an answer is.
enum Answer {
    /// JSON of this kind.
    Json(Of),
    /// Nothing but that it was done.
    Nothing,
    /// Text of another media type.
    Text(&'static str),
}

/// What can be asked.
struct Operation {
    method: &'static str,
    path: &'static str,
    /// The least role that may.
    role: &'static str,
    what: &'static str,
    request: Option<Of>,
    answer: Answer,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
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

/// All of them.
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
        "What a document would change and move",
        Some(of::<Document>),
    );
    let apply = does(
        "/v1/config/apply",
        "Puts a document to work",
        Some(of::<ApplyRequest>),
    );
    vec![
        reads("/v1/status", "The node as it is now", of::<Status>),
        reads("/v1/memory", "The memory of each map", of::<Vec<MapMemory>>),
        reads(
            "/v1/explain",
            "What happens to a flow, and why; by the query's protocol, source, destination, open and dscp",
            of::<Explanation>,
        ),
        answers(
            by(
                does(
                    "/v1/explain/packet",
                    "What happens to a whole packet, and why, to the bytes that leave",
                    Some(of::<ExplainPacket>),
                ),
                "read",
            ),
            of::<Explanation>,
        ),
        reads(
            "/v1/backends/{name}/why",
            "The last decisions about a backend, with what led to them",
            of::<Vec<Decision>>,
        ),
        reads(
            "/v1/tune",
            "What a running daemon can be set to",
            of::<Vec<KnobStatus>>,
        ),
        text(
            "/v1/watch",
            "read",
            "Changes as they happen, a line of JSON each",
            "application/x-ndjson",
        ),
        reads(
            "/v1/config/history",
            "Generations that are kept",
            of::<History>,
        ),
        reads(
            "/v1/config/generations/current",
            "The generation in use",
            of::<Generation>,
        ),
        reads(
            "/v1/config/generations/{number}",
            "A generation",
            of::<Generation>,
        ),
        by(answers(diff, of::<Diff>), "read"),
        by(answers(apply, of::<ApplyAnswer>), "admin"),
        answers(
            does("/v1/config/confirm", "Keeps the generation on trial", None),
            of::<Confirmed>,
        ),
        answers(
            does(
                "/v1/config/rollback",
                "Goes back to a generation",
                Some(of::<RollbackRequest>),
            ),
            of::<Applied>,
        ),
        does(
            "/v1/backends/{name}/drain",
            "Sends no new flows to a backend",
            Some(of::<DrainRequest>),
        ),
        does(
            "/v1/backends/{name}/undrain",
            "Sends new flows to a backend again",
            None,
        ),
        does(
            "/v1/backends/{name}/weight",
            "Gives a backend a weight in place of its capacity",
            Some(of::<WeightRequest>),
        ),
        answers(
            does(
                "/v1/tune/{name}",
                "Sets what a running daemon goes by",
                Some(of::<TuneRequest>),
            ),
            of::<KnobStatus>,
        ),
        Operation {
            answer: Answer::Text("application/x-ndjson"),
            ..does(
                "/v1/trace",
                "Live packets and what becomes of them, a line of JSON each, until the client goes",
                Some(of::<TraceRequest>),
            )
        },
        text(
            "/metrics",
            "read",
            "Metrics in the text format of OpenMetrics",
            "application/openmetrics-text",
        ),
        text("/healthz", "none", "Whether the loop answers", "text/plain"),
        by(
            reads(
                "/readyz",
                "Whether the node can be relied on",
                of::<Readiness>,
            ),
            "none",
        ),
        by(
            reads("/openapi.json", "This description", of::<Value>),
            "read",
        ),
    ]
}

/// The description.
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
            "description": "The daemon's API on its Unix socket. Who may do what goes by the credentials \
                            of the socket's other end: `x-role` is the least role that may.",
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
                "description": "done, and the state directory does not have it",
                "content": { "application/json": { "schema": of::<SaveWarning>(generator) } },
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
        "description": "refused; what was wrong and what to do",
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

    /// Routes as the sources register them.
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

    /// References of a value.
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
            "KnobStatus",
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
