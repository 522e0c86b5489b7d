//! OpenAPI v2 and v3 documents, which clients read to explain fields, to validate, and to learn how
//! lists merge.
//!
//! Fed by the table of kinds with their schemas; read by the HTTP layer, which keeps what
//! was asked for. Each call makes its document anew and gives bytes, never an expanded value: that
//! takes some milliseconds, and most clusters serve a client that asks once and caches.

mod definitions;
mod dialect;
mod docs;
mod gnostic;
mod paths;

use std::sync::Arc;

use crate::{Kind, Table};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use dialect::Dialect;

/// The media type by which clients ask for the protobuf form of v2.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The Content-Type of an answer with it. It has no `@`, which clients do not parse.
pub const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The v2 document of a table: as JSON, and as protobuf (a gnostic `openapi.v2.Document`).
pub fn v2(table: &Table) -> (Bytes, Bytes) {
    let kinds = kinds(table);
    let mut document = Map::new();
    document.insert("swagger".to_owned(), "2.0".into());
    document.insert("info".to_owned(), info());
    document.insert("paths".to_owned(), Value::Object(paths::paths(&kinds, Dialect::V2)));
    document.insert("definitions".to_owned(), Value::Object(definitions::definitions(&kinds, Dialect::V2)));
    let document = Value::Object(document);
    (document.to_string().into(), gnostic::document(&document).into())
}

/// `/openapi/v3`: where the document of each group version is. The URL carries a hash of the
/// document, so that clients may cache it for ever.
pub fn v3_index(table: &Table) -> Bytes {
    let mut paths = Map::new();
    for name in group_versions(table) {
        // Only the hash is kept: most of these documents are never asked for.
        let Some(document) = v3(table, &name) else { continue };
        let hash: String = Sha256::digest(&document).iter().map(|byte| format!("{byte:02X}")).collect();
        let path = if name.contains('/') { format!("apis/{name}") } else { format!("api/{name}") };
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths }).to_string().into()
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/apps/v1`: the document of one group version, named
/// `api/v1`, `apis/apps/v1` or just `apps/v1`. None if nothing of it is served.
pub fn v3(table: &Table, group_version: &str) -> Option<Bytes> {
    let group_version =
        group_version.strip_prefix("apis/").or(group_version.strip_prefix("api/")).unwrap_or(group_version);
    let kinds: Vec<&Kind> =
        kinds(table).into_iter().filter(|kind| kind.api_version() == group_version).collect();
    if kinds.is_empty() {
        return None;
    }
    let mut document = Map::new();
    document.insert("openapi".to_owned(), "3.0.0".into());
    document.insert("info".to_owned(), info());
    document.insert("paths".to_owned(), Value::Object(paths::paths(&kinds, Dialect::V3)));
    let schemas = definitions::definitions(&kinds, Dialect::V3);
    document.insert("components".to_owned(), json!({ "schemas": schemas }));
    Some(Value::Object(document).to_string().into())
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "unversioned"})
}

fn kinds(table: &Table) -> Vec<&Kind> {
    table.iter().map(Arc::as_ref).collect()
}

fn group_versions(table: &Table) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for kind in table.iter() {
        let name = kind.api_version();
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests;
