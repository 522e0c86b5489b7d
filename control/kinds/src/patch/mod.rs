//! The three patch types: current object and patch in, patched object out.
//!
//! Fed by the HTTP layer through the registry, which calls it again when another write came
//! between. It decides nothing about what may change; the patched object goes through the same
//! validation as an update. Server-side apply is not done here: it needs field ownership.

mod list;
mod strategic;

use crate::Kind;
use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use proa_api::Refusal;
use serde_json::Value;

use crate::schema::Schema;
use crate::wire;
use strategic::{Fault, Object};

/// Operations in one JSON patch, as the stock server limits them.
const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// Bytes that the `copy` operations of one JSON patch may add.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// How many elements the operations of one JSON patch may move to another place of their list: each
/// `add` and `remove` moves all that stand behind it.
const MAX_MOVED_ELEMENTS: usize = 10_000_000;

/// The media types of patches, in the order error texts name them.
pub const MEDIA_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// What kind of patch a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Merge by the keys of lists:
    /// <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>.
    Strategic,
}

impl Type {
    /// The type that a request's Content-Type names; 415 for any other.
    pub fn from_content_type(content_type: &str) -> Result<Type, Refusal> {
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json-patch+json" => Ok(Type::Json),
            "application/merge-patch+json" => Ok(Type::Merge),
            "application/strategic-merge-patch+json" => Ok(Type::Strategic),
            _ => Err(Refusal::unsupported_media_type(&MEDIA_TYPES)),
        }
    }
}

/// Applies a patch to `current`. The result keeps the apiVersion and kind of `current`: a patch
/// that changes them is refused.
///
/// `current` may be a subresource of `kind`, such as a Scale; its own apiVersion and kind decide how
/// its lists merge.
pub fn apply(kind: &Kind, type_: Type, current: &Value, body: &[u8]) -> Result<Value, Refusal> {
    let text = |key: &str| current.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut api_version, mut kind_name) = (text("apiVersion"), text("kind"));
    if api_version.is_empty() || kind_name.is_empty() {
        (api_version, kind_name) = (kind.api_version(), kind.kind.clone());
    }
    let budget = wire::Budget::new();
    let malformed = |e: String| match type_ {
        Type::Json => Refusal::bad_request(format!("error decoding patch: {e}")),
        _ => Refusal::bad_request(format!("invalid JSON document: {e}")),
    };
    let patch = wire::json_value(body, &budget).map_err(|e| budget.refusal(|| malformed(e)))?;
    let mut patched = match type_ {
        Type::Json => json(current, patch.value)?,
        Type::Merge => {
            if !patch.value.is_object() {
                return Err(Refusal::bad_request("a merge patch of an object must be an object"));
            }
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &patch.value);
            patched
        }
        Type::Strategic => {
            let schema = Schema::built_in(&api_version, &kind_name)
                .ok_or_else(|| Refusal::unsupported_media_type(&MEDIA_TYPES[..2]))?;
            let Value::Object(patch) = patch.value else {
                return Err(Refusal::bad_request("a strategic merge patch must be an object"));
            };
            let original = current.as_object().cloned().unwrap_or_default();
            Value::Object(strategic::merge_map(original, patch, Object::of(&schema)).map_err(Fault::refusal)?)
        }
    };
    if wire::deeper_than(&patched, wire::MAX_DEPTH) {
        return Err(Refusal::bad_request(format!(
            "the patched object is nested deeper than {} levels",
            wire::MAX_DEPTH
        )));
    }
    // What is there already can be made smaller step by step.
    let weight = wire::weight(&patched);
    if weight > wire::MAX_WEIGHT && weight > wire::weight(current) {
        return Err(wire::too_heavy());
    }
    wire::expect_kind(&api_version, &kind_name, &mut patched)?;
    Ok(patched)
}

fn json(current: &Value, operations: Value) -> Result<Value, Refusal> {
    let count = operations.as_array().map_or(0, Vec::len);
    if count > MAX_JSON_PATCH_OPERATIONS {
        return Err(Refusal::entity_too_large(format_args!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {count}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(operations)
        .map_err(|e| Refusal::bad_request(format!("error decoding patch: {e}")))?;
    let mut patched = current.clone();
    let (mut copied, mut moved) = (0, 0);
    for operation in patch.iter() {
        if let PatchOperation::Copy(copy) = operation
            && let Some(source) = patched.pointer(copy.from.as_str())
        {
            copied += size(source);
            if copied > MAX_COPIED_BYTES {
                return Err(unprocessable("the copy operations add more than 3 MiB"));
            }
        }
        moved += taken_from(operation).map_or(0, |path| behind(&patched, path));
        // A failed operation leaves `patched` half done, which is why it is a copy.
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation)).map_err(unprocessable)?;
        moved += put_to(operation).map_or(0, |path| behind(&patched, path));
        if moved > MAX_MOVED_ELEMENTS {
            return Err(Refusal::entity_too_large(format_args!(
                "The operations in a JSON patch may move {MAX_MOVED_ELEMENTS} elements of lists to other places"
            )));
        }
    }
    Ok(patched)
}

/// What an operation takes out of its place.
fn taken_from(operation: &PatchOperation) -> Option<&Pointer> {
    match operation {
        PatchOperation::Remove(remove) => Some(&remove.path),
        PatchOperation::Move(move_) => Some(&move_.from),
        _ => None,
    }
}

/// Where an operation puts something that was not there.
fn put_to(operation: &PatchOperation) -> Option<&Pointer> {
    match operation {
        PatchOperation::Add(add) => Some(&add.path),
        PatchOperation::Copy(copy) => Some(&copy.path),
        PatchOperation::Move(move_) => Some(&move_.path),
        _ => None,
    }
}

/// How many elements of its list stand behind what is at `path`.
fn behind(document: &Value, path: &Pointer) -> usize {
    let list = path.split_back().and_then(|(list, place)| Some((document.pointer(list.as_str())?, place)));
    let Some((Value::Array(items), place)) = list else { return 0 };
    // `-` is behind all.
    place.decoded().parse().map_or(0, |place: usize| items.len().saturating_sub(place))
}

/// 422 with the stock text; what is wrong stands in the details.
fn unprocessable(why: impl std::fmt::Display) -> Refusal {
    let mut refusal =
        Refusal::new(422, "Invalid", "the server rejected our request due to an error in our request");
    let cause = k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause {
        field: Some("patch".to_owned()),
        message: Some(why.to_string()),
        ..Default::default()
    };
    refusal.0.details.get_or_insert_default().causes.get_or_insert_default().push(cause);
    refusal
}

/// About how many bytes a value takes as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests;
