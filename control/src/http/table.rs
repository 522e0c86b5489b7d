//! Server-side printing: objects as rows, as `kubectl get` asks for them.
//!
//! Pure. Format:
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>.

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::{Kind, columns};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::query::Query;
use crate::store::Object;

/// How much of each object goes with its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads the `includeObject` parameter.
    pub fn of(query: &Query) -> Result<Self, Refusal> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Refusal::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// A table of `objects`. `metadata` is the list's. A watch sends the columns only once.
pub fn write<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = &'a Object>,
    metadata: &Value,
    version: &str,
    include: Include,
    with_columns: bool,
    now: Timestamp,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    push_json(&mut out, metadata);
    out.extend_from_slice(b",\"columnDefinitions\":");
    push_json(&mut out, &if with_columns { definitions(kind) } else { Value::Null });
    out.extend_from_slice(b",\"rows\":[");
    for (at, object) in objects.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"cells\":");
        push_json(&mut out, &cells(kind, &object.value(), now));
        out.extend_from_slice(b",\"object\":");
        match include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => push_metadata(&mut out, object, version),
            Include::Object => out.extend_from_slice(&object.bytes),
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

/// The table of one `autoscaling/v1 Scale`.
pub fn of_scale(scale: &Value, version: &str, now: Timestamp) -> Value {
    let column = |name: &str, type_: &str, format: &str, description: &str| json!({ "name": name, "type": type_, "format": format, "description": description, "priority": 0 });
    let metadata = &scale["metadata"];
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": { "resourceVersion": metadata["resourceVersion"] },
        "columnDefinitions": [
            column("Name", "string", "name", "Name must be unique within a namespace."),
            column("Desired", "integer", "", "Number of desired replicas."),
            column("Available", "integer", "", "Number of observed replicas."),
            column("Age", "string", "", "Time since the object was created."),
        ],
        "rows": [{
            "cells": [
                metadata["name"],
                columns::number(scale, "/spec/replicas"),
                columns::number(scale, "/status/replicas"),
                columns::since(metadata.get("creationTimestamp"), now),
            ],
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            },
        }],
    })
}

/// `PartialObjectMetadata` of an object: its metadata as it is stored, not encoded anew.
pub fn push_metadata(out: &mut Vec<u8>, object: &Object, version: &str) {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice::<Head<'_>>(&object.bytes).map_or("{}", |head| head.metadata.get());
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
}

/// Appends a value's JSON.
pub fn push_json(out: &mut Vec<u8>, value: &Value) {
    // A Value has text keys only, and a Vec takes all that is written: neither step can fail.
    let _ = serde_json::to_writer(out, value);
}

fn definitions(kind: &Kind) -> Value {
    if kind.columns.is_empty() {
        return json!([
            { "name": "Name", "type": "string", "format": "name", "description": "Name of the object", "priority": 0 },
            { "name": "Created At", "type": "date", "format": "", "description": "When it was created", "priority": 0 },
        ]);
    }
    kind.columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "type": c.type_, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        })
        .collect()
}

fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    if kind.columns.is_empty() {
        let metadata = &object["metadata"];
        return json!([metadata["name"], metadata["creationTimestamp"]]);
    }
    kind.columns.iter().map(|c| (c.cell)(object, now)).collect()
}
