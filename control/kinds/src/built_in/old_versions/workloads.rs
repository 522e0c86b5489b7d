//! Deployments, ReplicaSets, DaemonSets and StatefulSets of before `apps/v1`: their selector was that
//! of the template's labels unless it was said, and so were the labels of the object itself; what they
//! left open meant something else.

use serde_json::{Map, Value, json};

use super::form::{Form, SAME};

/// Of `extensions/v1beta1`: nothing was cleaned up, and nothing took too long.
pub(super) const OLDEST_DEPLOYMENT: Form = Form {
    to_stored: |object| {
        with_defaults(object, &|spec| {
            let rolling =
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
            fill_strategy(spec, rolling);
            fill(spec, "revisionHistoryLimit", i32::MAX.into());
            fill(spec, "progressDeadlineSeconds", i32::MAX.into());
        })
    },
    ..SAME
};

/// Of `apps/v1beta1`.
pub(super) const DEPLOYMENT: Form = Form {
    to_stored: |object| with_defaults(object, &|spec| fill(spec, "revisionHistoryLimit", 2.into())),
    ..SAME
};

/// Of `extensions/v1beta1`.
pub(super) const REPLICA_SET: Form = Form { to_stored: |object| with_defaults(object, &|_| {}), ..SAME };

/// Of `extensions/v1beta1`: pods were replaced only when somebody deleted them.
pub(super) const DAEMON_SET: Form = Form {
    to_stored: |object| {
        with_defaults(object, &|spec| {
            fill(spec, "updateStrategy", json!({"type": "OnDelete"}));
            // Its controller counted the templates by this; revisions took its place.
            spec.remove("templateGeneration");
        })
    },
    ..SAME
};

/// Of `apps/v1beta1`: the same.
pub(super) const STATEFUL_SET: Form = Form {
    to_stored: |object| {
        with_defaults(object, &|spec| fill(spec, "updateStrategy", json!({"type": "OnDelete"})))
    },
    ..SAME
};

fn with_defaults(mut object: Value, more: &dyn Fn(&mut Map<String, Value>)) -> Value {
    let labels = object.pointer("/spec/template/metadata/labels").filter(|labels| is_some(labels)).cloned();
    if let (Some(labels), Some(metadata)) =
        (&labels, object.get_mut("metadata").and_then(Value::as_object_mut))
    {
        fill(metadata, "labels", labels.clone());
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(labels) = labels {
            fill(spec, "selector", json!({ "matchLabels": labels }));
        }
        more(spec);
    }
    object
}

fn is_some(value: &Value) -> bool {
    value.as_object().is_some_and(|members| !members.is_empty())
}

fn fill(object: &mut Map<String, Value>, member: &str, value: Value) {
    if object.get(member).is_none_or(Value::is_null) {
        object.insert(member.to_owned(), value);
    }
}

/// A strategy that says only its type has the old bounds too.
fn fill_strategy(spec: &mut Map<String, Value>, rolling: Value) {
    fill(spec, "strategy", json!({}));
    let Some(strategy) = spec.get_mut("strategy").and_then(Value::as_object_mut) else { return };
    fill(strategy, "type", rolling["type"].clone());
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    fill(strategy, "rollingUpdate", json!({}));
    if let Some(bounds) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
        for (member, value) in rolling["rollingUpdate"].as_object().into_iter().flatten() {
            fill(bounds, member, value.clone());
        }
    }
}
