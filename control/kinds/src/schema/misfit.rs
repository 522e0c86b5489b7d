//! Values of another type than their field: what no rule may take for an absent one.
//!
//! Walked where an object could not be decoded, to find the field and the type that it should have had,
//! and for bodies that are never decoded into their kind's Rust type: reviews, options, bindings.

use std::fmt::Write;

use serde_json::Value;

use super::types::{DefinitionId, Nature, Type, Types};

/// See [`super::Schema::misfit`].
pub(super) fn misfit(types: &Types, id: DefinitionId, value: &Value) -> Option<String> {
    Walk { types }.value(Type::Defined(id), value, &mut Place { holder: "", path: String::new() })
}

struct Walk<'a> {
    types: &'a Types,
}

/// Where a value stands: the struct that holds the field, and the field's path without indices.
struct Place<'a> {
    holder: &'a str,
    path: String,
}

impl<'a> Walk<'a> {
    fn value(&self, type_: Type, value: &Value, place: &mut Place<'a>) -> Option<String> {
        let fits = match (type_, value) {
            (_, Value::Null) => true,
            (Type::Defined(id), _) => return self.defined(id, value, place),
            (Type::List(inner), Value::Array(items)) => {
                let inner = self.types.inner(inner).type_;
                return items.iter().find_map(|item| self.value(inner, item, place));
            }
            (Type::Map(inner), Value::Object(members)) => {
                let inner = self.types.inner(inner).type_;
                return members.values().find_map(|member| self.value(inner, member, place));
            }
            (Type::Bytes, Value::String(text)) => return illegal_base64(text),
            (Type::Int32, Value::Number(number)) if number.is_i64() => return beyond_int32(number, place),
            (Type::Int64, Value::Number(number)) => number.is_i64(),
            (Type::Text, Value::String(_)) | (Type::Bool, Value::Bool(_)) => true,
            (Type::Float, Value::Number(_)) => true,
            _ => false,
        };
        (!fits).then(|| cannot(&said(value), place, &self.go_name(type_)))
    }

    fn defined(&self, id: DefinitionId, value: &Value, place: &mut Place<'a>) -> Option<String> {
        let definition = self.types.get(id);
        match (definition.nature, value) {
            (Nature::RawJson | Nature::SchemaOrBool | Nature::SchemaOrList, _) => None,
            (Nature::Time | Nature::MicroTime, Value::String(text)) => no_time(text),
            (Nature::Quantity, Value::String(_) | Value::Number(_)) => None,
            (Nature::IntOrString, Value::String(_)) => None,
            (Nature::IntOrString, Value::Number(number)) if number.is_i64() => beyond_int32(number, place),
            (Nature::Items, _) => {
                definition.fields.first().and_then(|field| self.value(field.slot.type_, value, place))
            }
            (Nature::Object, Value::Object(members)) => members.iter().find_map(|(name, member)| {
                let field = self.types.field(id, name)?;
                let (holder, length) = (place.holder, place.path.len());
                place.holder = last(&definition.name);
                let dot = if length == 0 { "" } else { "." };
                write!(place.path, "{dot}{name}").ok()?;
                let found = self.value(field.slot.type_, member, place);
                place.path.truncate(length);
                place.holder = holder;
                found
            }),
            _ => Some(cannot(&said(value), place, &self.go_name(Type::Defined(id)))),
        }
    }

    /// The name users know from the stock server, which names its own types.
    fn go_name(&self, type_: Type) -> String {
        match type_ {
            Type::Text => "string".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::Int32 => "int32".to_owned(),
            Type::Int64 => "int64".to_owned(),
            Type::Float => "float64".to_owned(),
            Type::Bytes => "[]uint8".to_owned(),
            Type::List(inner) => format!("[]{}", self.go_name(self.types.inner(inner).type_)),
            Type::Map(inner) => format!("map[string]{}", self.go_name(self.types.inner(inner).type_)),
            Type::Defined(id) => match self.types.get(id).nature {
                Nature::Time | Nature::MicroTime => "string".to_owned(),
                Nature::IntOrString => "int32".to_owned(),
                _ if self.types.get(id).name.is_empty() => "map[string]interface {}".to_owned(),
                _ => format!("v1.{}", last(&self.types.get(id).name)),
            },
        }
    }
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn no_time(text: &str) -> Option<String> {
    text.parse::<jiff::Timestamp>().err().map(|_| {
        format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")
    })
}

fn illegal_base64(text: &str) -> Option<String> {
    let illegal = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || b"+/=".contains(&b)));
    let at = illegal.or_else(|| (!text.len().is_multiple_of(4)).then_some(text.len()))?;
    Some(format!("illegal base64 data at input byte {at}"))
}

fn beyond_int32(number: &serde_json::Number, place: &Place<'_>) -> Option<String> {
    let is_beyond = number.as_i64().is_some_and(|number| i32::try_from(number).is_err());
    is_beyond.then(|| cannot(&format!("number {number}"), place, "int32"))
}

fn cannot(what: &str, place: &Place<'_>, wanted: &str) -> String {
    let Place { holder, path } = place;
    format!("json: cannot unmarshal {what} into Go struct field {holder}.{path} of type {wanted}")
}

/// What Go calls the type of a JSON value.
fn said(value: &Value) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn check(kind: (&str, &str), value: Value) -> String {
        Schema::built_in(kind.0, kind.1).unwrap().misfit(&value).unwrap_or_default()
    }

    #[test]
    fn values_of_another_type_are_named() {
        let delete = ("v1", "DeleteOptions");
        for (body, field) in [
            (json!({"dryRun": "All"}), "DeleteOptions.dryRun of type []string"),
            (json!({"dryRun": [1]}), "DeleteOptions.dryRun of type string"),
            (json!({"preconditions": {"uid": 5}}), "Preconditions.preconditions.uid of type string"),
            (json!({"preconditions": "x"}), "DeleteOptions.preconditions of type v1.Preconditions"),
            (json!({"propagationPolicy": 5}), "DeleteOptions.propagationPolicy of type string"),
            (json!({"gracePeriodSeconds": 1.5}), "DeleteOptions.gracePeriodSeconds of type int64"),
        ] {
            let said = check(delete, body);
            assert!(said.ends_with(&format!("into Go struct field {field}")), "{said}");
        }
        let token = ("authentication.k8s.io/v1", "TokenRequest");
        for spec in
            [json!({"audiences": "vault"}), json!({"audiences": [5]}), json!("x"), json!([]), json!(true)]
        {
            assert!(!check(token, json!({ "spec": spec })).is_empty());
        }
        let good = json!({
            "kind": "DeleteOptions", "preconditions": {"uid": "u", "resourceVersion": null},
            "dryRun": ["All"], "gracePeriodSeconds": 0, "unknown": 5,
        });
        assert_eq!(check(delete, good), "");
        let pod = json!({"spec": {"containers": [{
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": "http"}},
        }]}, "metadata": {"creationTimestamp": null, "labels": {"a": "b"}}});
        assert_eq!(check(("v1", "Pod"), pod), "");
        assert!(!check(("v1", "Pod"), json!({"metadata": {"labels": {"a": 5}}})).is_empty());
    }
}
