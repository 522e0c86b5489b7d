//! `metrics.k8s.io/v1beta1`: what nodes and pods use now. Asked, never stored.
//!
//! Reference: <https://kubernetes.io/docs/reference/external-api/metrics.v1beta1/>.

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp, Unit};
use proa_api::Refusal;
use proa_api::quantity::{Amount, canonical};
use proa_api::status::Resource;
use proa_kinds::Kind;
use serde_json::{Value, json};

use super::api::{Api, Call};
use super::negotiate::Form;
use super::path::Verb;
use super::respond;
use super::table::Include;
use super::unstored::Unstored;
use crate::kubelet::metrics::{self, Snapshot, Usage};
use crate::registry::ListOptions;

/// The group of what is measured.
pub const GROUP: &str = "metrics.k8s.io";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Answers a call on the metrics of nodes or pods.
pub async fn serve(api: &Api, resource: &Unstored, call: &Call) -> Result<Response<Body>, Refusal> {
    if !resource.namespaced && call.path.namespace.is_some() {
        return Err(Refusal::no_such_path());
    }
    let one = match call.verb {
        Verb::Get if resource.namespaced && call.path.namespace.is_none() => {
            return Err(Refusal::method_not_allowed());
        }
        Verb::Get => true,
        Verb::List => false,
        _ => return Err(Refusal::method_not_allowed()),
    };
    let (encoding, form) = call.form()?;
    let include = Include::of(&call.query)?;
    let snapshot = api.metrics.now().await;
    let table = api.registry.kinds();
    let kind = table.by_plural("", "v1", resource.plural).ok_or_else(Refusal::no_such_path)?;
    let items = if one {
        let name = call.name();
        let shown =
            if resource.namespaced { format!("{}/{name}", call.namespace()) } else { name.to_owned() };
        let missing = || Refusal::not_found(Resource { group: GROUP, plural: resource.plural }, &shown);
        let object = api.registry.get(kind, call.namespace(), name).map_err(|_| missing())?;
        vec![measured(resource, &object.value(), &snapshot).ok_or_else(missing)?]
    } else {
        listed(api, resource, kind, call, &snapshot)?
    };
    let body = match form {
        Form::Table(version) => table_of(&items, version, include),
        Form::Metadata(version) => metadata_of(&items, version, one),
        Form::Whole if one => items.into_iter().next().unwrap_or_default(),
        Form::Whole => json!({
            "kind": format!("{}List", resource.kind), "apiVersion": API_VERSION, "metadata": {}, "items": items,
        }),
    };
    Ok(respond::encoded(StatusCode::OK, encoding, body.to_string()))
}

fn listed(
    api: &Api,
    resource: &Unstored,
    kind: &Kind,
    call: &Call,
    snapshot: &Snapshot,
) -> Result<Vec<Value>, Refusal> {
    let asked = call.query.list_options()?;
    let options = ListOptions { labels: asked.labels, fields: asked.fields, ..ListOptions::default() };
    let objects = api.registry.list(kind, call.path.namespace.as_deref(), &options)?.items;
    Ok(objects.iter().filter_map(|object| measured(resource, &object.value(), snapshot)).collect())
}

/// The metrics of a node or pod, if it has been measured.
fn measured(resource: &Unstored, object: &Value, snapshot: &Snapshot) -> Option<Value> {
    if resource.namespaced { pod(object, snapshot) } else { node(object, snapshot) }
}

fn node(node: &Value, snapshot: &Snapshot) -> Option<Value> {
    let name = node["metadata"]["name"].as_str()?;
    let usage = snapshot.get(name)?.node.as_ref()?;
    let mut metrics = head("NodeMetrics", node, usage);
    metrics["usage"] = amounts(usage);
    Some(metrics)
}

fn pod(pod: &Value, snapshot: &Snapshot) -> Option<Value> {
    let own = metrics::of_pod(snapshot, pod)?;
    // The pod's window is that of the container that was measured for the shortest time.
    let (_, shortest) = own.iter().min_by_key(|(_, usage)| usage.window)?;
    let mut shown = head("PodMetrics", pod, shortest);
    let containers = own.iter().map(|(name, usage)| json!({"name": name.container, "usage": amounts(usage)}));
    shown["containers"] = containers.collect();
    Some(shown)
}

fn head(kind: &str, object: &Value, usage: &Usage) -> Value {
    let mut metadata = json!({ "name": object["metadata"]["name"] });
    for member in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(member) {
            metadata[member] = value.clone();
        }
    }
    metadata["creationTimestamp"] = seconds(Timestamp::now()).into();
    json!({
        "kind": kind, "apiVersion": API_VERSION, "metadata": metadata,
        "timestamp": seconds(usage.at), "window": go_duration(usage.window),
    })
}

fn seconds(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}

fn amounts(usage: &Usage) -> Value {
    let memory = format!("{}Ki", usage.memory_bytes / 1024);
    json!({
        "cpu": Amount::from_nanos(usage.cpu_nanos.into()).to_string(),
        "memory": canonical(&memory).unwrap_or(memory),
    })
}

/// `15.072s`, as Go writes durations.
fn go_duration(duration: SignedDuration) -> String {
    let millis = duration.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let minutes = if minutes > 0 { format!("{minutes}m") } else { String::new() };
    format!("{minutes}{}{dot}{fraction}s", rest / 1000)
}

fn table_of(items: &[Value], version: &str, include: Include) -> Value {
    let column = |name: &str, format: &str, description: &str| json!({ "name": name, "type": "string", "format": format, "description": description, "priority": 0 });
    let rows = items.iter().map(|item| {
        let (cpu, memory) = totals(item);
        let object = match include {
            Include::None => Value::Null,
            Include::Metadata => partial(item, version),
            Include::Object => item.clone(),
        };
        json!({"cells": [item["metadata"]["name"], cpu, memory, item["window"]], "object": object})
    });
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "columnDefinitions": [
            column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", "CPUs that are used"),
            column("memory", "quantity", "Memory that is used"),
            column("Window", "duration", "The time over which the use of CPU was measured"),
        ],
        "rows": rows.collect::<Vec<_>>(),
    })
}

/// CPU and memory of a node, or of all containers of a pod together.
fn totals(item: &Value) -> (String, String) {
    let parts: Vec<&Value> = match item["containers"].as_array() {
        Some(containers) => containers.iter().map(|c| &c["usage"]).collect(),
        None => vec![&item["usage"]],
    };
    let sum = |name: &str| -> Amount {
        parts.iter().filter_map(|usage| Amount::parse(usage[name].as_str()?).ok()).sum()
    };
    let memory = format!("{}Ki", sum("memory").units() / 1024);
    (sum("cpu").to_string(), canonical(&memory).unwrap_or(memory))
}

fn partial(item: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": item["metadata"],
    })
}

fn metadata_of(items: &[Value], version: &str, one: bool) -> Value {
    let mut partials = items.iter().map(|item| partial(item, version));
    if one {
        return partials.next().unwrap_or_default();
    }
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "items": partials.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::metrics::{ContainerName, NodeUsage};

    fn usage(seconds: i64, cpu_nanos: u64) -> Usage {
        Usage {
            at: Timestamp::from_second(100).unwrap(),
            window: SignedDuration::from_millis(seconds * 1000 + 72),
            cpu_nanos,
            memory_bytes: 3 << 20,
        }
    }

    #[test]
    fn a_pod_is_measured_as_a_whole() {
        let name = |container: &str| ContainerName {
            namespace: "default".into(),
            pod: "p".into(),
            container: container.into(),
        };
        let containers = [(name("a"), usage(15, 1_500_000)), (name("b"), usage(61, 250_000_000))];
        let used = NodeUsage { node: Some(usage(15, 7)), containers: containers.into() };
        let snapshot: Snapshot = [("n".to_owned(), used)].into();
        let object = |statuses: Value| {
            json!({
                "metadata": {"name": "p", "namespace": "default", "labels": {"a": "b"}, "uid": "u"},
                "spec": {"nodeName": "n"}, "status": {"containerStatuses": statuses},
            })
        };
        let running = |name: &str| json!({"name": name, "state": {"running": {}}});
        let mut found = pod(&object(json!([running("a"), running("b")])), &snapshot).unwrap();
        found["metadata"]["creationTimestamp"] = Value::Null;
        let expected = json!({
            "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "p", "namespace": "default", "labels": {"a": "b"}, "creationTimestamp": null},
            "timestamp": "1970-01-01T00:01:40Z", "window": "15.072s",
            "containers": [
                {"name": "a", "usage": {"cpu": "1500u", "memory": "3Mi"}},
                {"name": "b", "usage": {"cpu": "250m", "memory": "3Mi"}},
            ],
        });
        assert_eq!(found, expected);
        assert_eq!(totals(&found), ("251500u".to_owned(), "6Mi".to_owned()));
        assert_eq!(go_duration(SignedDuration::from_millis(61_500)), "1m1.5s");
        let table = table_of(&[found], "v1", Include::None);
        assert_eq!(table["rows"][0]["cells"], json!(["p", "251500u", "6Mi", "15.072s"]));

        // One of its containers has just been started.
        assert_eq!(pod(&object(json!([running("a"), running("c")])), &snapshot), None);
        let waiting = json!({"name": "c", "state": {"waiting": {}}});
        assert!(pod(&object(json!([running("a"), waiting])), &snapshot).is_some());
        let found = node(&json!({"metadata": {"name": "n"}}), &snapshot).unwrap();
        assert_eq!(found["usage"], json!({"cpu": "7n", "memory": "3Mi"}));
        assert_eq!(node(&json!({"metadata": {"name": "other"}}), &snapshot), None);
    }
}
