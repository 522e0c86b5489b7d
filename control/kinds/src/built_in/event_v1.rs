//! Event of `events.k8s.io/v1`: a core Event in newer words.
//!
//! Stored is the core form (`event`), which most clients read; this one is a view of it. The rules
//! here hold for what is written through this version.
//! <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use proa_api::field::{FieldErrors, Path};
use serde_json::{Map, Value};

use super::event::{target, validate_namespace};
use crate::columns::{column, human_duration, text, time, wide};
use crate::rules::{TypedRules, row};
use crate::{Durability, Kind, SelectableField, View};

const NOTE_MAX_BYTES: usize = 1024;
const REASON_MAX_BYTES: usize = 128;

/// Members with another name in the core form, core name first.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The rules of Events of `events.k8s.io`.
pub struct EventsV1;

/// The row of Events of `events.k8s.io`.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["ev".into()],
        durability: Durability::Lazy,
        columns: vec![
            column("Last Seen", "string", "The time at which this was last seen.", |o, now| {
                last_seen(o, now).into()
            }),
            column("Type", "string", "Normal or Warning; more may come.", |o, _| text(o, "/type").into()),
            column("Reason", "string", "One word for why it happened.", |o, _| text(o, "/reason").into()),
            column("Object", "string", "The object that this is about.", |o, _| {
                target(text(o, "/regarding/kind"), text(o, "/regarding/name")).into()
            }),
            wide("Subobject", "The part of the object that this is about.", |o, _| {
                text(o, "/regarding/fieldPath").into()
            }),
            wide("Source", "The component that reports this.", |o, _| text(o, "/reportingController").into()),
            column("Message", "string", "What happened, for people.", |o, _| text(o, "/note").trim().into()),
            crate::Column {
                format: "name".into(),
                ..wide("Name", "Name of the event.", |o, _| text(o, "/metadata/name").into())
            },
        ],
        selectable_fields: vec![
            SelectableField::at("regarding.kind", "/regarding/kind"),
            SelectableField::at("regarding.namespace", "/regarding/namespace"),
            SelectableField::at("regarding.name", "/regarding/name"),
            SelectableField::at("regarding.uid", "/regarding/uid"),
            SelectableField::at("regarding.apiVersion", "/regarding/apiVersion"),
            SelectableField::at("regarding.resourceVersion", "/regarding/resourceVersion"),
            SelectableField::at("regarding.fieldPath", "/regarding/fieldPath"),
            SelectableField::at("reason", "/reason"),
            SelectableField::at("reportingController", "/reportingController"),
            SelectableField::at("type", "/type"),
        ],
        view: Some(View { stored_field: Arc::new(core_field), ..View::new(("", "v1"), to_core, from_core) }),
        ..row::<EventsV1>()
    }
}

pub(super) fn to_core(event: Value) -> Value {
    renamed(event, "v1", |name| RENAMED.iter().find(|(_, view)| *view == name).map(|(core, _)| *core))
}

pub(super) fn from_core(event: Value) -> Value {
    let view = |name: &str| RENAMED.iter().find(|(core, _)| *core == name).map(|(_, view)| *view);
    renamed(event, "events.k8s.io/v1", view)
}

fn core_field(field: &str) -> String {
    match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "reportingController" => "reportingComponent".to_owned(),
        None => field.to_owned(),
    }
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

fn last_seen(event: &Value, now: Timestamp) -> String {
    let then = time(event.pointer("/series/lastObservedTime"))
        .or_else(|| time(event.get("deprecatedLastTimestamp")))
        .or_else(|| time(event.get("eventTime")));
    then.map_or_else(|| "<unknown>".to_owned(), |then| human_duration(now.as_second() - then.as_second()))
}

impl TypedRules for EventsV1 {
    type Object = Event;

    fn validate(event: &Event, errors: &mut FieldErrors) {
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let about = event.regarding.as_ref().and_then(|r| r.namespace.as_deref()).unwrap_or_default();
        validate_namespace(namespace, about, errors);
        if event.event_time.is_none() {
            // Events that the older API made carry their times in the deprecated fields.
            return;
        }
        let needed = [
            ("reportingController", &event.reporting_controller),
            ("reportingInstance", &event.reporting_instance),
            ("action", &event.action),
            ("reason", &event.reason),
        ];
        for (field, value) in needed {
            if value.as_deref().unwrap_or_default().is_empty() {
                errors.required(&Path::root(field), "");
            }
        }
        for (field, value) in &needed[1..] {
            if value.as_deref().unwrap_or_default().len() > REASON_MAX_BYTES {
                let text = format!("can have at most {REASON_MAX_BYTES} characters");
                errors.invalid(&Path::root(field), "", text);
            }
        }
        if event.note.as_deref().unwrap_or_default().len() > NOTE_MAX_BYTES {
            errors.invalid(
                &Path::root("message"),
                "",
                format!("can have at most {NOTE_MAX_BYTES} characters"),
            );
        }
        match event.type_.as_deref().unwrap_or_default() {
            "Normal" | "Warning" => {}
            other => errors.invalid(&Path::root("type"), other, format!("has invalid value: {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::check::{created, refusals};

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
        assert_eq!(core_field("regarding.name"), "involvedObject.name");
    }

    const BASE: &str = "{apiVersion: events.k8s.io/v1, kind: Event, eventTime: '2030-01-01T00:00:00.000000Z', \
                        reportingController: a, reportingInstance: b, action: c, reason: d, type: Normal, \
                        regarding: {namespace: default}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: events.k8s.io/v1
            kind: Event
            action: c
            eventTime: 2030-01-01T00:00:00.000000Z
            metadata:
              name: x
              namespace: default
            reason: d
            regarding:
              namespace: default
            reportingController: a
            reportingInstance: b
            type: Normal
        "#]],
        );
        refusals(
            BASE,
            &["{action: '', reason: null}", "{type: Bad}", "{regarding: {namespace: x}}"],
            expect![[r#"
                action: Required value
                reason: Required value
                type: Invalid value: "Bad": has invalid value: Bad
                involvedObject.namespace: Invalid value: "x": does not match event.namespace
            "#]],
        );
    }
}
