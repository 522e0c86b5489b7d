//! The canonical form of an object, from the table of messages: what a Go client would write.
//!
//! Go leaves out the zero value of a field marked `omitempty`, and cannot tell it from an absent
//! one unless the field is a pointer. So `tty: false`, `nodePort: 0` and `nodeName: ""` are the same
//! as nothing, for defaults, validation, every reader after them and every comparison of two
//! objects; `replicas: 0` and `automountServiceAccountToken: false` are not. Only for the built-in
//! kinds: custom ones are stored as they are sent.

use proa_api::quantity::{ParseError, canonical};
use serde_json::{Map, Value};

use crate::schema::{Field, MessageId, Nature, Shape, Type, messages};

/// Which form an object is brought to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// What a client says: whatever is the same as absent goes.
    Said,
    /// What is stored: what Go writes although it says nothing stays.
    Stored,
}

/// Removes from a client's object what is the same as absent, and makes quantities canonical. An
/// error is a quantity that is none.
pub fn said(message: MessageId, object: &mut Map<String, Value>) -> Result<(), ParseError> {
    members(message, object, Form::Said)
}

/// Removes what Go leaves out from an object that is to be stored, and adds what it always writes.
pub fn stored(message: MessageId, object: &mut Map<String, Value>) {
    // Only quantities can be wrong, and those are left alone here.
    let _ = members(message, object, Form::Stored);
}

fn members(message: MessageId, object: &mut Map<String, Value>, form: Form) -> Result<(), ParseError> {
    let mut wrong = None;
    object.retain(|name, value| {
        let Some(field) = messages().field(message, name) else { return !value.is_null() };
        if let Err(error) = member(field, value, form) {
            wrong.get_or_insert(error);
        }
        !is_nothing(field, value, form)
    });
    if form == Form::Stored {
        fill(message, object);
    }
    wrong.map_or(Ok(()), Err)
}

/// Writes the zeroes that Go writes: who sets one, and who leaves it out, make the same object.
fn fill(message: MessageId, object: &mut Map<String, Value>) {
    let written = messages().get(message).fields.iter().filter(|field| field.by_value && !field.drop_zero);
    for field in written.filter(|field| field.shape == Shape::One) {
        let zero: Value = match field.type_ {
            Type::Text => "".into(),
            Type::Bool => false.into(),
            Type::Integer => 0.into(),
            Type::Float | Type::Bytes | Type::Message(_) => continue,
        };
        object.entry(field.name).or_insert(zero);
    }
}

fn member(field: &Field, value: &mut Value, form: Form) -> Result<(), ParseError> {
    match (field.shape, value) {
        (Shape::One, value) => one(field.type_, value, form),
        (Shape::List, Value::Array(items)) => {
            items.iter_mut().try_for_each(|item| one(field.type_, item, form))
        }
        (Shape::Map, Value::Object(entries)) => entries.values_mut().try_for_each(|value| {
            if value.is_null() {
                *value = zero_entry(field.type_);
            }
            one(field.type_, value, form)
        }),
        _ => Ok(()),
    }
}

fn one(type_: Type, value: &mut Value, form: Form) -> Result<(), ParseError> {
    let Type::Message(message) = type_ else { return Ok(()) };
    match (messages().get(message).nature, value) {
        (Nature::Object, Value::Object(object)) => members(message, object, form),
        (Nature::Quantity, value) if form == Form::Said => quantity(value),
        _ => Ok(()),
    }
}

/// What Go reads from `null` in a map, whose keys stay.
fn zero_entry(type_: Type) -> Value {
    match type_ {
        Type::Text | Type::Bytes => "".into(),
        Type::Message(id) if messages().get(id).nature == Nature::Quantity => "0".into(),
        _ => Value::Null,
    }
}

fn is_nothing(field: &Field, value: &Value, form: Form) -> bool {
    let goes = match form {
        Form::Said => field.by_value,
        Form::Stored => field.drop_zero,
    };
    value.is_null() || goes && is_zero(field, value)
}

/// A value of another type is nobody's zero, but an error to be told.
fn is_zero(field: &Field, value: &Value) -> bool {
    match (field.shape, field.type_, value) {
        (Shape::List, _, Value::Array(items)) => items.is_empty(),
        (Shape::Map, _, Value::Object(entries)) => entries.is_empty(),
        (Shape::One, Type::Text | Type::Bytes, Value::String(text)) => text.is_empty(),
        (Shape::One, Type::Bool, Value::Bool(value)) => !value,
        (Shape::One, Type::Integer | Type::Float, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Shape::One, Type::Message(id), Value::Object(object)) => {
            object.is_empty() && messages().get(id).nature == Nature::Object
        }
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
    use crate::built_in;
    use crate::schema::message_of;

    /// Brings a spec of a kind to both forms.
    #[track_caller]
    fn check(api_version: &str, kind: &str, spec: Value, expected_said: Value, expected_stored: Value) {
        let message = message_of(api_version, kind).unwrap();
        let mut value = json!({ "spec": spec });
        let mut object = value.as_object_mut().unwrap().clone();
        said(message, &mut object).unwrap();
        assert_eq!(object.get("spec").unwrap_or(&Value::Null), &expected_said, "said");
        let object = value.as_object_mut().unwrap();
        stored(message, object);
        assert_eq!(object.get("spec").unwrap_or(&Value::Null), &expected_stored, "stored");
    }

    #[test]
    fn what_go_leaves_out_goes_and_pointers_stay() {
        check(
            "v1",
            "Pod",
            json!({
                "hostNetwork": false, "hostPID": false, "nodeName": "", "runtimeClassName": "",
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "securityContext": {}, "tolerations": [], "nodeSelector": {}, "priority": 0,
                "containers": [{
                    "name": "", "tty": false, "stdin": false, "args": [], "resources": {"limits": {}},
                    "securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 0},
                    "ports": [{"containerPort": 80, "hostPort": 0, "hostIP": ""}],
                    "volumeMounts": [{"name": "a", "mountPath": "/a", "readOnly": false, "subPath": ""}],
                    "env": [{"name": "A", "value": ""}, {"name": "", "value": "x"}],
                    "readinessProbe": {"initialDelaySeconds": 0, "terminationGracePeriodSeconds": 0},
                }],
                "volumes": [{"name": "h", "hostPath": {"path": "/", "type": ""}},
                            {"name": "c", "configMap": {"name": "", "optional": false, "defaultMode": 0}}],
            }),
            json!({
                "runtimeClassName": "", "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0, "securityContext": {}, "priority": 0,
                "containers": [{
                    "securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 0},
                    "ports": [{"containerPort": 80}],
                    "volumeMounts": [{"name": "a", "mountPath": "/a"}],
                    "env": [{"name": "A"}, {"value": "x"}],
                    "readinessProbe": {"terminationGracePeriodSeconds": 0},
                }],
                "volumes": [{"name": "h", "hostPath": {"path": "/", "type": ""}},
                            {"name": "c", "configMap": {"optional": false, "defaultMode": 0}}],
            }),
            json!({
                "runtimeClassName": "", "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0, "securityContext": {}, "priority": 0,
                "containers": [{
                    "name": "", "resources": {},
                    "securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 0},
                    "ports": [{"containerPort": 80}],
                    "volumeMounts": [{"name": "a", "mountPath": "/a"}],
                    "env": [{"name": "A"}, {"name": "", "value": "x"}],
                    "readinessProbe": {"terminationGracePeriodSeconds": 0},
                }],
                "volumes": [{"name": "h", "hostPath": {"path": "/", "type": ""}},
                            {"name": "c", "configMap": {"optional": false, "defaultMode": 0}}],
            }),
        );
        let service = json!({"type": "ClusterIP", "clusterIP": "", "publishNotReadyAddresses": false,
            "ports": [{"port": 80, "nodePort": 0, "name": "", "appProtocol": ""}], "selector": {}});
        let canonical = json!({"type": "ClusterIP", "ports": [{"port": 80, "appProtocol": ""}]});
        check("v1", "Service", service, canonical.clone(), canonical);
        let scaled = json!({"replicas": 0, "paused": false, "minReadySeconds": 0, "strategy": {}});
        check(
            "apps/v1",
            "Deployment",
            scaled,
            json!({"replicas": 0}),
            json!({"replicas": 0, "strategy": {}}),
        );
    }

    /// A controller that sets a zero must find it again, or it sets it for ever.
    #[test]
    fn what_go_always_writes_is_there() {
        let message = message_of("apps/v1", "StatefulSet").unwrap();
        let mut value = json!({"spec": {}, "status": {"readyReplicas": 0}});
        stored(message, value.as_object_mut().unwrap());
        let expected =
            json!({"spec": {"serviceName": ""}, "status": {"replicas": 0, "availableReplicas": 0}});
        assert_eq!(value, expected);
    }

    #[test]
    fn members_of_maps_are_the_users_own() {
        let message = message_of("v1", "ConfigMap").unwrap();
        let mut value = json!({
            "immutable": false, "binaryData": {}, "data": {"a": "", "b": null},
            "metadata": {"labels": {"a": ""}, "annotations": {}, "creationTimestamp": null},
        });
        said(message, value.as_object_mut().unwrap()).unwrap();
        let expected =
            json!({"immutable": false, "data": {"a": "", "b": ""}, "metadata": {"labels": {"a": ""}}});
        assert_eq!(value, expected);
    }

    #[test]
    fn quantities_are_canonical_wherever_they_stand() {
        let message = message_of("node.k8s.io/v1", "RuntimeClass").unwrap();
        let mut value = json!({"overhead": {"podFixed": {"cpu": 0.5, "memory": "1024Mi"}}});
        said(message, value.as_object_mut().unwrap()).unwrap();
        assert_eq!(value, json!({"overhead": {"podFixed": {"cpu": "500m", "memory": "1Gi"}}}));
        let mut value = json!({"overhead": {"podFixed": {"cpu": "much"}}});
        assert!(said(message, value.as_object_mut().unwrap()).is_err());
    }

    #[test]
    fn every_built_in_kind_has_its_messages() {
        for kind in built_in::table().iter() {
            assert!(message_of(&kind.api_version(), &kind.kind).is_some(), "{}", kind.kind);
        }
    }
}
