//! Drops what the stock server does not keep: nulls, empty strings and empty lists of optional
//! fields, which there are the same as absent.
//!
//! Works on the JSON before it is decoded, so that `nodeName: ""` and no `nodeName` are one case
//! for defaults, validation and every reader after them. Names of members decide, because the
//! rules of all built-in kinds agree on them; it is never used on custom resources.

use serde_json::{Map, Value};

/// Members whose values are maps of the user's own: an empty value there means something.
const MAPS: [&str; 12] = [
    "annotations",
    "binaryData",
    "data",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "overhead",
    "requests",
    "stringData",
    "capacity",
    "allocatable",
];

/// Members that tell an empty string from an absent one.
const POINTERS: [&str; 8] =
    ["appProtocol", "hostname", "ingressClassName", "name", "pathType", "runtimeClassName", "type", "zone"];

/// Removes empty members all the way down.
pub fn drop_empty(object: &mut Map<String, Value>) {
    object.retain(|key, value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty() || POINTERS.contains(&key.as_str()),
        Value::Array(items) => {
            for item in items.iter_mut() {
                if let Value::Object(item) = item {
                    drop_empty(item);
                }
            }
            !items.is_empty()
        }
        Value::Object(map) if MAPS.contains(&key.as_str()) => !map.is_empty(),
        // A Service's selector is a map, a Deployment's an object; only the first holds strings,
        // and both keep them.
        Value::Object(map) if key == "selector" && map.values().all(Value::is_string) => true,
        Value::Object(map) => {
            drop_empty(map);
            true
        }
        _ => true,
    });
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
                "containers": [{"name": "", "args": [], "env": [{"name": "A", "value": ""}]}],
            },
        });
        drop_empty(value.as_object_mut().unwrap());
        assert_eq!(
            value,
            json!({
                "metadata": {"labels": {"a": ""}},
                "spec": {
                    "securityContext": {}, "runtimeClassName": "",
                    "containers": [{"name": "", "env": [{"name": "A"}]}],
                },
            })
        );
    }
}
