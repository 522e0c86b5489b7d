//! Events have two versions, `v1` and `events.k8s.io/v1`, which are two views of one object.
//!
//! Stored is the core form, which most clients read. Here the other one is made from it and back:
//! <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>.

use std::sync::Arc;

use proa_api::selector::FieldSelector;
use proa_logic::kinds::Kind;
use serde_json::{Map, Value};

use super::selectable_fields;
use crate::store::{Draft, Object};
use crate::watch::{Line, WatchItem};

/// Members with another name in `events.k8s.io/v1`, core name first.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// True for the kind that is a view of core events.
pub(super) fn is_view(kind: &Kind) -> bool {
    kind.group == "events.k8s.io" && kind.plural == "events"
}

/// The core form of an `events.k8s.io/v1` Event.
pub(super) fn to_core(event: Value) -> Value {
    renamed(event, "v1", |name| RENAMED.iter().find(|(_, view)| *view == name).map(|(core, _)| *core))
}

/// The `events.k8s.io/v1` form of a core Event.
pub(super) fn from_core(event: Value) -> Value {
    let view = |name: &str| RENAMED.iter().find(|(core, _)| *core == name).map(|(_, view)| *view);
    renamed(event, "events.k8s.io/v1", view)
}

/// A field selector of the view, on the fields of the core form.
pub(super) fn to_core_fields(mut selector: FieldSelector) -> FieldSelector {
    for requirement in &mut selector.0 {
        if let Some(rest) = requirement.field.strip_prefix("regarding.") {
            requirement.field = format!("involvedObject.{rest}");
        } else if requirement.field == "reportingController" {
            requirement.field = "reportingComponent".to_owned();
        }
    }
    selector
}

fn renamed(event: Value, api_version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(members) = event else { return event };
    let mut result = Map::with_capacity(members.len());
    for (member, value) in members {
        match name(&member) {
            _ if member == "apiVersion" => result.insert(member, api_version.into()),
            Some(other) => result.insert(other.to_owned(), value),
            None => result.insert(member, value),
        };
    }
    Value::Object(result)
}

/// A stored event as the view's clients see it.
pub(super) fn shown(kind: &Kind, stored: &Object) -> Arc<Object> {
    let value = from_core(stored.value());
    let fields = selectable_fields(kind, &value);
    Arc::new(seen(stored, &value, fields))
}

fn seen(stored: &Object, value: &Value, fields: Vec<(&'static str, String)>) -> Object {
    let draft = Draft::encode(stored.key.clone(), value, fields);
    if stored.revision == 0 { draft.unwritten() } else { draft.at_revision(stored.revision) }
}

/// An item of a watch as the view's clients see it.
pub(super) fn shown_item(item: WatchItem) -> WatchItem {
    match item {
        WatchItem::Event(kind, object, _) => {
            let object = Arc::new(seen(&object, &from_core(object.value()), object.fields.clone()));
            let line = Line::ready(crate::store::watch_line(kind, &object));
            WatchItem::Event(kind, object, line)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_two_forms_are_one_object() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "reason": "Pulled",
            "involvedObject": {"kind": "Pod"}, "message": "m", "source": {"component": "kubelet"},
            "count": 2, "reportingComponent": "kubelet", "reportingInstance": "n",
        });
        let view = from_core(core.clone());
        assert_eq!(view["apiVersion"], "events.k8s.io/v1");
        assert_eq!(view["regarding"]["kind"], "Pod");
        assert_eq!(view["note"], "m");
        assert_eq!(view["deprecatedCount"], 2);
        assert_eq!(to_core(view), core);
    }
}
