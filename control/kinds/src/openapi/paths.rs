//! The paths part of the documents: which operations each kind has and which query parameters they
//! take.
//!
//! Clients look for the patch operation of a kind to learn whether the server knows `dryRun` and
//! `fieldValidation`; generators read the rest.

use crate::{Kind, Subresource};
use serde_json::{Map, Value, json};

use super::definitions::{group_version_kind, reference};
use super::dialect::Dialect;
use crate::{patch, wire};

/// The paths of all kinds.
pub(super) fn paths(kinds: &[&Kind], dialect: Dialect) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let root = if kind.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}", kind.api_version())
        };
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let mut place = |path: String, verbs: &[Verb], namespaced: bool| {
            let name_in_path = path.contains("{name}");
            let mut item = Map::new();
            for verb in verbs {
                item.insert(verb.method.to_owned(), operation(kind, verb, dialect));
            }
            let mut parameters = Vec::new();
            for (name, present) in [("name", name_in_path), ("namespace", namespaced)] {
                if present {
                    parameters.push(path_parameter(name, dialect));
                }
            }
            item.insert("parameters".to_owned(), parameters.into());
            paths.insert(path, Value::Object(item));
        };
        let plural = &kind.plural;
        if kind.namespaced {
            place(format!("{root}/{plural}"), &[LIST_ALL], false);
        }
        place(format!("{root}{scope}/{plural}"), &COLLECTION, kind.namespaced);
        place(format!("{root}{scope}/{plural}/{{name}}"), &ITEM, kind.namespaced);
        if kind.subresource("status").is_some() {
            place(format!("{root}{scope}/{plural}/{{name}}/status"), &STATUS, kind.namespaced);
        }
        for part in kind.subresources.iter().filter(|part| part.name == "proxy") {
            let path = format!("{root}{scope}/{plural}/{{name}}/{}", part.name);
            paths.insert(path.clone(), proxied(kind, part, false, dialect));
            paths.insert(format!("{path}/{{path}}"), proxied(kind, part, true, dialect));
        }
    }
    paths
}

/// One operation of a path.
struct Verb {
    method: &'static str,
    action: &'static str,
    id: &'static str,
    query: &'static [&'static str],
    body: bool,
}

const SELECT: [&str; 6] =
    ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch"];
const LIST: [&str; 11] = [
    SELECT[0],
    SELECT[1],
    SELECT[2],
    SELECT[3],
    SELECT[4],
    SELECT[5],
    "allowWatchBookmarks",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
    "pretty",
];
const WRITE: [&str; 4] = ["pretty", "dryRun", "fieldManager", "fieldValidation"];
const DELETE: [&str; 5] = ["pretty", "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

const fn verb(
    method: &'static str,
    action: &'static str,
    id: &'static str,
    query: &'static [&'static str],
    body: bool,
) -> Verb {
    Verb { method, action, id, query, body }
}

const LIST_ALL: Verb = verb("get", "list", "listForAllNamespaces", &LIST, false);
const COLLECTION: [Verb; 3] = [
    verb("get", "list", "list", &LIST, false),
    verb("post", "post", "create", &WRITE, true),
    verb("delete", "deletecollection", "deleteCollection", &SELECT, false),
];
const ITEM: [Verb; 4] = [
    verb("get", "get", "read", &["pretty"], false),
    verb("put", "put", "replace", &WRITE, true),
    verb("delete", "delete", "delete", &DELETE, false),
    verb("patch", "patch", "patch", &WRITE, false),
];
const STATUS: [Verb; 3] = [
    verb("get", "get", "readStatus", &["pretty"], false),
    verb("put", "put", "replaceStatus", &WRITE, true),
    verb("patch", "patch", "patchStatus", &WRITE, false),
];

fn operation(kind: &Kind, verb: &Verb, dialect: Dialect) -> Value {
    let schema = json!({ "$ref": reference(kind.schema.name(), dialect) });
    let group: String =
        kind.group.split('.').next().map(capitalised).filter(|g| !g.is_empty()).unwrap_or("Core".into());
    let version = capitalised(&kind.version);
    let mut parameters: Vec<Value> = verb.query.iter().map(|name| query_parameter(name, dialect)).collect();
    let mut operation = Map::new();
    operation.insert("operationId".to_owned(), format!("{}{group}{version}{}", verb.id, kind.kind).into());
    let consumes: &[&str] = if verb.method == "patch" { &patch::MEDIA_TYPES } else { &wire::MEDIA_TYPES };
    match dialect {
        Dialect::V2 => {
            if verb.body {
                parameters
                    .insert(0, json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            }
            operation.insert("consumes".to_owned(), consumes.into());
            operation.insert("produces".to_owned(), json!(["application/json"]));
            operation.insert("responses".to_owned(), json!({"200": {"description": "OK", "schema": schema}}));
        }
        Dialect::V3 => {
            if verb.body {
                operation.insert(
                    "requestBody".to_owned(),
                    json!({"required": true, "content": {"*/*": {"schema": schema}}}),
                );
            }
            if verb.method == "patch" {
                // kubectl merges by these schemas only where strategic merge stands here.
                let content: Map<String, Value> = consumes
                    .iter()
                    .map(|media_type| ((*media_type).to_owned(), json!({"schema": {}})))
                    .collect();
                operation.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
            }
            let content = json!({"application/json": {"schema": schema}});
            operation
                .insert("responses".to_owned(), json!({"200": {"description": "OK", "content": content}}));
        }
    }
    operation.insert("parameters".to_owned(), parameters.into());
    operation.insert("x-kubernetes-action".to_owned(), verb.action.into());
    operation.insert("x-kubernetes-group-version-kind".to_owned(), group_version_kind(kind));
    Value::Object(operation)
}

/// A path whose requests are carried on, whatever they and their answers hold.
fn proxied(kind: &Kind, part: &Subresource, with_path: bool, dialect: Dialect) -> Value {
    let (group, version, name) = part.takes.clone().unwrap_or_default();
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    let end = if with_path { "WithPath" } else { "" };
    let mut item = Map::new();
    for method in ["get", "put", "post", "delete", "patch"] {
        let id = format!("connectCoreV1{}{scope}{}Proxy{end}", capitalised(method), kind.kind);
        let answer = match dialect {
            Dialect::V2 => json!({"description": "OK", "schema": {"type": "string"}}),
            Dialect::V3 => json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}),
        };
        let mut operation = json!({
            "operationId": id, "responses": {"200": answer}, "x-kubernetes-action": "connect",
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": name},
        });
        if dialect == Dialect::V2 {
            operation["consumes"] = json!(["*/*"]);
            operation["produces"] = json!(["*/*"]);
        }
        item.insert(method.to_owned(), operation);
    }
    let names = [("name", true), ("namespace", kind.namespaced), ("path", with_path)];
    let parameters = names.iter().filter(|(_, present)| *present);
    let mut parameters: Vec<Value> = parameters.map(|(name, _)| path_parameter(name, dialect)).collect();
    parameters.push(query_parameter("path", dialect));
    item.insert("parameters".to_owned(), parameters.into());
    Value::Object(item)
}

fn query_parameter(name: &str, dialect: Dialect) -> Value {
    let type_ = match name {
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        "watch" | "allowWatchBookmarks" | "sendInitialEvents" | "orphanDependents" => "boolean",
        _ => "string",
    };
    match dialect {
        Dialect::V2 => json!({"name": name, "in": "query", "type": type_, "uniqueItems": true}),
        Dialect::V3 => json!({"name": name, "in": "query", "schema": {"type": type_, "uniqueItems": true}}),
    }
}

fn path_parameter(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => {
            json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true})
        }
        Dialect::V3 => {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
