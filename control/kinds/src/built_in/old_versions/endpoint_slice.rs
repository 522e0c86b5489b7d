//! EndpointSlices whose endpoints say node and zone in a map of topology.

use serde_json::{Map, Value};

use super::form::Form;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) const FORM: Form =
    Form { to_stored: |slice| each(slice, to_stored), from_stored: |slice| each(slice, from_stored) };

fn each(mut slice: Value, change: fn(&mut Map<String, Value>)) -> Value {
    let endpoints = slice.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten();
    endpoints.filter_map(Value::as_object_mut).for_each(change);
    slice
}

fn to_stored(endpoint: &mut Map<String, Value>) {
    let Some(Value::Object(mut topology)) = endpoint.remove("topology") else { return };
    for (key, member) in [(HOST, "nodeName"), (ZONE, "zone")] {
        if let Some(value) = topology.remove(key) {
            endpoint.entry(member).or_insert(value);
        }
    }
    if !topology.is_empty() {
        endpoint.insert("deprecatedTopology".to_owned(), Value::Object(topology));
    }
}

fn from_stored(endpoint: &mut Map<String, Value>) {
    let mut topology = match endpoint.remove("deprecatedTopology") {
        Some(Value::Object(topology)) => topology,
        _ => Map::new(),
    };
    // The node had a field of its own already, the zone did not.
    if let Some(node) = endpoint.get("nodeName") {
        topology.insert(HOST.to_owned(), node.clone());
    }
    if let Some(zone) = endpoint.remove("zone") {
        topology.insert(ZONE.to_owned(), zone);
    }
    if !topology.is_empty() {
        endpoint.insert("topology".to_owned(), Value::Object(topology));
    }
}
