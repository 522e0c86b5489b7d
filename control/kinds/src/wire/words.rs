//! Words of YAML 1.1: `yes` and `on` are booleans, `0644` is an octal number.
//!
//! Kubernetes reads YAML 1.1, the YAML library here 1.2, where these are texts. Fed by
//! [`super::decoded::Decoded::fit_to`], which knows the kind: a text becomes a boolean or a number only where
//! the kind has one, so that `data: {a: yes}` keeps what its writer typed. It never refuses anything:
//! what fits no field is left to the decoding of the kind.

use serde_json::Value;

use crate::schema::{Nature, Schema, Type, Types};

const TRUE: [&str; 8] = ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON"];
const FALSE: [&str; 8] = ["n", "N", "no", "No", "NO", "off", "Off", "OFF"];

/// Replaces the words in an object of this kind.
pub(super) fn replace(schema: &Schema, value: &mut Value) {
    walk(schema.types(), Type::Defined(schema.root()), value);
}

fn walk(types: &Types, type_: Type, value: &mut Value) {
    let read = match (type_, &mut *value) {
        (Type::Defined(id), Value::Object(object)) if types.get(id).nature == Nature::Object => {
            for (name, value) in object.iter_mut() {
                if let Some(field) = types.field(id, name) {
                    walk(types, field.slot.type_, value);
                }
            }
            None
        }
        (Type::List(inner), Value::Array(items)) => {
            items.iter_mut().for_each(|item| walk(types, types.inner(inner).type_, item));
            None
        }
        (Type::Map(inner), Value::Object(map)) => {
            map.values_mut().for_each(|item| walk(types, types.inner(inner).type_, item));
            None
        }
        (Type::Bool, Value::String(word)) => boolean(word).map(Value::Bool),
        (Type::Int32 | Type::Int64, Value::String(word)) => octal(word).map(Value::from),
        _ => None,
    };
    if let Some(read) = read {
        *value = read;
    }
}

fn boolean(word: &str) -> Option<bool> {
    if TRUE.contains(&word) {
        return Some(true);
    }
    FALSE.contains(&word).then_some(false)
}

fn octal(word: &str) -> Option<i64> {
    let (sign, digits) = word.strip_prefix('-').map_or((1, word), |digits| (-1, digits));
    let digits = digits.strip_prefix('0').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    i64::from_str_radix(digits, 8).ok().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(kind: &str, mut value: Value, expected: Value) {
        replace(&Schema::built_in("v1", kind).unwrap(), &mut value);
        assert_eq!(value, expected);
    }

    #[test]
    fn words_are_read_where_the_kind_has_booleans_and_numbers() {
        check(
            "ConfigMap",
            json!({"immutable": "yes", "data": {"a": "yes"}}),
            json!({"immutable": true, "data": {"a": "yes"}}),
        );
        check(
            "Pod",
            json!({"metadata": {"name": "on"}, "spec": {"hostNetwork": "off", "volumes": [
                {"name": "no", "secret": {"defaultMode": "0644", "secretName": "0644"}},
                {"name": "x", "configMap": {"defaultMode": "0999", "optional": "maybe"}},
            ]}}),
            json!({"metadata": {"name": "on"}, "spec": {"hostNetwork": false, "volumes": [
                {"name": "no", "secret": {"defaultMode": 0o644, "secretName": "0644"}},
                {"name": "x", "configMap": {"defaultMode": "0999", "optional": "maybe"}},
            ]}}),
        );
    }
}
