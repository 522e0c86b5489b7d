//! Objects of old versions, there and back.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::built_in;

fn check(api_version: &str, kind: &str, object: Value, stored: &Expect) -> Value {
    let table = with_old_versions(&built_in::table());
    let row = table.by_kind(api_version, kind).unwrap_or_else(|| panic!("{api_version} {kind}"));
    let view = row.view.as_ref().unwrap();
    let became = (view.to_stored)(object);
    stored.assert_eq(&became.to_string());
    (view.from_stored)(became)
}

#[test]
fn every_old_version_is_a_view_of_what_is_served() {
    let table = with_old_versions(&built_in::table());
    for old in OLD {
        let row = table.by_plural(old.api.0, old.api.1, old.plural).unwrap();
        assert!(table.by_plural(old.of.0, old.of.1, old.plural).unwrap().view.is_none());
        assert!(row.deprecation.is_some() && row.view.is_some());
    }
    assert_eq!(
        table.by_kind("extensions/v1beta1", "Ingress").unwrap().deprecation.as_deref(),
        Some(
            "extensions/v1beta1 Ingress is deprecated in v1.14+, unavailable in v1.22+; use networking.k8s.io/v1 \
             Ingress"
        )
    );
    assert_eq!(
        table.by_kind("events.k8s.io/v1beta1", "Event").unwrap().deprecation.as_deref(),
        Some(
            "events.k8s.io/v1beta1 Event is deprecated in v1.19+, unavailable in v1.25+; use events.k8s.io/v1 Event"
        )
    );
}

#[test]
fn workloads_take_their_selector_from_the_template() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {}});
    let object = || json!({"metadata": {"name": "w"}, "spec": {"template": template}});
    let oldest = expect![[
        r#"{"metadata":{"name":"w","labels":{"app":"web"}},"spec":{"template":{"metadata":{"labels":{"app":"web"}},"spec":{}},"selector":{"matchLabels":{"app":"web"}},"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1,"maxUnavailable":1}},"revisionHistoryLimit":2147483647,"progressDeadlineSeconds":2147483647}}"#
    ]];
    check("extensions/v1beta1", "Deployment", object(), &oldest);
    let set = expect![[
        r#"{"metadata":{"name":"w","labels":{"app":"web"}},"spec":{"template":{"metadata":{"labels":{"app":"web"}},"spec":{}},"selector":{"matchLabels":{"app":"web"}},"updateStrategy":{"type":"OnDelete"}}}"#
    ]];
    check("extensions/v1beta1", "DaemonSet", object(), &set);
    check("apps/v1beta1", "StatefulSet", object(), &set);
    // The newest of the old ones had no such defaults any more.
    let same = expect![[
        r#"{"metadata":{"name":"w"},"spec":{"template":{"metadata":{"labels":{"app":"web"}},"spec":{}}}}"#
    ]];
    check("apps/v1beta2", "Deployment", object(), &same);
}

#[test]
fn backends_of_an_ingress() {
    let paths = json!([
        {"path": "/a", "backend": {"serviceName": "web", "servicePort": 80}},
        {"path": "/b", "pathType": "Prefix", "backend": {"serviceName": "web", "servicePort": "http"}},
    ]);
    let spec = json!({
        "backend": {"serviceName": "rest", "servicePort": 8080},
        "rules": [{"host": "a.example", "http": {"paths": paths}}],
    });
    let stored = expect![[
        r#"{"spec":{"rules":[{"host":"a.example","http":{"paths":[{"path":"/a","backend":{"service":{"name":"web","port":{"number":80}}},"pathType":"ImplementationSpecific"},{"path":"/b","pathType":"Prefix","backend":{"service":{"name":"web","port":{"name":"http"}}}}]}}],"defaultBackend":{"service":{"name":"rest","port":{"number":8080}}}}}"#
    ]];
    for api_version in ["extensions/v1beta1", "networking.k8s.io/v1beta1"] {
        let back = check(api_version, "Ingress", json!({ "spec": spec }), &stored);
        assert_eq!(back["spec"]["backend"], spec["backend"]);
        let before = &spec["rules"][0]["http"]["paths"];
        for at in 0..2 {
            assert_eq!(back["spec"]["rules"][0]["http"]["paths"][at]["backend"], before[at]["backend"]);
        }
    }
}

#[test]
fn what_others_called_otherwise() {
    let metrics = json!([{"type": "Resource", "resource": {"name": "cpu", "targetAverageUtilization": 50}}]);
    let stored = expect![[
        r#"{"spec":{"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"averageUtilization":50,"type":"Utilization"}}}]}}"#
    ]];
    let object = json!({"spec": {"metrics": metrics}});
    let back = check("autoscaling/v2beta1", "HorizontalPodAutoscaler", object.clone(), &stored);
    assert_eq!(back, object);

    let none = expect![[
        r#"{"spec":{"selector":{"matchExpressions":[{"key":"pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match","operator":"Exists"}]}}}"#
    ]];
    let object = json!({"spec": {"selector": {}}});
    assert_eq!(check("policy/v1beta1", "PodDisruptionBudget", object.clone(), &none), object);
    let all = json!({"spec": {"selector": {}}});
    let shown = (budget::FORM.from_stored)(all.clone());
    assert_ne!(shown, all, "{all} selects nothing there");
    assert_eq!((budget::FORM.to_stored)(shown), all);

    let topology = json!({"kubernetes.io/hostname": "n", "topology.kubernetes.io/zone": "z", "x": "y"});
    let object = json!({"endpoints": [{"addresses": ["10.0.0.1"], "topology": topology}]});
    let stored = expect![[
        r#"{"endpoints":[{"addresses":["10.0.0.1"],"nodeName":"n","zone":"z","deprecatedTopology":{"x":"y"}}]}"#
    ]];
    let back = check("discovery.k8s.io/v1beta1", "EndpointSlice", object, &stored);
    assert_eq!(back["endpoints"][0]["topology"], topology);
}
