//! Decodes a body into its kind's type, and says what does not fit as the stock server does.
//!
//! The schema is walked only after decoding has failed, to find the field and the type that it
//! should have had.

use k8s_openapi::Resource;
use proa_api::Refusal;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes `value`; a refusal names the field that does not fit.
pub fn decode<T: Resource + DeserializeOwned + JsonSchema>(value: Value) -> Result<T, Refusal> {
    T::deserialize(&value).map_err(|error| refusal::<T>(&why::<T>(&value, &error)))
}

/// What does not fit, if anything does not.
pub fn misfit<T: DeserializeOwned + JsonSchema>(value: &Value) -> Option<String> {
    T::deserialize(value).err().map(|error| why::<T>(value, &error))
}

fn why<T: JsonSchema>(value: &Value, error: &serde_json::Error) -> String {
    mismatch::<T>(value).unwrap_or_else(|| error.to_string())
}

/// 400, with the kind and version that could not be read.
pub fn refusal<T: Resource>(why: &str) -> Refusal {
    Refusal::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}",
        kind = T::KIND,
        version = T::VERSION
    ))
}

/// Where a value stands: the struct that holds the field, and the field's path without indices.
#[derive(Clone)]
struct Place {
    holder: String,
    path: String,
}

fn mismatch<T: JsonSchema>(value: &Value) -> Option<String> {
    let mut generator = SchemaGenerator::default();
    let root = generator.subschema_for::<T>().to_value();
    let definitions = generator.definitions();
    let find = |name: &str| definitions.get(name);
    let place = Place { holder: String::new(), path: String::new() };
    walk(&find, &root, value, &place)
}

type Find<'a> = dyn Fn(&str) -> Option<&'a Value> + 'a;

fn walk<'a>(find: &Find<'a>, schema: &Value, value: &Value, place: &Place) -> Option<String> {
    let mut schema = schema;
    let mut holder = place.holder.clone();
    if let Some(name) = referenced(schema) {
        holder = name.rsplit('.').next().unwrap_or(name).to_owned();
        schema = find(name)?;
    }
    if value.is_null() {
        return None;
    }
    let wanted = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    match (wanted, value) {
        ("object", Value::Object(members)) => members.iter().find_map(|(key, member)| {
            let path = if place.path.is_empty() { key.clone() } else { format!("{}.{key}", place.path) };
            if let Some(schema) = schema.pointer("/properties").and_then(|p| p.get(key)) {
                return walk(find, schema, member, &Place { holder: holder.clone(), path });
            }
            let values = schema.get("additionalProperties")?;
            walk(find, values, member, &Place { holder: place.holder.clone(), path: place.path.clone() })
        }),
        ("array", Value::Array(items)) => {
            let inner = schema.get("items")?;
            items.iter().find_map(|item| walk(find, inner, item, place))
        }
        ("string", Value::String(text)) => bad_text(schema, text),
        ("integer", Value::Number(number)) if number.is_i64() => {
            let small = schema.get("format").and_then(Value::as_str) == Some("int32");
            (small && number.as_i64().is_some_and(|n| i32::try_from(n).is_err()))
                .then(|| cannot(&format!("number {number}"), place, "int32"))
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) | ("", _) => None,
        _ => Some(cannot(&said(value), place, &go_type(schema, &holder, wanted))),
    }
}

fn referenced(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    let nested = || schema.pointer("/allOf/0/$ref").and_then(Value::as_str);
    direct.or_else(nested)?.rsplit('/').next()
}

fn bad_text(schema: &Value, text: &str) -> Option<String> {
    match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => text.parse::<jiff::Timestamp>().err().map(|_| {
            format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            )
        }),
        Some("byte") => text
            .bytes()
            .position(|b| !(b.is_ascii_alphanumeric() || b"+/=".contains(&b)))
            .or_else(|| (!text.len().is_multiple_of(4)).then_some(text.len()))
            .map(|at| format!("illegal base64 data at input byte {at}")),
        _ => None,
    }
}

fn cannot(what: &str, place: &Place, wanted: &str) -> String {
    format!(
        "json: cannot unmarshal {what} into Go struct field {}.{} of type {wanted}",
        place.holder, place.path
    )
}

/// What Go calls the type of a JSON value.
pub(crate) fn said(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_i64() => "number".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// The name users know from the stock server, which names its own types.
fn go_type(schema: &Value, holder: &str, wanted: &str) -> String {
    match wanted {
        "integer" => schema.get("format").and_then(Value::as_str).unwrap_or("int64").to_owned(),
        "boolean" => "bool".to_owned(),
        "array" => match schema.get("items") {
            Some(items) => match referenced(items) {
                Some(name) => format!("[]v1.{}", name.rsplit('.').next().unwrap_or(name)),
                None => {
                    let inner = items.get("type").and_then(Value::as_str).unwrap_or_default();
                    format!("[]{}", go_type(items, holder, inner))
                }
            },
            None => "[]string".to_owned(),
        },
        "object" if schema.get("additionalProperties").is_some() => "map[string]string".to_owned(),
        "object" => format!("v1.{holder}"),
        other => other.to_owned(),
    }
}
