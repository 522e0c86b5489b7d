//! The canonical form of an object, from its schema: what a Go client would write.
//!
//! Go leaves out the zero value of a field marked `omitempty`, and cannot tell it from an absent
//! one unless the field is a pointer. So `tty: false`, `nodePort: 0` and `nodeName: ""` are the same
//! as nothing, for defaults, validation, every reader after them and every comparison of two
//! objects; `replicas: 0` and `automountServiceAccountToken: false` are not. Only for the built-in
//! kinds: custom ones are stored as they are sent.

use proa_api::quantity::{ParseError, canonical};
use serde_json::{Map, Value};

use crate::schema::{DefinitionId, Field, Nature, Schema, Type, Types};

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
pub fn said(schema: &Schema, object: &mut Map<String, Value>) -> Result<(), ParseError> {
    members(schema.types(), schema.root(), object, Form::Said)
}

/// Removes what Go leaves out from an object that is to be stored, and adds what it always writes.
pub fn stored(schema: &Schema, object: &mut Map<String, Value>) {
    // Only quantities can be wrong, and those are left alone here.
    let _ = members(schema.types(), schema.root(), object, Form::Stored);
}

fn members(
    types: &Types,
    id: DefinitionId,
    object: &mut Map<String, Value>,
    form: Form,
) -> Result<(), ParseError> {
    let mut wrong = None;
    object.retain(|name, value| {
        let Some(field) = types.field(id, name) else { return !value.is_null() };
        if let Err(error) = member(types, field.slot.type_, value, form) {
            wrong.get_or_insert(error);
        }
        !is_nothing(types, field, value, form)
    });
    if form == Form::Stored {
        fill(types, id, object);
    }
    wrong.map_or(Ok(()), Err)
}

/// Writes the zeroes that Go writes: who sets one, and who leaves it out, make the same object.
fn fill(types: &Types, id: DefinitionId, object: &mut Map<String, Value>) {
    for field in types.get(id).fields.iter().filter(|field| field.by_value && !field.drop_zero) {
        let zero: Value = match field.slot.type_ {
            Type::Text => "".into(),
            Type::Bool => false.into(),
            Type::Int32 | Type::Int64 => 0.into(),
            Type::Float | Type::Bytes | Type::Defined(_) | Type::List(_) | Type::Map(_) => continue,
        };
        object.entry(&*field.name).or_insert(zero);
    }
}

fn member(types: &Types, type_: Type, value: &mut Value, form: Form) -> Result<(), ParseError> {
    match (type_, value) {
        (Type::List(inner), Value::Array(items)) => {
            let inner = types.inner(inner).type_;
            items.iter_mut().try_for_each(|item| member(types, inner, item, form))
        }
        (Type::Map(inner), Value::Object(entries)) => {
            let inner = types.inner(inner).type_;
            entries.values_mut().try_for_each(|value| {
                if value.is_null() {
                    *value = zero_entry(types, inner);
                }
                member(types, inner, value, form)
            })
        }
        (Type::Defined(id), value) => match (types.get(id).nature, value) {
            (Nature::Object, Value::Object(object)) => members(types, id, object, form),
            (Nature::Quantity, value) if form == Form::Said => quantity(value),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// What Go reads from `null` in a map, whose keys stay.
fn zero_entry(types: &Types, type_: Type) -> Value {
    match type_ {
        Type::Text | Type::Bytes => "".into(),
        _ if types.nature(type_) == Some(Nature::Quantity) => "0".into(),
        _ => Value::Null,
    }
}

fn is_nothing(types: &Types, field: &Field, value: &Value, form: Form) -> bool {
    let goes = match form {
        Form::Said => field.by_value,
        Form::Stored => field.drop_zero,
    };
    value.is_null() || goes && is_zero(types, field.slot.type_, value)
}

/// A value of another type is nobody's zero, but an error to be told.
fn is_zero(types: &Types, type_: Type, value: &Value) -> bool {
    match (type_, value) {
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(entries)) => entries.is_empty(),
        (Type::Text | Type::Bytes, Value::String(text)) => text.is_empty(),
        (Type::Bool, Value::Bool(value)) => !value,
        (Type::Int32 | Type::Int64 | Type::Float, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Type::Defined(_), Value::Object(object)) => {
            object.is_empty() && types.nature(type_) == Some(Nature::Object)
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

    /// Brings a spec of a kind to both forms.
    #[track_caller]
    fn check(api_version: &str, kind: &str, spec: Value, expected_said: Value, expected_stored: Value) {
        let schema = Schema::built_in(api_version, kind).unwrap();
        let mut value = json!({ "spec": spec });
        let mut object = value.as_object_mut().unwrap().clone();
        said(&schema, &mut object).unwrap();
        assert_eq!(object.get("spec").unwrap_or(&Value::Null), &expected_said, "said");
        let object = value.as_object_mut().unwrap();
        stored(&schema, object);
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
        let schema = Schema::built_in("apps/v1", "StatefulSet").unwrap();
        let mut value = json!({"spec": {}, "status": {"readyReplicas": 0}});
        stored(&schema, value.as_object_mut().unwrap());
        let expected =
            json!({"spec": {"serviceName": ""}, "status": {"replicas": 0, "availableReplicas": 0}});
        assert_eq!(value, expected);
    }

    #[test]
    fn members_of_maps_are_the_users_own() {
        let schema = Schema::built_in("v1", "ConfigMap").unwrap();
        let mut value = json!({
            "immutable": false, "binaryData": {}, "data": {"a": "", "b": null},
            "metadata": {"labels": {"a": ""}, "annotations": {}, "creationTimestamp": null},
        });
        said(&schema, value.as_object_mut().unwrap()).unwrap();
        let expected =
            json!({"immutable": false, "data": {"a": "", "b": ""}, "metadata": {"labels": {"a": ""}}});
        assert_eq!(value, expected);
    }

    #[test]
    fn quantities_are_canonical_wherever_they_stand() {
        let schema = Schema::built_in("node.k8s.io/v1", "RuntimeClass").unwrap();
        let mut value = json!({"overhead": {"podFixed": {"cpu": 0.5, "memory": "1024Mi"}}});
        said(&schema, value.as_object_mut().unwrap()).unwrap();
        assert_eq!(value, json!({"overhead": {"podFixed": {"cpu": "500m", "memory": "1Gi"}}}));
        let mut value = json!({"overhead": {"podFixed": {"cpu": "much"}}});
        assert!(said(&schema, value.as_object_mut().unwrap()).is_err());
    }

    /// What a schema describes is no part of what it is.
    #[test]
    fn schemas_in_definitions_stay_as_they_are() {
        let schema = Schema::built_in("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
        let properties = json!({
            "max": {"type": "integer", "default": 0}, "limits": {"type": "string", "default": ""},
            "cpu": {"type": "boolean", "default": false, "enum": ["", 0, false, "1000m"]},
            "status": {"type": "object", "default": {}, "example": {"cpu": "1000m"}},
        });
        let open = json!({"schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}});
        let mut value = json!({"spec": {"versions": [open]}});
        let expected = value.clone();
        said(&schema, value.as_object_mut().unwrap()).unwrap();
        assert_eq!(value, expected);
        stored(&schema, value.as_object_mut().unwrap());
        assert_eq!(value["spec"]["versions"][0]["schema"], expected["spec"]["versions"][0]["schema"]);
    }
}
