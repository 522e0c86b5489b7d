//! Event of the core group: something that happened to an object.
//!
//! `events.k8s.io/v1` (`event_v1`) is another view of the same objects. Stored is this form, which
//! kubectl reads; the rules here see only this one.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use proa_api::field::{FieldErrors, Path};
use proa_api::names::NAMESPACE_DEFAULT;
use serde_json::Value;

use crate::columns::{column, human_duration, number, text, time, wide};
use crate::rules::{TypedRules, row};
use crate::{Column, Durability, Kind, SelectableField};

/// As long as the stock server keeps events after their last change.
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);

/// The rules of core Events.
pub struct Events;

/// The row of core Events.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["ev".into()],
        durability: Durability::Lazy,
        time_to_live: Some(TIME_TO_LIVE),
        columns: columns(),
        selectable_fields: selectable_fields(),
        ..row::<Events>()
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("Last Seen", "string", "The time at which this was last seen.", |o, now| {
            last_seen(o, now).into()
        }),
        column("Type", "string", "Normal or Warning; more may come.", |o, _| text(o, "/type").into()),
        column("Reason", "string", "One word for why it happened, for programs.", |o, _| {
            text(o, "/reason").into()
        }),
        column("Object", "string", "The object that this is about.", |o, _| {
            target(text(o, "/involvedObject/kind"), text(o, "/involvedObject/name")).into()
        }),
        wide("Subobject", "The part of the object that this is about.", |o, _| {
            text(o, "/involvedObject/fieldPath").into()
        }),
        wide("Source", "The component that reports this.", |o, _| source(o).into()),
        column("Message", "string", "What happened, for people.", |o, _| text(o, "/message").trim().into()),
        wide("First Seen", "The time at which this was first seen.", |o, now| first_seen(o, now).into()),
        wide("Count", "The number of times this has occurred.", |o, _| count(o).into()),
        Column {
            format: "name".into(),
            ..wide("Name", "Name of the event.", |o, _| text(o, "/metadata/name").into())
        },
    ]
}

fn selectable_fields() -> Vec<SelectableField> {
    vec![
        SelectableField::at("involvedObject.kind", "/involvedObject/kind"),
        SelectableField::at("involvedObject.namespace", "/involvedObject/namespace"),
        SelectableField::at("involvedObject.name", "/involvedObject/name"),
        SelectableField::at("involvedObject.uid", "/involvedObject/uid"),
        SelectableField::at("involvedObject.apiVersion", "/involvedObject/apiVersion"),
        SelectableField::at("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
        SelectableField::at("involvedObject.fieldPath", "/involvedObject/fieldPath"),
        SelectableField::at("reason", "/reason"),
        SelectableField::at("reportingComponent", "/reportingComponent"),
        SelectableField::new("source", |o| component(o).to_owned()),
        SelectableField::at("type", "/type"),
    ]
}

/// `pod/web`: what an event is about, as its tables show it.
pub fn target(kind: &str, name: &str) -> String {
    let kind = kind.to_lowercase();
    if name.is_empty() { kind } else { format!("{kind}/{name}") }
}

fn component(event: &Value) -> &str {
    match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        component => component,
    }
}

fn source(event: &Value) -> String {
    let host = match text(event, "/source/host") {
        "" => text(event, "/reportingInstance"),
        host => host,
    };
    let component = component(event);
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

fn ago(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".to_owned(), |then| human_duration(now.as_second() - then.as_second()))
}

fn first(event: &Value) -> Option<Timestamp> {
    time(event.get("firstTimestamp")).or_else(|| time(event.get("eventTime")))
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    ago(first(event), now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    let series = time(event.pointer("/series/lastObservedTime"));
    ago(series.or_else(|| time(event.get("lastTimestamp"))).or_else(|| first(event)), now)
}

/// An event that says nothing of a count happened once.
fn count(event: &Value) -> i64 {
    if event.get("series").is_some() {
        return number(event, "/series/count");
    }
    number(event, "/count").max(1)
}

impl TypedRules for Events {
    type Object = Event;

    fn validate(event: &Event, errors: &mut FieldErrors) {
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let about = event.involved_object.namespace.as_deref().unwrap_or_default();
        validate_namespace(namespace, about, errors);
    }
}

/// An event lives beside the object it is about; events of cluster-scoped objects in `default`
/// or the system's namespace.
pub fn validate_namespace(namespace: &str, about: &str, errors: &mut FieldErrors) {
    let path = Path::root("involvedObject");
    let path = path.field("namespace");
    if about.is_empty() {
        if namespace != NAMESPACE_DEFAULT && namespace != proa_api::names::NAMESPACE_SYSTEM {
            errors.invalid(&path, about, "does not match event.namespace");
        }
    } else if namespace != about {
        errors.invalid(&path, about, "does not match event.namespace");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::check::{created, refusals};

    const BASE: &str =
        "{apiVersion: v1, kind: Event, involvedObject: {kind: Pod, name: p, namespace: default}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
                apiVersion: v1
                kind: Event
                involvedObject:
                  kind: Pod
                  name: p
                  namespace: default
                metadata:
                  name: x
                  namespace: default
                reportingComponent: ''
                reportingInstance: ''
            "#]],
        );
        refusals(
            BASE,
            &["{involvedObject: {namespace: other}}", "{involvedObject: {namespace: null}}"],
            expect![[r#"
                involvedObject.namespace: Invalid value: "other": does not match event.namespace
                accepted: {"involvedObject":{"namespace":null}}
            "#]],
        );
    }

    #[test]
    fn columns() {
        let now: Timestamp = "2030-01-01T01:00:00Z".parse().unwrap();
        let event = json!({
            "firstTimestamp": "2030-01-01T00:00:00Z", "lastTimestamp": "2030-01-01T00:58:00Z",
            "reportingComponent": "scheduler", "reportingInstance": "node",
        });
        assert_eq!(last_seen(&event, now), "2m");
        assert_eq!(first_seen(&event, now), "60m");
        assert_eq!(count(&event), 1);
        assert_eq!(source(&event), "scheduler, node");
        let series = json!({
            "eventTime": "2030-01-01T00:00:00.000000Z",
            "series": {"count": 7, "lastObservedTime": "2030-01-01T00:59:50.000000Z"},
        });
        assert_eq!(last_seen(&series, now), "10s");
        assert_eq!(count(&series), 7);
        assert_eq!(target("Pod", "web"), "pod/web");
    }
}
