//! Objects and lists in the form that a client asked for.
//!
//! An object's bytes are never encoded anew: a list is the bytes of its objects joined.

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::Kind;
use serde_json::{Map, Value, json};

use super::api::Call;
use super::negotiate::{Encoding, Form};
use super::respond;
use super::table::{self, Include};
use crate::registry::List;
use crate::store::Object;

/// How one client wants its answers.
#[derive(Clone, Copy, Debug)]
pub struct Presentation {
    /// JSON or YAML.
    pub encoding: Encoding,
    /// Whole objects, rows or metadata.
    pub form: Form,
    /// What rows carry.
    pub include: Include,
}

impl Presentation {
    /// Reads the headers and parameters of a call.
    pub fn of(call: &Call) -> Result<Self, Refusal> {
        let (encoding, form) = call.form()?;
        Ok(Presentation { encoding, form, include: Include::of(&call.query)? })
    }

    /// An answer of one object.
    pub fn one(&self, code: StatusCode, kind: &Kind, object: &Object) -> Response<Body> {
        match self.form {
            Form::Whole => respond::encoded(code, self.encoding, object.bytes.clone()),
            _ => respond::encoded(code, self.encoding, self.shaped(kind, object, true)),
        }
    }

    /// One object as JSON in another form than its own.
    pub fn shaped(&self, kind: &Kind, object: &Object, with_columns: bool) -> Vec<u8> {
        match self.form {
            Form::Whole => object.bytes.to_vec(),
            Form::Metadata(version) => {
                let mut out = Vec::with_capacity(512);
                table::push_metadata(&mut out, object, version);
                out
            }
            Form::Table(version) => {
                let metadata = json!({ "resourceVersion": object.revision.to_string() });
                let rows = std::iter::once(object);
                table::write(kind, rows, &metadata, version, self.include, with_columns, Timestamp::now())
            }
        }
    }

    /// An answer of many objects.
    pub fn many(&self, kind: &Kind, list: &List) -> Response<Body> {
        let metadata = list_metadata(list);
        let objects = list.items.iter().map(|object| &**object);
        let body = match self.form {
            Form::Table(version) => {
                table::write(kind, objects, &metadata, version, self.include, true, Timestamp::now())
            }
            Form::Metadata(version) => {
                let head = format!("PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{version}");
                joined(&head, &metadata, objects, 512 * list.items.len(), |out, object| {
                    table::push_metadata(out, object, version);
                })
            }
            Form::Whole => {
                let head = format!("{}List\",\"apiVersion\":\"{}", kind.kind, kind.api_version());
                let size = list.items.iter().map(|object| object.bytes.len() + 1).sum();
                joined(&head, &metadata, objects, size, |out, object| out.extend_from_slice(&object.bytes))
            }
        };
        respond::encoded(StatusCode::OK, self.encoding, body)
    }
}

/// The answer to the removal of an object: the object where clients expect it, else a `Status`.
pub fn removed(kind: &Kind, object: &Object) -> Value {
    let mut details = json!({
        "name": &*object.key.name, "kind": kind.plural, "uid": &*object.uid,
    });
    if !kind.group.is_empty() {
        details["group"] = kind.group.clone().into();
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

fn list_metadata(list: &List) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), list.revision.to_string().into());
    if let Some(token) = &list.continue_token {
        metadata.insert("continue".to_owned(), token.clone().into());
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    Value::Object(metadata)
}

fn joined<'a>(
    head: &str,
    metadata: &Value,
    objects: impl Iterator<Item = &'a Object>,
    items_bytes: usize,
    push: impl Fn(&mut Vec<u8>, &Object),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(items_bytes + 512);
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    table::push_json(&mut out, metadata);
    out.extend_from_slice(b",\"items\":[");
    for (at, object) in objects.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push(&mut out, object);
    }
    out.extend_from_slice(b"]}");
    out
}
