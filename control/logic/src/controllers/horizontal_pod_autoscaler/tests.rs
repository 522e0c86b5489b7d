//! Tables: one rule of the documentation each. [`properties`] hold whatever is measured.

mod properties;

use jiff::SignedDuration;
use std::sync::Arc;

use proa_kinds::rules::Unruled;
use proa_kinds::schema::Schema;
use proa_kinds::{Kind, ScalePaths, Subresource};
use serde_json::{Value, json};

use super::*;
use crate::controllers::tests::{at, object, seen, show};
use crate::world::Object;
use crate::world::autoscaling::sample::{MetricName, Pod, Ready, Sample, Used};
use crate::world::facts::Phase;

const KEY: (&str, &str) = ("d", "web");

/// A Deployment, its autoscaler, and what is measured; time goes on with each look.
struct World {
    seen: Observed,
    now: i64,
}

fn autoscaler(name: &str, spec: Value) -> Object {
    let mut whole = json!({
        "minReplicas": 1, "maxReplicas": 10, "metrics": [utilization(50)],
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
    });
    spec.as_object().cloned().unwrap_or_default().into_iter().for_each(|(k, v)| whole[k] = v);
    object("autoscaling/v2", "HorizontalPodAutoscaler", name, json!({"spec": whole}))
}

fn utilization(percent: i32) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

/// A pod from a few words: what it uses, and what is special about it. It asks for 100m of CPU and
/// has been ready for long.
fn pod(words: &str, now: i64) -> Pod {
    let value =
        |name: &str| words.split(' ').find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    let has = |word: &str| words.split(' ').any(|w| w == word);
    let started = now - value("age").unwrap_or(10_000);
    let requests = if has("asks-nothing") { [].into() } else { [("cpu".to_owned(), 100)].into() };
    let uses = |amount: i64| [("cpu".to_owned(), amount), ("memory".to_owned(), amount * 1000)].into();
    let used = value("cpu").map(|cpu| Used {
        at: at(now),
        window: SignedDuration::from_secs(15),
        containers: [("c".to_owned(), uses(cpu)), ("side".to_owned(), uses(0))].into(),
    });
    let since = at(now - value("since").unwrap_or(9_000));
    let phase = match words {
        _ if has("pending") => Phase::Pending,
        _ if has("failed") => Phase::Failed,
        _ => Phase::Running,
    };
    Pod {
        labels: [("app".to_owned(), "a".to_owned())].into(),
        phase,
        is_going: has("leaving"),
        started: Some(at(started)),
        ready: Some(Ready { is_false: has("unready"), since }),
        requests: vec![("c".to_owned(), requests)],
        used,
    }
}

impl World {
    fn new(replicas: i32, spec: Value) -> Self {
        let deployment = json!({"spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}},
            "status": {"replicas": replicas}});
        let objects = vec![object("apps/v1", "Deployment", "web", deployment), autoscaler("web", spec)];
        World { seen: seen(objects), now: 100_000 }
    }

    fn deployment(&mut self, change: impl FnOnce(&mut Value)) {
        let key = Key::new(KEY.0, KEY.1);
        let mut body = json!(**self.seen.deployments.get(&key).unwrap());
        change(&mut body);
        let kind = crate::world::KindName::new("apps/v1", "Deployment");
        let changed = Object::decode(&kind, &serde_json::to_vec(&body).unwrap()).unwrap();
        self.seen.apply(changed, at(0));
    }

    fn status(&self) -> HorizontalPodAutoscalerStatus {
        let found = self.seen.horizontal_pod_autoscalers.get(&Key::new(KEY.0, KEY.1)).unwrap();
        found.status.clone().unwrap_or_default()
    }

    fn replicas(&self) -> i32 {
        self.seen.deployments.get(&Key::new(KEY.0, KEY.1)).unwrap().spec.as_ref().unwrap().replicas.unwrap()
    }

    fn measure(&mut self, seconds: i64, pods: &[&str]) {
        self.now += seconds;
        let pods =
            pods.iter().enumerate().map(|(i, words)| (Key::new("d", &format!("p{i}")), pod(words, self.now)));
        let adapters = self.seen.autoscaling.sample.as_ref().map(|s| s.adapters.clone()).unwrap_or_default();
        let sample = Sample { at: at(self.now), pods: pods.collect(), adapters };
        self.seen.autoscaling.sample = Some(Arc::new(sample));
    }

    /// Decides, does what was decided, and remembers.
    fn look(&mut self) -> Plan {
        let key = Key::new(KEY.0, KEY.1);
        let mut plan = reconcile(&self.seen, &key, at(self.now));
        if let Some(memory) = plan.memory.take() {
            self.seen.autoscaling.remember(&key, memory);
        }
        for action in &plan.actions {
            match &action.verb {
                Verb::Scale { from, to, .. } => {
                    assert_eq!(*from, self.replicas());
                    self.deployment(|d| d["spec"]["replicas"] = (*to).into());
                }
                Verb::Patch { change, .. } => {
                    let found = self.seen.horizontal_pod_autoscalers.get(&key).unwrap();
                    let body = change.apply(&json!(**found));
                    let kind = crate::world::KindName::new("autoscaling/v2", "HorizontalPodAutoscaler");
                    let changed = Object::decode(&kind, &serde_json::to_vec(&body).unwrap()).unwrap();
                    self.seen.apply(changed, at(0));
                }
                other => panic!("not for autoscalers: {other:?}"),
            }
        }
        plan
    }

    /// The new size and the reason for each condition.
    fn after(&mut self, seconds: i64, pods: &[&str]) -> String {
        self.measure(seconds, pods);
        self.look();
        let conditions = self.status().conditions.unwrap_or_default();
        let reasons: Vec<String> = conditions.iter().map(|c| c.reason.clone().unwrap_or_default()).collect();
        format!("{} {}", self.replicas(), reasons.join(" "))
    }
}

/// The size that is set, of so many replicas with such pods, under a spec that changes at once.
#[track_caller]
fn check(replicas: i32, spec: Value, pods: &[&str], expected: i32) {
    let mut world = World::new(replicas, at_once(spec));
    world.after(0, pods);
    assert_eq!(world.replicas(), expected, "{pods:?} {:#?}", world.status().conditions);
}

/// Nothing but the metrics and the bounds say how many replicas there are.
fn at_once(mut spec: Value) -> Value {
    let policies = json!([{"type": "Pods", "value": 100, "periodSeconds": 1}]);
    let rules = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": policies});
    for direction in ["scaleUp", "scaleDown"] {
        let stated = spec["behavior"][direction].as_object().cloned().unwrap_or_default();
        spec["behavior"][direction] = rules.clone();
        stated.into_iter().for_each(|(k, v)| spec["behavior"][direction][k] = v);
    }
    spec
}

#[test]
fn replicas_follow_the_ratio() {
    let all = Value::Null;
    check(2, all.clone(), &["cpu=100", "cpu=100"], 4);
    check(4, all.clone(), &["cpu=10"; 4], 1);
    check(3, all.clone(), &["cpu=60"; 3], 4);
    // Within a tenth of the target nothing changes, and just outside of it something does.
    check(10, json!({"maxReplicas": 20}), &["cpu=55"; 10], 10);
    check(10, json!({"maxReplicas": 20}), &["cpu=56"; 10], 12);
    check(10, all.clone(), &["cpu=45"; 10], 10);
    check(10, all.clone(), &["cpu=44"; 10], 9);
    // Each direction may have a tolerance of its own.
    let mine = json!({"maxReplicas": 20, "behavior": {"scaleUp": {"tolerance": "0"}, "scaleDown": {"tolerance": "300m"}}});
    check(10, mine.clone(), &["cpu=51"; 10], 11);
    check(10, mine.clone(), &["cpu=36"; 10], 10);
    check(10, mine, &["cpu=34"; 10], 7);
    // The bounds.
    check(2, json!({"maxReplicas": 3}), &["cpu=100", "cpu=100"], 3);
    check(4, json!({"minReplicas": 3}), &["cpu=0"; 4], 3);
    check(5, json!({"maxReplicas": 3}), &[], 3);
    check(1, json!({"minReplicas": 3}), &[], 3);
    check(0, all, &["cpu=100"], 0);
    // The highest of several metrics.
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "30"}}});
    check(2, json!({"metrics": [utilization(50), memory]}), &["cpu=60", "cpu=60"], 4);
    let container = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 20}}});
    check(2, json!({"metrics": [utilization(50), container]}), &["cpu=60", "cpu=60"], 6);
}

#[test]
fn pods_of_which_nothing_is_known() {
    let all = Value::Null;
    // Without metrics: idle when more are called for, at their request when fewer are.
    check(3, all.clone(), &["cpu=100", "cpu=100", ""], 4);
    check(3, all.clone(), &["cpu=10", "cpu=10", ""], 3);
    check(4, all.clone(), &["cpu=10", "cpu=10", "cpu=10", ""], 3);
    // That must not turn the direction.
    check(4, all.clone(), &["cpu=60", "", "", ""], 4);
    check(2, json!({"metrics": [utilization(120)]}), &["cpu=90", ""], 2);
    // Pending pods are idle when more are called for, and nothing when fewer are.
    check(2, all.clone(), &["cpu=200", "pending"], 4);
    check(3, all.clone(), &["cpu=10", "cpu=10", "pending"], 1);
    // Those on their way out, or that have failed, do not count.
    check(2, all.clone(), &["cpu=100", "cpu=0 leaving", "cpu=0 failed"], 2);
    check(1, all.clone(), &["cpu=100", "cpu=0 leaving", "cpu=0 failed"], 2);
    // A pod that starts: while it is not ready, and until a whole window lies in its readiness.
    check(2, all.clone(), &["cpu=100", "cpu=900 age=20 unready since=20"], 2);
    check(2, all.clone(), &["cpu=100", "cpu=900 age=40 since=10"], 2);
    check(2, all.clone(), &["cpu=100", "cpu=300 age=40 since=15"], 8);
    // Later, one that is not ready counts, unless it never was.
    check(2, all.clone(), &["cpu=100", "cpu=300 age=1000 unready since=900"], 8);
    check(2, all.clone(), &["cpu=100", "cpu=300 age=1000 unready since=980"], 2);
    // Of memory there is nothing to wait for.
    let memory = json!({"metrics": [{"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "50"}}}]});
    check(2, memory.clone(), &["cpu=100", "cpu=100 age=20 unready since=20"], 4);
    check(3, memory, &["cpu=10", "cpu=10", ""], 2);
}

#[test]
fn without_a_behavior() {
    let mut world = World::new(2, json!({"maxReplicas": 20}));
    let limited = "SucceededRescale ValidMetricFound ScaleUpLimit";
    assert_eq!(world.after(0, &["cpu=900"; 2]), format!("4 {limited}"), "at least to four");
    assert_eq!(world.after(15, &["cpu=900"; 4]), format!("8 {limited}"), "at most to twice the size");
    let settled = "ReadyForNewScale ValidMetricFound DesiredWithinRange";
    // What was called for a moment ago still holds.
    assert_eq!(world.after(15, &["cpu=50"; 8]), format!("16 {limited}"));
    assert_eq!(world.after(15, &["cpu=50"; 16]), "20 SucceededRescale ValidMetricFound TooManyReplicas");
    assert_eq!(world.after(15, &["cpu=50"; 20]), "20 ScaleDownStabilized ValidMetricFound TooManyReplicas");
    assert_eq!(world.status().conditions.unwrap()[2].status, "True");
    let mut world = World::new(4, Value::Null);
    assert_eq!(world.after(0, &["cpu=50"; 4]), format!("4 {settled}"));
    // Fewer are set only when nothing higher was called for in five minutes.
    let held = "4 ScaleDownStabilized ValidMetricFound DesiredWithinRange";
    assert_eq!(world.after(15, &["cpu=10"; 4]), held);
    assert_eq!(world.after(280, &["cpu=20"; 4]), held);
    assert_eq!(world.after(15, &["cpu=10"; 4]), "2 SucceededRescale ValidMetricFound DesiredWithinRange");
    assert_eq!(world.after(301, &["cpu=0"; 2]), "1 SucceededRescale ValidMetricFound TooFewReplicas");
}

#[test]
fn stabilization_windows() {
    let spec = at_once(json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 30}}}));
    let mut world = World::new(2, spec);
    assert!(world.after(0, &["cpu=50"; 2]).starts_with("2 ReadyForNewScale"));
    assert!(world.after(15, &["cpu=200"; 2]).starts_with("2 ScaleUpStabilized"));
    assert!(world.after(30, &["cpu=100"; 2]).starts_with("2 ScaleUpStabilized"));
    assert!(world.after(20, &["cpu=200"; 2]).starts_with("4 SucceededRescale"), "the lowest of a minute");
    assert!(world.after(15, &["cpu=10"; 4]).starts_with("4 ScaleDownStabilized"));
    assert!(world.after(10, &["cpu=25"; 4]).starts_with("4 ScaleDownStabilized"));
    assert!(
        world.after(10, &["cpu=10"; 4]).starts_with("2 SucceededRescale"),
        "the highest of half a minute"
    );
}

#[test]
fn policies() {
    let rules = |select: &str| {
        json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 30}]})
    };
    let spec = |select: &str| json!({"maxReplicas": 100, "behavior": {"scaleUp": rules(select), "scaleDown": rules(select)}});
    let mut world = World::new(10, spec("Max"));
    let busy = &["cpu=900"; 10];
    assert_eq!(world.after(0, busy), "15 SucceededRescale ValidMetricFound ScaleUpLimit");
    assert_eq!(world.after(15, busy), "15 ReadyForNewScale ValidMetricFound ScaleUpLimit");
    assert!(world.after(15, busy).starts_with("23 "), "half of fifteen, rounded up");
    let idle = &["cpu=1"; 10];
    assert!(world.after(60, idle).starts_with("11 "), "half of twenty-three, rounded down");
    assert!(world.after(15, idle).starts_with("11 "));
    assert!(world.after(15, idle).starts_with("5 "));

    let mut world = World::new(10, spec("Min"));
    assert!(world.after(0, busy).starts_with("12 "));
    assert!(world.after(59, busy).starts_with("12 "));
    assert!(world.after(1, busy).starts_with("14 "));
    assert_eq!(world.after(60, idle), "12 SucceededRescale ValidMetricFound ScaleDownLimit");

    let mut world = World::new(10, spec("Disabled"));
    assert_eq!(world.after(0, busy), "10 ReadyForNewScale ValidMetricFound ScaleUpLimit");
    assert_eq!(world.after(0, busy), "10 ReadyForNewScale ValidMetricFound ScaleUpLimit");
    assert_eq!(world.after(15, idle), "10 ReadyForNewScale ValidMetricFound ScaleDownLimit");
}

/// What is told when nothing can be decided.
#[track_caller]
fn told(mut world: World, pods: &[&str], expected: expect_test::Expect) {
    world.measure(0, pods);
    let plan = world.look();
    let mut lines = String::new();
    for condition in world.status().conditions.unwrap_or_default() {
        let (type_, status) = (condition.type_, condition.status);
        lines += &format!("{type_} {status} {}: {}\n", condition.reason.unwrap(), condition.message.unwrap());
    }
    for problem in &plan.problems {
        assert!(problem.warning);
        lines += &format!("Event {}: {}\n", problem.reason, problem.message);
    }
    for action in plan.actions.iter().filter(|a| matches!(a.verb, Verb::Scale { .. })) {
        lines += &format!("{}\n", show(&Plan { actions: vec![action.clone()], ..Plan::default() }).join(""));
        lines += &format!("{}\n", action.report.as_ref().unwrap().done.as_ref().unwrap().1);
    }
    expected.assert_eq(&lines);
}

#[test]
fn what_stands_in_the_way() {
    use expect_test::expect;
    let target = |api_version: &str, kind: &str, name: &str| json!({"scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": name}});
    told(
        World::new(2, target("apps/v1", "Deployment", "other")),
        &[],
        expect![[r#"
        AbleToScale False FailedGetScale: the HPA controller was unable to get the target's current scale: deployments/scale.apps "other" not found
        Event FailedGetScale: deployments/scale.apps "other" not found
    "#]],
    );
    told(
        World::new(2, target("example.com/v1", "Job", "web")),
        &[],
        expect![[r#"
        AbleToScale False FailedGetScale: the HPA controller was unable to get the target's current scale: no matches for kind "Job" in group "example.com"
        Event FailedGetScale: no matches for kind "Job" in group "example.com"
    "#]],
    );
    told(
        World::new(2, target("batch/v1", "Job", "web")),
        &[],
        expect![[r#"
        AbleToScale False FailedGetScale: the HPA controller was unable to get the target's current scale: the server could not find the requested resource
        Event FailedGetScale: the server could not find the requested resource
    "#]],
    );
    told(
        World::new(0, Value::Null),
        &[],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False ScalingDisabled: scaling is disabled since the replica count of the target is zero
    "#]],
    );
    told(
        World::new(2, Value::Null),
        &[],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API
        Event FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API
        Event FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API
    "#]],
    );
    told(
        World::new(2, Value::Null),
        &["pending", "cpu=10 age=20 unready since=20"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)
        Event FailedGetResourceMetric: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)
        Event FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)
    "#]],
    );
    told(
        World::new(2, Value::Null),
        &["cpu=10", "cpu=10 asks-nothing"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: missing request for cpu in container c of Pod p1
        Event FailedGetResourceMetric: failed to get cpu utilization: missing request for cpu in container c of Pod p1
        Event FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: missing request for cpu in container c of Pod p1
    "#]],
    );
    let none = json!({"metrics": [{"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "x",
        "target": {"type": "Utilization", "averageUtilization": 20}}}]});
    told(
        World::new(2, none),
        &["cpu=10"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetContainerResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: container x not present in metrics for pod d/p0
        Event FailedGetContainerResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: container x not present in metrics for pod d/p0
        Event FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get x container metric value: failed to get cpu utilization: unable to get metrics for resource cpu: container x not present in metrics for pod d/p0
    "#]],
    );

    let mut two = World::new(2, Value::Null);
    two.seen.apply(autoscaler("web-2", Value::Null), at(0));
    told(
        two,
        &["cpu=10"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False AmbiguousSelector: pods by selector app=a are controlled by multiple HPAs: [d/web d/web-2]
        Event AmbiguousSelector: pods by selector app=a are controlled by multiple HPAs: [d/web d/web-2]
        Event FailedComputeMetricsReplicas: pods by selector app=a are controlled by multiple HPAs: [d/web d/web-2]
    "#]],
    );

    let mut anything = World::new(2, Value::Null);
    anything.deployment(|d| d["spec"]["selector"] = json!({}));
    told(
        anything,
        &["cpu=10"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False InvalidSelector: the HPA target's scale is missing a selector
        Event SelectorRequired: selector is required
        Event FailedComputeMetricsReplicas: selector is required
    "#]],
    );
}

fn adapted() -> Value {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]});
    json!([
        {"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
        {"type": "Object", "object": {"metric": {"name": "load"}, "describedObject": {"kind": "Service", "name": "s"},
            "target": {"type": "Value", "value": "10"}}},
        {"type": "External", "external": {"metric": {"name": "queue", "selector": selector},
            "target": {"type": "AverageValue", "averageValue": "4"}}},
    ])
}

#[test]
fn metrics_of_other_apis() {
    use expect_test::expect;
    let with = |metrics: Value, adapters: &dyn Fn(&mut Sample)| {
        let mut world = World::new(2, at_once(json!({"metrics": metrics, "minReplicas": 0})));
        let mut sample = Sample::default();
        adapters(&mut sample);
        world.seen.autoscaling.sample = Some(Arc::new(sample));
        world
    };
    told(
        with(adapted(), &|_| {}),
        &["cpu=1", "cpu=1"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetPodsMetric: the HPA was unable to compute the replica count: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
        Event FailedGetPodsMetric: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
        Event FailedGetObjectMetric: unable to get metric load: Service on d s/unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
        Event FailedGetExternalMetric: unable to get external metric d/queue/&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}: unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)
        Event FailedComputeMetricsReplicas: invalid metrics (3 invalid out of 3), first error is: failed to get pods metric value: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
    "#]],
    );
    let name = |name: &str, selector: &str| MetricName {
        namespace: "d".into(),
        name: name.into(),
        selector: selector.into(),
    };
    let queue = || name("queue", "a=b,c in (d,e)");
    let hits: &dyn Fn(&mut Sample) = &|s| {
        let values = [(Key::new("d", "p0"), 4_000), (Key::new("d", "p1"), 16_000)];
        s.adapters.pods.insert(name("hits", ""), values.into());
    };
    let of = |index: usize| json!([adapted()[index]]);
    told(
        with(of(0), hits),
        &["cpu=1", "cpu=1"],
        expect![[r#"
        AbleToScale True SucceededRescale: the HPA controller was able to update the target scale to 4
        ScalingActive True ValidMetricFound: the HPA was able to successfully calculate a replica count from pods metric hits
        ScalingLimited False DesiredWithinRange: the desired count is within the acceptable range
        scale web 2 to 4
        New size: 4; reason: pods metric hits above target
    "#]],
    );
    let load: &dyn Fn(&mut Sample) = &|s| {
        s.adapters.objects.insert((name("load", ""), "Service".into(), "s".into()), 15_000);
    };
    told(
        with(of(1), load),
        &["cpu=1", "cpu=1"],
        expect![[r#"
        AbleToScale True SucceededRescale: the HPA controller was able to update the target scale to 3
        ScalingActive True ValidMetricFound: the HPA was able to successfully calculate a replica count from Service metric load
        ScalingLimited False DesiredWithinRange: the desired count is within the acceptable range
        scale web 2 to 3
        New size: 3; reason: Service metric load above target
    "#]],
    );
    let long: &dyn Fn(&mut Sample) = &|s| {
        s.adapters.external.insert(queue(), vec![10_000, 7_000]);
    };
    told(
        with(of(2), long),
        &["cpu=1", "cpu=1"],
        expect![[r#"
        AbleToScale True SucceededRescale: the HPA controller was able to update the target scale to 5
        ScalingActive True ValidMetricFound: the HPA was able to successfully calculate a replica count from external metric queue(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},})
        ScalingLimited False DesiredWithinRange: the desired count is within the acceptable range
        scale web 2 to 5
        New size: 5; reason: external metric queue(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}) above target
    "#]],
    );
    // A metric that is not there stops scaling down, and not up.
    let up = json!([adapted()[0], adapted()[2]]);
    told(
        with(up.clone(), long),
        &["cpu=1", "cpu=1"],
        expect![[r#"
        AbleToScale True SucceededRescale: the HPA controller was able to update the target scale to 5
        ScalingActive True ValidMetricFound: the HPA was able to successfully calculate a replica count from external metric queue(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},})
        ScalingLimited False DesiredWithinRange: the desired count is within the acceptable range
        Event FailedGetPodsMetric: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
        scale web 2 to 5
        New size: 5; reason: external metric queue(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:c,Operator:In,Values:[d e],},},}) above target
    "#]],
    );
    let short: &dyn Fn(&mut Sample) = &|s| {
        s.adapters.external.insert(queue(), vec![1_000]);
    };
    told(
        with(up, short),
        &["cpu=1", "cpu=1"],
        expect![[r#"
        AbleToScale True SucceededGetScale: the HPA controller was able to get the target's current scale
        ScalingActive False FailedGetPodsMetric: the HPA was unable to compute the replica count: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
        Event FailedGetPodsMetric: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
        Event FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: failed to get pods metric value: unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered
    "#]],
    );

    // Down to nothing, and up from it.
    let empty: &dyn Fn(&mut Sample) = &|s| {
        s.adapters.external.insert(queue(), vec![0]);
    };
    let mut world = with(of(2), empty);
    assert!(world.after(1, &["cpu=1", "cpu=1"]).starts_with("0 SucceededRescale"));
    let mut sample = Sample::clone(world.seen.autoscaling.sample.as_ref().unwrap());
    long(&mut sample);
    world.seen.autoscaling.sample = Some(Arc::new(sample));
    world.deployment(|d| d["status"]["replicas"] = 0.into());
    assert!(world.after(15, &[]).starts_with("5 SucceededRescale"));
}

#[test]
fn a_sample_is_decided_upon_once() {
    let mut world = World::new(2, at_once(Value::Null));
    assert!(world.look().is_empty(), "nothing was measured yet");
    world.measure(0, &["cpu=100", "cpu=100"]);
    let plan = world.look();
    assert!(plan.actions[1].chained, "the status tells of what has been done");
    let report = plan.actions[0].report.as_ref().unwrap();
    let text = "New size: 4; reason: cpu resource utilization (percentage of request) above target";
    assert_eq!(report.done, Some(("SuccessfulRescale", text.to_owned())));
    assert_eq!(report.failed, Some(("FailedRescale", format!("{text}; error: {{}}"))));
    assert_eq!(world.status().current_replicas, Some(2));
    assert_eq!(world.status().desired_replicas, 4);
    assert!(world.look().is_empty());

    let id = (Controller::HorizontalPodAutoscaler, Key::new(KEY.0, KEY.1));
    world.seen.refused.insert(id.clone(), "no".to_owned());
    world.look();
    let able = world.status().conditions.unwrap().remove(0);
    assert_eq!((able.status.as_str(), able.reason.as_deref()), ("False", Some("FailedUpdateScale")));
    assert!(world.look().is_empty(), "said once");
    world.seen.refused.remove(&id);

    let meta = world.seen.graph.iter().find(|m| &*m.kind.kind == "HorizontalPodAutoscaler").unwrap().clone();
    world.seen.delete(&meta, at(0));
    assert_eq!(world.seen.autoscaling.memory.len(), 1);
    world.seen.autoscaling.remember(&id.1, reconcile(&world.seen, &id.1, at(0)).memory.unwrap());
    assert!(world.seen.autoscaling.memory.is_empty(), "forgotten with its autoscaler");
}

/// Of a kind that has come while the cluster runs, its row says where the size is.
#[test]
fn a_kind_that_came_is_scaled_where_its_row_says() {
    let target = json!({"apiVersion": "tests.example.com/v1", "kind": "Widget", "name": "web"});
    let mut world = World::new(1, json!({ "scaleTargetRef": target }));
    let paths = ScalePaths {
        spec_replicas: "/spec/size".into(),
        status_replicas: "/status/size".into(),
        selector: "/status/selector".into(),
    };
    let (group, names) = (("tests.example.com", "v1"), ("Widget", "widgets"));
    let schema = Schema::custom("tests.example.com/v1", "Widget", &json!({"type": "object"}));
    let row = Kind::new(group, names, schema, Arc::new(Unruled));
    world.seen.kinds = Arc::new(world.seen.kinds.with(row.with([Subresource::scale(paths.clone())])));
    let metadata = json!({"namespace": "d", "name": "web", "uid": "w"});
    let status = json!({"size": 2, "selector": "app=a"});
    let widget = json!({"metadata": metadata, "spec": {"size": 2}, "status": status}).to_string();
    let kind = crate::world::KindName::new("tests.example.com/v1", "Widget");
    let decoded = Object::decode(&kind, widget.as_bytes()).unwrap();
    world.seen.apply(decoded.sized(&paths, widget.as_bytes()).unwrap(), at(0));
    world.measure(15, &["cpu=100", "cpu=100"]);
    let plan = reconcile(&world.seen, &Key::new(KEY.0, KEY.1), at(world.now));
    let scaled = plan.actions.iter().find_map(|action| match &action.verb {
        Verb::Scale { target, from, to } => Some((&*target.kind, &*target.uid, *from, *to)),
        _ => None,
    });
    assert_eq!(scaled, Some(("Widget", "w", 2, 4)));
}
