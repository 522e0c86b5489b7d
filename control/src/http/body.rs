//! Objects and options that clients send, checked as far as the path says what they must be.
//!
//! Decoding is [`proa_kinds::wire`]'s; whether the object follows its kind's rules is the registry's.

use proa_api::Refusal;
use proa_kinds::Kind;
use serde_json::Value;

use super::api::Call;
use super::query::{FieldValidation, check_dry_run};
use crate::registry::DeleteOptions;
use proa_kinds::schema::Schema;
use proa_kinds::wire::{self, Decoded};

/// An object that a client sent.
pub struct Sent {
    /// With `apiVersion` and `kind` set.
    pub value: Value,
    /// What the client is to be warned of.
    pub warnings: Vec<String>,
}

/// The body as JSON. What it takes in memory is held as long as the request is served.
fn decoded(call: &Call) -> Result<Decoded, Refusal> {
    let decoded = wire::decode(&call.media_type(), &call.body)?;
    call.held.grow(decoded.bytes)?;
    Ok(decoded)
}

/// The body as an object of `kind`.
pub fn object(kind: &Kind, call: &Call, options: &str) -> Result<Sent, Refusal> {
    let validation = call.query.field_validation(options)?;
    let mut decoded = decoded(call)?;
    wire::expect_kind(&kind.api_version(), &kind.kind, &mut decoded.value)?;
    decoded.fit_to(kind);
    let warnings = checked(validation, (&kind.version, &kind.kind), || decoded.complaints(kind))?;
    let mut value = decoded.value;
    expect_place(kind, &mut value, call)?;
    Ok(Sent { value, warnings })
}

/// What the client is to be warned of, if that refuses nothing.
fn checked(
    validation: FieldValidation,
    (version, kind): (&str, &str),
    complaints: impl FnOnce() -> Vec<String>,
) -> Result<Vec<String>, Refusal> {
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let complaints = complaints();
    if validation == FieldValidation::Strict && !complaints.is_empty() {
        return Err(wire::strict_refusal(version, kind, &complaints));
    }
    Ok(complaints)
}

/// The body as an object that is not in the table, such as a review or a Scale.
pub fn unstored(api_version: &str, kind: &str, call: &Call, options: &str) -> Result<Sent, Refusal> {
    unstored_of(&[api_version], kind, call, options)
}

/// [`unstored`] for a kind whose older versions have the same shape; the first version is the one
/// that a body without any is taken for.
pub fn unstored_of(api_versions: &[&str], kind: &str, call: &Call, options: &str) -> Result<Sent, Refusal> {
    let validation = call.query.field_validation(options)?;
    let mut decoded = decoded(call)?;
    let said = decoded.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let known = api_versions.iter().find(|version| **version == said);
    let expected = known.or(api_versions.first()).copied().unwrap_or_default();
    wire::expect_kind(expected, kind, &mut decoded.value)?;
    let schema = expect_types(kind, &decoded.value)?;
    let version = expected.rsplit('/').next().unwrap_or_default();
    let warnings = checked(validation, (version, kind), || decoded.complaints_by(&schema))?;
    Ok(Sent { value: decoded.value, warnings })
}

/// Refuses a body with a value of another type than its field: what cannot be read never counts as
/// absent. Gives the schema of the kind.
fn expect_types(kind: &str, value: &Value) -> Result<Schema, Refusal> {
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    // Older versions of what is not stored have the shape of today's.
    let group = version.rsplit_once('/').map(|(group, _)| format!("{group}/v1"));
    let known = Schema::built_in(version, kind)
        .or_else(|| Schema::built_in(&group.unwrap_or_else(|| "v1".to_owned()), kind));
    let Some(schema) = known else {
        return Err(Refusal::internal(format!("there is no schema of {kind}")));
    };
    match schema.misfit(value) {
        None => Ok(schema),
        Some(why) => Err(Refusal::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {kind}: {why}",
            version.rsplit('/').next().unwrap_or_default(),
        ))),
    }
}

/// The options of delete and deletecollection, from the body and, where that is silent, from the
/// parameters.
pub fn delete_options(call: &Call) -> Result<DeleteOptions, Refusal> {
    let body = if call.body.is_empty() {
        Value::Null
    } else {
        let mut value = decoded(call)?.value;
        // Clients send options in the version of the group too, such as apps/v1.
        if value.get("kind").and_then(Value::as_str) != Some("DeleteOptions") {
            wire::expect_kind("v1", "DeleteOptions", &mut value)?;
        }
        expect_types("DeleteOptions", &value)?;
        value
    };
    let mut options = DeleteOptions::read(&body)?;
    let mut dry_run: Vec<&str> = body
        .get("dryRun")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    dry_run.extend(call.query.all("dryRun"));
    options.dry_run = check_dry_run(&dry_run, "DeleteOptions")?;

    let query = &call.query;
    let orphan = || {
        let policy = if query.flag("orphanDependents") { "Orphan" } else { "Background" };
        query.has("orphanDependents").then(|| policy.to_owned())
    };
    options.propagation_policy = options
        .propagation_policy
        .or_else(|| query.get("propagationPolicy").map(str::to_owned))
        .or_else(orphan);
    if options.grace_period_seconds.is_none() {
        options.grace_period_seconds = query.number("gracePeriodSeconds")?;
    }
    Ok(options)
}

/// Refuses a body that names another namespace or object than the path; sets the namespace where
/// it is left out.
fn expect_place(kind: &Kind, value: &mut Value, call: &Call) -> Result<(), Refusal> {
    let unrecognized = || Refusal::bad_request("metadata must be an object");
    let object = value.as_object_mut().ok_or_else(unrecognized)?;
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(serde_json::Map::new());
    }
    let metadata = metadata.as_object_mut().ok_or_else(unrecognized)?;
    let sent = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if kind.namespaced && sent.is_empty() {
        metadata.insert("namespace".to_owned(), call.namespace().into());
    } else if sent != call.namespace() {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    match call.path.name.as_deref() {
        Some(wanted) if name.is_empty() => {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
            )));
        }
        Some(wanted) if name != wanted => {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({wanted})"
            )));
        }
        _ => {}
    }
    Ok(())
}
