//! The form of a body before it is decoded: nothing that means nothing, and quantities canonical.
//!
//! The stock server does not keep nulls, empty strings and empty lists of optional fields, which
//! there are the same as absent: so `nodeName: ""` and no `nodeName` are one case for defaults,
//! validation and every reader after them. Names of members decide, because all built-in kinds
//! agree on them; it is never used on custom resources.

use proa_api::quantity::{ParseError, canonical};
use serde_json::{Map, Value};

/// Members whose values are maps of the user's own: an empty value there means something.
const MAPS: [&str; 10] = [
    "annotations",
    "attachmentMetadata",
    "binaryData",
    "data",
    "labels",
    "matchLabels",
    "nodeSelector",
    "stringData",
    "deprecatedTopology",
    "volumeAttributes",
];

/// Members whose values are maps of quantities.
const QUANTITIES: [&str; 14] = [
    "allocatable",
    "allocatedResources",
    "capacity",
    "default",
    "defaultRequest",
    "hard",
    "limits",
    "max",
    "maxLimitRequestRatio",
    "min",
    "overhead",
    "podFixed",
    "requests",
    "used",
];

/// Members that are quantities.
const QUANTITY: [&str; 2] = ["divisor", "sizeLimit"];

/// Members that tell an empty string from an absent one.
const POINTERS: [&str; 4] = ["appProtocol", "ingressClassName", "runtimeClassName", "storageClassName"];

/// Removes empty members and makes quantities canonical, all the way down. An error is a quantity
/// that is none.
pub fn tidy(object: &mut Map<String, Value>) -> Result<(), ParseError> {
    object.retain(|key, value| !is_nothing(key, value));
    for (key, value) in object.iter_mut() {
        match value {
            Value::Array(items) => {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    tidy(item)?;
                }
            }
            // A RuntimeClass keeps its amounts one step further down.
            Value::Object(amounts)
                if QUANTITIES.contains(&key.as_str()) && !amounts.values().any(Value::is_object) =>
            {
                for amount in amounts.values_mut() {
                    quantity(amount)?;
                }
            }
            // A Service's selector is a map, a Deployment's an object; only the first holds strings.
            Value::Object(map) if is_map(key) || key == "selector" && map.values().all(Value::is_string) => {}
            // A StorageClass's parameters are a map, an IngressClass's an object with a kind.
            Value::Object(map) if key == "parameters" && !map.contains_key("kind") => {}
            Value::Object(map) => tidy(map)?,
            Value::String(_) | Value::Number(_) if QUANTITY.contains(&key.as_str()) => quantity(value)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_map(key: &str) -> bool {
    MAPS.contains(&key)
}

fn is_nothing(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !POINTERS.contains(&key),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && (is_map(key) || QUANTITIES.contains(&key)),
        _ => false,
    }
}

/// Numbers are quantities too: YAML's `cpu: 1`.
fn quantity(value: &mut Value) -> Result<(), ParseError> {
    let text = match value {
        Value::String(text) => canonical(text)?,
        Value::Number(number) => canonical(&number.to_string())?,
        _ => return Ok(()),
    };
    *value = Value::String(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_means_nothing_goes() {
        let mut value = json!({
            "metadata": {"labels": {"a": ""}, "annotations": {}, "creationTimestamp": null},
            "spec": {
                "nodeName": "", "securityContext": {}, "runtimeClassName": "",
                "overhead": {"cpu": 0.5, "memory": "1024Mi"},
                "containers": [{"name": "", "args": [], "env": [{"name": "A", "value": ""}]}],
            },
        });
        tidy(value.as_object_mut().unwrap()).unwrap();
        assert_eq!(
            value,
            json!({
                "metadata": {"labels": {"a": ""}},
                "spec": {
                    "securityContext": {}, "runtimeClassName": "",
                    "overhead": {"cpu": "500m", "memory": "1Gi"},
                    "containers": [{"env": [{"name": "A"}]}],
                },
            })
        );
    }
}
