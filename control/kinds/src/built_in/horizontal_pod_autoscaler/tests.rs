use expect_test::expect;
use serde_json::{Value, json};

use super::columns::targets;
use super::v1;
use crate::check::{created, refusals, update_refusals, updated};
use crate::{Part, built_in};

const BASE: &str = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, spec: {maxReplicas: 5, \
                    scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}";

#[test]
fn defaults() {
    created(
        BASE,
        expect![[r#"
            apiVersion: autoscaling/v2
            kind: HorizontalPodAutoscaler
            metadata:
              name: x
              namespace: default
            spec:
              maxReplicas: 5
              metrics:
              - resource:
                  name: cpu
                  target:
                    averageUtilization: 80
                    type: Utilization
                type: Resource
              minReplicas: 1
              scaleTargetRef:
                apiVersion: apps/v1
                kind: Deployment
                name: web
            status:
              desiredReplicas: 0
        "#]],
    );
    created(
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, spec: {maxReplicas: 5, minReplicas: 2, \
         behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 60}], tolerance: '0.05'}}, metrics: \
         [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1024Ki}}}], \
         scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}",
        expect![[r#"
            apiVersion: autoscaling/v2
            kind: HorizontalPodAutoscaler
            metadata:
              name: x
              namespace: default
            spec:
              behavior:
                scaleDown:
                  policies:
                  - periodSeconds: 15
                    type: Percent
                    value: 100
                  selectPolicy: Max
                scaleUp:
                  policies:
                  - periodSeconds: 60
                    type: Pods
                    value: 1
                  selectPolicy: Max
                  stabilizationWindowSeconds: 0
                  tolerance: 50m
              maxReplicas: 5
              metrics:
              - resource:
                  name: memory
                  target:
                    averageValue: 1Mi
                    type: AverageValue
                type: Resource
              minReplicas: 2
              scaleTargetRef:
                apiVersion: apps/v1
                kind: Deployment
                name: web
            status:
              desiredReplicas: 0
        "#]],
    );
}

#[test]
fn what_is_refused() {
    refusals(
        BASE,
        &[
            "{spec: {minReplicas: -1, maxReplicas: 0}}",
            "{spec: {minReplicas: 6}}",
            "{spec: {minReplicas: 0}}",
            "{spec: {scaleTargetRef: {kind: '', name: a/b}}}",
            "{spec: {scaleTargetRef: {apiVersion: v1}}}",
            "{spec: {scaleTargetRef: {apiVersion: a/b/c}}}",
            "{spec: {scaleTargetRef: {apiVersion: v1, kind: ReplicationController}}}",
            "{spec: {metrics: [{type: ''}]}}",
            "{spec: {metrics: [{type: Wishes}]}}",
            "{spec: {metrics: [{type: Pods}]}}",
            "{spec: {metrics: [{type: Resource, resource: {name: '', target: {type: ''}}}]}}",
            "{spec: {metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 0, averageValue: '0'}}}]}}",
            "{spec: {metrics: [{type: Resource, resource: {name: cpu, target: {type: Value, averageUtilization: 1}}, pods: {metric: {name: ''}, target: {type: x}}}]}}",
            "{spec: {metrics: [{type: ContainerResource, containerResource: {name: love, container: A, target: {type: Utilization, averageUtilization: 1}}}]}}",
            "{spec: {metrics: [{type: External, external: {metric: {name: a%b}, target: {type: Value, value: 1, averageValue: 1}}}]}}",
            "{spec: {metrics: [{type: Object, object: {describedObject: {kind: K, name: n, apiVersion: a/b/c}, metric: {name: m}, target: {type: Value}}}]}}",
            "{spec: {behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Most, policies: []}}}}",
            "{spec: {behavior: {scaleDown: {stabilizationWindowSeconds: -1, tolerance: '-1', policies: [{type: x, value: 0, periodSeconds: 0}, {type: Pods, value: 1, periodSeconds: 1801}]}}}}",
        ],
        expect![[r#"
            spec.minReplicas: Invalid value: -1: must be greater than or equal to 0
            spec.maxReplicas: Invalid value: 0: must be greater than 0
            spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`
            spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas
            spec.scaleTargetRef.kind: Required value
            spec.scaleTargetRef.name: Invalid value: "a/b": may not contain '/'
            spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group
            spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
            accepted: {"spec":{"scaleTargetRef":{"apiVersion":"v1","kind":"ReplicationController"}}}
            spec.metrics[0].type: Required value: must specify a metric source type
            spec.metrics[0].type: Unsupported value: "": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            spec.metrics[0].type: Unsupported value: "": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            spec.metrics[0].type: Unsupported value: "Wishes": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            spec.metrics[0].type: Unsupported value: "Wishes": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            spec.metrics[0].pods: Required value: must populate information for the given metric source
            spec.metrics[0].resource.name: Required value: must specify a resource name
            spec.metrics[0].resource.target.type: Required value: must specify a metric target type
            spec.metrics[0].resource.target.type: Invalid value: "": must be either Utilization, Value, or AverageValue
            spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization
            spec.metrics[0].resource.target.averageValue: Invalid value: "0": must be positive
            spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0
            spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization
            spec.metrics[0].pods.metric.name: Required value: must specify a metric name
            spec.metrics[0].pods.target.type: Invalid value: "x": must be either Utilization, Value, or AverageValue
            spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue
            spec.metrics[0].pods: Forbidden: must populate the given metric source only
            spec.metrics[0].containerResource.name: Invalid value: "love": must be a standard resource type or fully qualified
            spec.metrics[0].containerResource.name: Invalid value: "love": must be a standard resource for containers
            spec.metrics[0].containerResource.container: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.metrics[0].external.metric.name: Invalid value: "a%b": may not contain '%'
            spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target
            spec.metrics[0].object.target.averageValue: Required value: must set either a target value or averageValue
            spec.metrics[0].object.describedObject.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
            spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600
            spec.behavior.scaleUp.selectPolicy: Unsupported value: "Most": supported values: "Disabled", "Max", "Min"
            spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero
            spec.behavior.scaleDown.policies[0].type: Unsupported value: "x": supported values: "Percent", "Pods"
            spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero
            spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 0: must be greater than zero
            spec.behavior.scaleDown.policies[1].periodSeconds: Invalid value: 1801: must be less than or equal to 1800
            spec.behavior.scaleDown.tolerance: Invalid value: "-1": must be greater than or equal to 0
        "#]],
    );
    update_refusals(
        BASE,
        &["{spec: {scaleTargetRef: {apiVersion: v1}}}", "{spec: {minReplicas: 0, metrics: null}}"],
        expect![[r#"
            spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group
            spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas
        "#]],
    );
    updated(
        BASE,
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, status: {currentReplicas: -1, desiredReplicas: -2}}",
        Part::STATUS,
        expect![[r#"
            422 HorizontalPodAutoscaler.autoscaling "x" is invalid: [status.currentReplicas: Invalid value: -1: must be greater than or equal to 0, status.desiredReplicas: Invalid value: -2: must be greater than or equal to 0]
        "#]],
    );
}

#[test]
fn columns() {
    let table = built_in::table();
    let kind = table.by_kind("autoscaling/v2", "HorizontalPodAutoscaler").unwrap();
    let titles: Vec<&str> = kind.columns.iter().map(|c| &*c.name).collect();
    assert_eq!(titles, ["Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"]);
    let check = |metrics: Value, current: Value, expected: &str| {
        let object = json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": current}});
        assert_eq!(targets(&object), expected);
        let in_v1 = (v1::kind().view.unwrap().from_stored)(object.clone());
        assert_eq!(
            targets(&(v1::kind().view.unwrap().to_stored)(in_v1)).split(", ").count(),
            expected.split(", ").count()
        );
    };
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let seen = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 5, "averageValue": "5m"}}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "p"}, "target": {"type": "AverageValue", "averageValue": "1k"}}});
    let external = json!({"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "AverageValue", "averageValue": "3"}}});
    let memory = json!({"type": "ContainerResource", "containerResource":
        {"name": "memory", "container": "c", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    check(json!([]), Value::Null, "<none>");
    check(json!([cpu]), Value::Null, "cpu: <unknown>/50%");
    check(json!([cpu]), json!([seen]), "cpu: 5%/50%");
    check(json!([pods, external]), Value::Null, "<unknown>/1k, <unknown>/3 (avg)");
    check(json!([memory, cpu, pods]), Value::Null, "memory: <unknown>/1Gi, cpu: <unknown>/50% + 1 more...");
}

#[test]
fn the_two_versions_are_one_object() {
    let view = v1::kind().view.unwrap();
    let stored = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x", "annotations": {"mine": "kept"}},
        "spec": {
            "minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
            "metrics": [
                {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                    "metric": {"name": "hits", "selector": {"matchLabels": {"a": "b"}}}, "target": {"averageValue": "2", "type": "AverageValue"}}},
                {"type": "External", "external": {"metric": {"name": "q"}, "target": {"value": "9", "type": "Value"}}},
                {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                    "target": {"averageUtilization": 70, "type": "Utilization"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            ],
            "behavior": {
                "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}], "tolerance": "50m"},
                "scaleDown": {"selectPolicy": "Disabled", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
            },
        },
        "status": {
            "currentReplicas": 2, "desiredReplicas": 2,
            "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 20, "averageValue": "20m"}}},
                {"type": "Pods", "pods": {"metric": {"name": "p"}, "current": {"averageValue": "0"}}},
            ],
            "conditions": [{"type": "AbleToScale", "status": "True"}],
        },
    });
    let shown = (view.from_stored)(stored.clone());
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 50);
    assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 20);
    expect![[r#"
        {
          "mine": "kept",
          "autoscaling.alpha.kubernetes.io/metrics": "[{\"type\":\"Object\",\"object\":{\"target\":{\"kind\":\"Service\",\"name\":\"s\"},\"metricName\":\"hits\",\"targetValue\":\"0\",\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"averageValue\":\"2\"}},{\"type\":\"External\",\"external\":{\"metricName\":\"q\",\"targetValue\":\"9\"}},{\"type\":\"ContainerResource\",\"containerResource\":{\"name\":\"memory\",\"targetAverageUtilization\":70,\"container\":\"c\"}}]",
          "autoscaling.alpha.kubernetes.io/scale-up-tolerance": "50m",
          "autoscaling.alpha.kubernetes.io/behavior": "{\"ScaleUp\":{\"StabilizationWindowSeconds\":0,\"SelectPolicy\":\"Max\",\"Policies\":[{\"Type\":\"Pods\",\"Value\":4,\"PeriodSeconds\":15}]},\"ScaleDown\":{\"SelectPolicy\":\"Disabled\",\"Policies\":[{\"Type\":\"Percent\",\"Value\":100,\"PeriodSeconds\":15}]}}",
          "autoscaling.alpha.kubernetes.io/current-metrics": "[{\"type\":\"Resource\",\"resource\":{\"name\":\"cpu\",\"currentAverageUtilization\":20,\"currentAverageValue\":\"20m\"}},{\"type\":\"Pods\",\"pods\":{\"metricName\":\"p\",\"currentAverageValue\":\"0\"}}]",
          "autoscaling.alpha.kubernetes.io/conditions": "[{\"type\":\"AbleToScale\",\"status\":\"True\"}]"
        }"#]].assert_eq(&serde_json::to_string_pretty(&shown["metadata"]["annotations"]).unwrap());
    assert_eq!(shown["spec"].as_object().unwrap().len(), 4, "{}", shown["spec"]);
    assert_eq!((view.to_stored)(shown), stored);

    let plain = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
    let mut back = (view.to_stored)(plain.clone());
    assert_eq!(back["spec"].get("metrics"), None, "the default comes with the stored form");
    back["metadata"]["annotations"] = json!({"autoscaling.alpha.kubernetes.io/metrics": "not JSON"});
    assert_eq!((view.from_stored)(back), plain);
}
