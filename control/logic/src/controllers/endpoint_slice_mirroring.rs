//! EndpointSlice mirroring: slices for Endpoints that somebody keeps by hand, for a Service without
//! a selector. Everything that routes traffic reads slices only.
//!
//! Rules: <https://kubernetes.io/docs/concepts/services-networking/service/#endpointslice-mirroring>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};
use proa_api::owner::controller_reference;
use proa_api::selector::Labels;

use super::service_endpoints::Port;
use super::slices::{self, Keeper};
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Problem, Reference};

/// The value of the label that says who keeps a slice.
pub(super) const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that want no slices.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that were a lock before there were Leases.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints object itself.
const OWN_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// So many addresses of a subset are mirrored.
const MAX_ADDRESSES: usize = 1000;

/// Decides what the slices of one Endpoints object need.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(endpoints) = seen.endpoints.get(key).filter(|e| e.metadata.deletion_timestamp.is_none()) else {
        // Its slices go with it.
        return plan;
    };
    let owner = controller_reference(&**endpoints);
    let mut existing = slices::kept(seen, &owner.uid, MANAGED_BY);
    if is_mirrored(seen, key, endpoints) {
        let keeper = Keeper {
            manager: MANAGED_BY,
            service: &key.name,
            namespace: &key.namespace,
            owner,
            labels: endpoints.metadata.labels.clone().unwrap_or_default(),
            annotations: annotations(endpoints),
        };
        for family in ["IPv4", "IPv6"] {
            let (same_family, others) = existing.into_iter().partition(|s| s.address_type == family);
            existing = others;
            slices::arrange(&keeper, family, wanted(endpoints, family), same_family, &mut plan);
        }
        tell_of_skipped(endpoints, &mut plan);
    }
    for slice in existing {
        slices::delete(&slice, &mut plan);
    }
    plan
}

fn is_mirrored(seen: &Observed, key: &Key, endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skips = meta.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let is_lock = meta.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let selects = |s: &k8s_openapi::api::core::v1::Service| {
        s.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
    };
    !skips && !is_lock && seen.services.get(key).is_some_and(|service| !selects(service))
}

fn annotations(endpoints: &Endpoints) -> Labels {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    annotations
}

/// The ready addresses of a subset, then the others.
fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)))
}

fn wanted(endpoints: &Endpoints, family: &str) -> BTreeMap<Vec<Port>, Vec<Endpoint>> {
    let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            number: port.port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        });
        let ports: Vec<Port> = ports.collect();
        let of_family =
            addresses(subset).take(MAX_ADDRESSES).filter(|(a, _)| slices::family_of(&a.ip) == family);
        for (address, ready) in of_family {
            wanted.entry(ports.clone()).or_default().push(endpoint(address, ready));
        }
    }
    wanted
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn tell_of_skipped(endpoints: &Endpoints, plan: &mut Plan) {
    let subsets = endpoints.subsets.iter().flatten();
    let skipped: usize = subsets.map(|s| addresses(s).count().saturating_sub(MAX_ADDRESSES)).sum();
    if skipped > 0 {
        plan.problems.push(Problem {
            about: Reference::to(endpoints),
            warning: true,
            reason: "TooManyAddressesToMirror",
            message: format!(
                "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::world::facts::Object;
    use crate::world::plan::Verb;

    fn seen(service: Value, endpoints: Value) -> Observed {
        let mut seen = Observed::new("");
        let meta = |name: &str| json!({"name": "db", "namespace": "d", "uid": name});
        let mut service = json!({"metadata": meta("service"), "spec": service});
        service["metadata"]["labels"] = json!({"of": "service"});
        let mut object = json!({"metadata": meta("endpoints")});
        for (name, value) in endpoints.as_object().unwrap() {
            match name.as_str() {
                "subsets" => object["subsets"] = value.clone(),
                _ => object["metadata"][name] = value.clone(),
            }
        }
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
        let endpoints: Endpoints = serde_json::from_value(object).unwrap();
        seen.apply(Object::from(service), Timestamp::UNIX_EPOCH);
        seen.apply(Object::from(endpoints), Timestamp::UNIX_EPOCH);
        seen
    }

    fn subsets() -> Value {
        json!([{
            "addresses": [{"ip": "10.0.0.1", "hostname": "a", "nodeName": "n"}, {"ip": "fd00::1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}],
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        }])
    }

    fn bodies(plan: &Plan) -> String {
        let bodies = plan.actions.iter().map(|action| match &action.verb {
            Verb::Create { body, .. } => format!("create {body}\n"),
            Verb::Patch { change, .. } => format!("patch {change:?}\n"),
            Verb::Delete { target, .. } => format!("delete {target}\n"),
            other => format!("{other:?}\n"),
        });
        bodies.collect()
    }

    #[test]
    fn endpoints_made_by_hand_are_mirrored_by_family() {
        let annotations = json!({"a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"});
        let object = json!({"subsets": subsets(), "labels": {"of": "endpoints"}, "annotations": annotations});
        let plan = reconcile(&seen(json!({}), object), &Key::new("d", "db"));
        expect![[r#"
            create {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"generateName":"db-","namespace":"d","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslicemirroring-controller.k8s.io","kubernetes.io/service-name":"db","of":"endpoints"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Endpoints","name":"db","uid":"endpoints"}],"annotations":{"a":"b"}},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true},"hostname":"a","nodeName":"n"},{"addresses":["10.0.0.2"],"conditions":{"ready":false}}],"ports":[{"name":"sql","port":5432,"protocol":"TCP"}]}
            create {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"generateName":"db-","namespace":"d","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslicemirroring-controller.k8s.io","kubernetes.io/service-name":"db","of":"endpoints"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Endpoints","name":"db","uid":"endpoints"}],"annotations":{"a":"b"}},"addressType":"IPv6","endpoints":[{"addresses":["fd00::1"],"conditions":{"ready":true}}],"ports":[{"name":"sql","port":5432,"protocol":"TCP"}]}
        "#]]
        .assert_eq(&bodies(&plan));
    }

    #[test]
    fn some_endpoints_are_not_mirrored() {
        let key = Key::new("d", "db");
        for (service, more) in [
            (json!({"selector": {"app": "db"}}), json!({})),
            (json!({}), json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}})),
            (json!({}), json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}})),
            (json!({}), json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        ] {
            let mut object = more.clone();
            object["subsets"] = subsets();
            let plan = reconcile(&seen(service.clone(), object), &key);
            assert!(plan.is_empty(), "{service} {more}: {plan:?}");
        }
    }

    #[test]
    fn slices_go_when_the_service_selects_by_itself() {
        let key = Key::new("d", "db");
        let mut seen = seen(json!({}), json!({"subsets": subsets()}));
        let Some(Verb::Create { body, .. }) = reconcile(&seen, &key).actions.first().map(|a| a.verb.clone())
        else {
            panic!("a slice is made");
        };
        let mut slice = body;
        slice["metadata"]["name"] = json!("db-x");
        slice["metadata"]["uid"] = json!("slice");
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(slice).unwrap();
        seen.apply(Object::from(slice), Timestamp::UNIX_EPOCH);
        assert_eq!(reconcile(&seen, &key).actions.len(), 1, "only the other family is missing");
        let service = json!({"metadata": {"name": "db", "namespace": "d", "uid": "service"}, "spec": {"selector": {"a": "b"}}});
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
        seen.apply(Object::from(service), Timestamp::UNIX_EPOCH);
        assert_eq!(bodies(&reconcile(&seen, &key)), "delete EndpointSlice d/db-x\n");
    }

    #[test]
    fn no_more_than_a_thousand_addresses_are_mirrored() {
        let addresses: Vec<Value> =
            (0..1003).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
        let seen = seen(json!({}), json!({"subsets": [{"addresses": addresses, "ports": [{"port": 1}]}]}));
        let plan = reconcile(&seen, &Key::new("d", "db"));
        assert_eq!(plan.actions.len(), 10);
        assert!(plan.problems[0].message.ends_with("3 addresses were skipped"));
    }
}
