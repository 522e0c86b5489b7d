//! PodTopologySpread.

use expect_test::expect;

use super::*;

fn zones() -> Vec<Object> {
    vec![
        node("a1", json!({"zone": "a"}), json!({})),
        node("a2", json!({"zone": "a"}), json!({})),
        node("b1", json!({"zone": "b"}), json!({})),
        node("none", json!({}), json!({})),
    ]
}

fn web(node: &str, name: &str) -> Object {
    on(node, name, "web", json!({}))
}

fn with(more: Vec<Object>) -> Vec<Object> {
    let mut cluster = zones();
    cluster.extend(more);
    cluster
}

fn constraint(key: &str, when: &str, more: Value) -> Value {
    let mut constraint =
        json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": selects("web")});
    for (field, value) in more.as_object().cloned().unwrap_or_default() {
        constraint[field] = value;
    }
    constraint
}

fn spread(constraints: Value) -> Object {
    pod("p", json!({"labels": {"app": "web"}}), json!({"topologySpreadConstraints": constraints}))
}

fn zone(more: Value) -> Object {
    spread(json!([constraint("zone", "DoNotSchedule", more)]))
}

#[test]
fn skew_between_domains() {
    check(
        Plugin::PodTopologySpread,
        with(vec![web("a1", "w")]),
        zone(json!({})),
        expect![[r#"
            a1: node(s) didn't match pod topology spread constraints
            a2: node(s) didn't match pod topology spread constraints
            b1: ok
            none: !node(s) didn't match pod topology spread constraints (missing required label)
        "#]],
    );
    check(
        Plugin::PodTopologySpread,
        with(vec![web("a1", "w")]),
        zone(json!({"maxSkew": 2})),
        expect![[r#"
            a1: ok
            a2: ok
            b1: ok
            none: !node(s) didn't match pod topology spread constraints (missing required label)
        "#]],
    );
    // Both constraints hold: only b1 is empty as a zone and as a node.
    check(
        Plugin::PodTopologySpread,
        with(vec![web("a1", "w"), web("b1", "v"), web("a2", "u")]),
        spread(json!([
            constraint("zone", "DoNotSchedule", json!({})),
            constraint("kubernetes.io/hostname", "DoNotSchedule", json!({})),
        ])),
        expect![[r#"
            a1: node(s) didn't match pod topology spread constraints
            a2: node(s) didn't match pod topology spread constraints
            b1: ok
            none: !node(s) didn't match pod topology spread constraints (missing required label)
        "#]],
    );
    check(
        Plugin::PodTopologySpread,
        zones(),
        spread(json!([constraint("zone", "ScheduleAnyway", json!({}))])),
        expect![[r#"
            skip
        "#]],
    );
}

#[test]
fn who_counts() {
    let leaving = json!({"labels": {"app": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"});
    let rows = [
        // Other namespaces, pods on their way out and other labels do not count.
        (
            pod("w", json!({"namespace": "e", "labels": {"app": "web"}}), json!({"nodeName": "a1"})),
            json!({}),
            true,
        ),
        (pod("w", leaving, json!({"nodeName": "a1"})), json!({}), true),
        (on("a1", "w", "db", json!({})), json!({}), true),
        (web("a1", "w"), json!({}), false),
        // A selector that is absent, or selects all, counts none.
        (web("a1", "w"), json!({"labelSelector": null}), true),
        (web("a1", "w"), json!({"labelSelector": {}}), true),
    ];
    for (other, more, fits) in rows {
        let verdicts = World::new(with(vec![other])).verdicts(Plugin::PodTopologySpread, &zone(more.clone()));
        assert_eq!(verdicts.starts_with("a1: ok"), fits, "{more}: {verdicts}");
    }
}

#[test]
fn too_few_domains() {
    let rows = [(1, true), (2, true), (3, false)];
    for (least, fits) in rows {
        let world = World::new(with(vec![web("a1", "w"), web("b1", "v")]));
        let verdicts = world.verdicts(Plugin::PodTopologySpread, &zone(json!({"minDomains": least})));
        assert_eq!(verdicts.starts_with("a1: ok"), fits, "{least}: {verdicts}");
    }
}

#[test]
fn which_nodes_count() {
    let mut cluster = with(vec![web("a1", "w"), web("b1", "v")]);
    cluster.push(node("c1", json!({"zone": "c"}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})));
    let check = |more: Value, selector: Value, fits: bool| {
        let mut spec =
            json!({"topologySpreadConstraints": [constraint("zone", "DoNotSchedule", more.clone())]});
        spec["nodeSelector"] = selector;
        let pod = pod("p", json!({"labels": {"app": "web"}}), spec);
        let verdicts = World::new(cluster.clone()).verdicts(Plugin::PodTopologySpread, &pod);
        assert_eq!(verdicts.starts_with("a1: ok"), fits, "{more}: {verdicts}");
    };
    // The empty zone c counts, unless its taint or the pod's selector rules it out.
    check(json!({}), json!({}), false);
    check(json!({"nodeTaintsPolicy": "Honor"}), json!({}), true);
    check(json!({}), json!({"zone": "a"}), true);
    check(json!({"nodeAffinityPolicy": "Ignore"}), json!({"zone": "a"}), false);
}

#[test]
fn fewer_pods_around_are_better() {
    let soft =
        |key: &str, skew: i64| spread(json!([constraint(key, "ScheduleAnyway", json!({"maxSkew": skew}))]));
    let rows = [
        (vec![], soft("zone", 1), "a1: 100, a2: 100, b1: 100, none: 0"),
        (
            vec![web("a1", "u"), web("a2", "v"), web("b1", "w")],
            soft("zone", 1),
            "a1: 33, a2: 33, b1: 100, none: 0",
        ),
        (
            vec![web("a1", "u"), web("a1", "v"), web("b1", "w")],
            soft("kubernetes.io/hostname", 1),
            "a1: 0, a2: 100, b1: 50, none: 100",
        ),
    ];
    for (more, pod, expected) in rows {
        check_scores(Plugin::PodTopologySpread, with(more), pod, expected);
    }
}

#[test]
fn default_constraints() {
    let zone = |name: &str, zone: &str| node(name, json!({"topology.kubernetes.io/zone": zone}), json!({}));
    let service = decode(
        "v1",
        "Service",
        json!({
            "metadata": {"name": "s", "namespace": "d", "uid": "s"}, "spec": {"selector": {"app": "web"}},
        }),
    );
    let set = decode(
        "apps/v1",
        "ReplicaSet",
        json!({
            "metadata": {"name": "r", "namespace": "d", "uid": "r"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
        }),
    );
    let cluster = || vec![zone("a", "a"), zone("b", "b"), web("a", "w")];
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
    let owned = pod("p", json!({"labels": {"app": "web"}, "ownerReferences": owner}), json!({}));
    let plain = || pod("p", json!({"labels": {"app": "web"}}), json!({}));
    check_scores(Plugin::PodTopologySpread, cluster(), plain(), "skip");
    // a: 1 × ln 4 + 2 and 1 × ln 4 + 4, rounded to 9; b: 6.
    let spread = "a: 66, b: 100";
    let selected = |by: Object| {
        let mut all = cluster();
        all.push(by);
        all
    };
    check_scores(Plugin::PodTopologySpread, selected(service), plain(), spread);
    check_scores(Plugin::PodTopologySpread, selected(set), owned, spread);
    let mut world = World::new(cluster());
    world.profile.args.spread.default_constraints = Some(Vec::new());
    assert_eq!(world.scores(Plugin::PodTopologySpread, &plain()), "skip");
}

#[test]
fn preemption_counts_who_stays() {
    let world = World::new(with(vec![web("a1", "w")]));
    let incoming = zone(json!({}));
    let Fact::Pod(incoming) = &incoming.fact else { panic!("a pod") };
    let plugin = Plugin::PodTopologySpread;
    let (mut state, _) = world.prepared(plugin, incoming);
    let (cycle, node) = (world.cycle(incoming), world.snapshot.by_name("a2").unwrap());
    let victim = world.seen.pods.iter().next().unwrap().clone();
    assert!(filter(plugin, &cycle, &state, node).is_err());
    count_pod(plugin, &cycle, &mut state, &victim, world.snapshot.by_name("a1").unwrap(), -1);
    assert!(filter(plugin, &cycle, &state, node).is_ok());
    count_pod(plugin, &cycle, &mut state, &victim, world.snapshot.by_name("b1").unwrap(), 1);
    assert!(filter(plugin, &cycle, &state, node).is_ok());
    assert!(filter(plugin, &cycle, &state, world.snapshot.by_name("b1").unwrap()).is_err());
}
