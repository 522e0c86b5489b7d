//! The selector by which a pod that says nothing of spreading is spread: what its Services and its
//! controller select.
//!
//! Read by [`super::pod_topology_spread`].

use std::collections::BTreeMap;

use proa_api::selector::{Operator, Selector};

use crate::world::facts::{Key, Pod};
use crate::world::observed::Observed;

/// The selector of a pod; one that selects everything if nothing selects the pod.
pub fn of(pod: &Pod, seen: &Observed) -> Selector {
    let namespace = &pod.meta.key.namespace;
    let mut labels: BTreeMap<&String, &String> = BTreeMap::new();
    for (_, service) in seen.services.in_namespace(namespace) {
        let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
        if selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v)) {
            labels.extend(selector);
        }
    }
    let Some(owner) = pod.meta.controller() else { return Selector::from_map(labels) };
    let key = Key::new(namespace, &owner.name);
    let more = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => {
            let controller = seen.replication_controllers.get(&key);
            labels.extend(controller.and_then(|c| c.spec.as_ref()?.selector.as_ref()).into_iter().flatten());
            None
        }
        ("apps/v1", "ReplicaSet") => {
            seen.replica_sets.get(&key).and_then(|r| r.spec.as_ref()).map(|spec| &spec.selector)
        }
        ("apps/v1", "StatefulSet") => {
            seen.stateful_sets.get(&key).and_then(|s| s.spec.as_ref()).map(|spec| &spec.selector)
        }
        _ => None,
    };
    let mut selector = Selector::from_map(labels);
    let Some(more) = more else { return selector };
    for (label, value) in more.match_labels.iter().flatten() {
        selector.require(label, Operator::In, vec![value.clone()]);
    }
    for expression in more.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        selector.require(&expression.key, operator, expression.values.clone().unwrap_or_default());
    }
    selector
}
