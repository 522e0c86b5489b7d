//! Values of another type than their field: what no rule may take for an absent one.
//!
//! Asked about bodies that are not stored, and so are never decoded into their kind's Rust type:
//! reviews, options, bindings.

use std::fmt::Write;

use serde_json::Value;

use crate::decode::said;

use super::{Field, MessageId, Nature, Shape, Type, messages};

/// Why a value cannot be read as this message, in the words of the stock server; none if it can.
/// Fields that the message does not have are not looked at.
pub fn misfit(id: MessageId, value: &Value) -> Option<String> {
    in_message(id, value, &mut String::new())
}

fn in_message(id: MessageId, value: &Value, path: &mut String) -> Option<String> {
    let table = messages();
    let message = table.get(id);
    let short = message.name.rsplit('.').next().unwrap_or(message.name);
    match (message.nature, value) {
        (_, Value::Null) | (Nature::RawJson | Nature::SchemaOrBool | Nature::SchemaOrList, _) => None,
        (Nature::Time | Nature::MicroTime, Value::String(text)) => {
            let is_time = text.parse::<jiff::Timestamp>().is_ok();
            (!is_time).then(|| format!("parsing time {text:?}: it is no RFC 3339 time"))
        }
        (Nature::Quantity, Value::String(_) | Value::Number(_)) => None,
        (Nature::IntOrString, Value::String(_)) => None,
        (Nature::IntOrString, Value::Number(number)) if number.is_i64() => None,
        (Nature::Items, Value::Array(_)) => {
            message.fields.first().and_then(|field| in_field(field, short, value, path))
        }
        (Nature::Object, Value::Object(members)) => members.iter().find_map(|(name, member)| {
            let field = table.field(id, name)?;
            let before = path.len();
            write!(path, "{}{name}", if before == 0 { "" } else { "." }).ok()?;
            let found = in_field(field, short, member, path);
            path.truncate(before);
            found
        }),
        _ => Some(cannot(value, short, path, short)),
    }
}

fn in_field(field: &Field, holder: &str, value: &Value, path: &mut String) -> Option<String> {
    match (field.shape, value) {
        (_, Value::Null) => None,
        (Shape::One, _) => in_type(field.type_, holder, value, path),
        (Shape::List, Value::Array(items)) => {
            items.iter().find_map(|item| in_type(field.type_, holder, item, path))
        }
        (Shape::Map, Value::Object(members)) => {
            members.values().find_map(|member| in_type(field.type_, holder, member, path))
        }
        (Shape::List, _) => Some(cannot(value, holder, path, &format!("[]{}", go_name(field.type_)))),
        (Shape::Map, _) => Some(cannot(value, holder, path, &format!("map[string]{}", go_name(field.type_)))),
    }
}

fn in_type(type_: Type, holder: &str, value: &Value, path: &mut String) -> Option<String> {
    let fits = match (type_, value) {
        (Type::Message(inner), _) => return in_message(inner, value, path),
        (Type::Text | Type::Bytes, Value::String(_)) | (Type::Bool, Value::Bool(_)) => true,
        (Type::Integer, Value::Number(number)) => number.is_i64(),
        (Type::Float, Value::Number(_)) => true,
        _ => false,
    };
    (!fits).then(|| cannot(value, holder, path, &go_name(type_)))
}

fn cannot(value: &Value, holder: &str, path: &str, wanted: &str) -> String {
    let said = said(value);
    format!("json: cannot unmarshal {said} into Go struct field {holder}.{path} of type {wanted}")
}

fn go_name(type_: Type) -> String {
    match type_ {
        Type::Text => "string".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Integer => "int64".to_owned(),
        Type::Float => "float64".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Message(id) => {
            let name = messages().get(id).name;
            format!("v1.{}", name.rsplit('.').next().unwrap_or(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::message_of;

    fn check(kind: (&str, &str), value: Value) -> String {
        misfit(message_of(kind.0, kind.1).unwrap(), &value).unwrap_or_default()
    }

    #[test]
    fn values_of_another_type_are_named() {
        let delete = ("v1", "DeleteOptions");
        for (body, field) in [
            (json!({"dryRun": "All"}), "DeleteOptions.dryRun of type []string"),
            (json!({"dryRun": [1]}), "DeleteOptions.dryRun of type string"),
            (json!({"preconditions": {"uid": 5}}), "Preconditions.preconditions.uid of type string"),
            (json!({"preconditions": "x"}), "Preconditions.preconditions of type Preconditions"),
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
