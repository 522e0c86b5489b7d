//! The scale subresource: `autoscaling/v1 Scale` as a view of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_api::selector::{Labels, Selector};
use proa_kinds::Kind;
use serde_json::{Map, Value, json};

use super::metadata;
use crate::store::Object;

/// The `autoscaling/v1 Scale` of an object.
///
/// # Errors
/// 404 if the kind has no scale.
pub fn of(kind: &Kind, object: &Object) -> Result<Value, Refusal> {
    let paths = kind.scale().ok_or_else(Refusal::no_such_path)?;
    let value = object.value();
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64);
    let mut shown = Map::new();
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(text) = value["metadata"].get(member) {
            shown.insert(member.to_owned(), text.clone());
        }
    }
    let mut spec = Map::new();
    if let Some(replicas) = number(&paths.spec_replicas).filter(|replicas| *replicas != 0) {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = json!({"replicas": number(&paths.status_replicas).unwrap_or(0)});
    if let Some(selector) = value.pointer(&paths.selector).map(selector_text).filter(|text| !text.is_empty())
    {
        status["selector"] = selector.into();
    }
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": shown, "spec": spec, "status": status,
    }))
}

fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let plain: Result<Labels, _> = serde_json::from_value(selector.clone());
    match plain {
        Ok(map) => Selector::from_map(&map).to_string(),
        Err(_) => match serde_json::from_value::<LabelSelector>(selector.clone()) {
            Ok(selector) => Selector::from_object(Some(&selector)).to_string(),
            Err(_) => String::new(),
        },
    }
}

/// The object with the replicas that a Scale asks for, and with the Scale's resourceVersion.
pub(super) fn apply(kind: &Kind, old: &Value, scale: &Value) -> Result<Value, Refusal> {
    let paths = kind.scale().ok_or_else(Refusal::no_such_path)?;
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(number) => number.as_i64().ok_or_else(|| {
            Refusal::bad_request(
                "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is not a number",
            )
        })?,
    };
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
