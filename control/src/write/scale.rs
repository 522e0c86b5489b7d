//! The scale subresource: `autoscaling/v1 Scale` as a view of an object.

use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::Kind;
use proa_kinds::schema::Schema;
use serde_json::{Map, Value, json};

use super::metadata;
use crate::store::Object;

/// What a Scale is.
pub fn schema() -> Option<Schema> {
    Schema::built_in("autoscaling/v1", "Scale")
}

/// The `autoscaling/v1 Scale` of an object.
///
/// # Errors
/// 404 if the kind has no scale.
pub fn of(kind: &Kind, object: &Object) -> Result<Value, Refusal> {
    let paths = kind.scale().ok_or_else(Refusal::no_such_path)?;
    let value = object.value();
    let size = paths.read(&value);
    let mut shown = Map::new();
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(text) = value["metadata"].get(member) {
            shown.insert(member.to_owned(), text.clone());
        }
    }
    let mut spec = Map::new();
    if size.wanted != 0 {
        spec.insert("replicas".to_owned(), size.wanted.into());
    }
    let mut status = json!({ "replicas": size.there });
    if !size.selector.is_empty() {
        status["selector"] = size.selector.into();
    }
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": shown, "spec": spec, "status": status,
    }))
}

/// The object with the replicas that a Scale asks for, and with the Scale's resourceVersion.
pub(super) fn apply(kind: &Kind, old: &Value, scale: &Value) -> Result<Value, Refusal> {
    let paths = kind.scale().ok_or_else(Refusal::no_such_path)?;
    // A patch makes of a Scale whatever it says, which nothing has looked at.
    if let Some(why) = schema().and_then(|schema| schema.misfit(scale)) {
        return Err(Refusal::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: {why}"
        )));
    }
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        let mut errors = FieldErrors::new();
        let spec = Path::root("spec");
        errors.invalid(&spec.field("replicas"), replicas, "must be greater than or equal to 0");
        return Err(Refusal::invalid("autoscaling", "Scale", metadata::text(old, "name"), &errors));
    }
    let mut new = old.clone();
    let mut place = &mut new;
    for step in paths.spec_replicas.split('/').skip(1) {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Some(object) = place.as_object_mut() else {
            return Err(Refusal::internal(format!(
                "{} of a stored {} is no field",
                paths.spec_replicas, kind.kind
            )));
        };
        place = object.entry(step).or_insert(Value::Null);
    }
    *place = replicas.into();
    let uid = metadata::text(scale, "uid").to_owned();
    if !uid.is_empty() {
        metadata::metadata(&mut new).insert("uid".to_owned(), uid.into());
    }
    Ok(new)
}
