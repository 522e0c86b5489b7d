//! InterPodAffinity.

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

fn with(mut cluster: Vec<Object>, more: Vec<Object>) -> Vec<Object> {
    cluster.extend(more);
    cluster
}

fn wants(kind: &str, terms: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn prefers(kind: &str, weight: i64, app: &str) -> Value {
    let term = json!({"topologyKey": "zone", "labelSelector": selects(app)});
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": weight, "podAffinityTerm": term}]}}})
}

fn term(app: &str) -> Value {
    json!({"topologyKey": "zone", "labelSelector": selects(app)})
}

#[test]
fn required_affinity() {
    let near_db = || pod("p", json!({}), wants("podAffinity", json!([term("db")])));
    check(
        Plugin::InterPodAffinity,
        with(zones(), vec![on("a1", "db", "db", json!({}))]),
        near_db(),
        expect![[r#"
            a1: ok
            a2: ok
            b1: !node(s) didn't match pod affinity rules
            none: !node(s) didn't match pod affinity rules
        "#]],
    );
    // A pod in another namespace is not meant, nor one on a node without the label.
    let elsewhere = pod("db", json!({"namespace": "e", "labels": {"app": "db"}}), json!({"nodeName": "a1"}));
    check(
        Plugin::InterPodAffinity,
        with(zones(), vec![elsewhere, on("none", "db", "db", json!({}))]),
        near_db(),
        expect![[r#"
            a1: !node(s) didn't match pod affinity rules
            a2: !node(s) didn't match pod affinity rules
            b1: !node(s) didn't match pod affinity rules
            none: !node(s) didn't match pod affinity rules
        "#]],
    );
    // All terms are to be matched by the same pods.
    let both = pod("p", json!({}), wants("podAffinity", json!([term("db"), term("web")])));
    let cluster = vec![on("a1", "db", "db", json!({})), on("a1", "web", "web", json!({}))];
    check(
        Plugin::InterPodAffinity,
        with(zones(), cluster),
        both,
        expect![[r#"
            a1: !node(s) didn't match pod affinity rules
            a2: !node(s) didn't match pod affinity rules
            b1: !node(s) didn't match pod affinity rules
            none: !node(s) didn't match pod affinity rules
        "#]],
    );
}

#[test]
fn the_first_of_a_series_may_go_anywhere_with_the_label() {
    let series =
        |app: &str| pod("p", json!({"labels": {"app": app}}), wants("podAffinity", json!([term("web")])));
    check(
        Plugin::InterPodAffinity,
        zones(),
        series("web"),
        expect![[r#"
            a1: ok
            a2: ok
            b1: ok
            none: !node(s) didn't match pod affinity rules
        "#]],
    );
    // Not once there is one, and not for a pod that does not match itself.
    check(
        Plugin::InterPodAffinity,
        with(zones(), vec![on("b1", "w", "web", json!({}))]),
        series("web"),
        expect![[r#"
            a1: !node(s) didn't match pod affinity rules
            a2: !node(s) didn't match pod affinity rules
            b1: ok
            none: !node(s) didn't match pod affinity rules
        "#]],
    );
    check(
        Plugin::InterPodAffinity,
        zones(),
        series("other"),
        expect![[r#"
            a1: !node(s) didn't match pod affinity rules
            a2: !node(s) didn't match pod affinity rules
            b1: !node(s) didn't match pod affinity rules
            none: !node(s) didn't match pod affinity rules
        "#]],
    );
}

#[test]
fn required_anti_affinity_of_both_sides() {
    let apart = || wants("podAntiAffinity", json!([term("web")]));
    check(
        Plugin::InterPodAffinity,
        with(zones(), vec![on("a1", "w", "web", json!({}))]),
        pod("p", json!({}), apart()),
        expect![[r#"
            a1: node(s) didn't match pod anti-affinity rules
            a2: node(s) didn't match pod anti-affinity rules
            b1: ok
            none: ok
        "#]],
    );
    check(
        Plugin::InterPodAffinity,
        with(zones(), vec![on("a1", "o", "other", apart())]),
        pod("p", json!({"labels": {"app": "web"}}), json!({})),
        expect![[r#"
            a1: node(s) didn't satisfy existing pods anti-affinity rules
            a2: node(s) didn't satisfy existing pods anti-affinity rules
            b1: ok
            none: ok
        "#]],
    );
    check(
        Plugin::InterPodAffinity,
        with(zones(), vec![on("a1", "o", "other", apart())]),
        pod("p", json!({"labels": {"app": "db"}}), json!({})),
        expect![[r#"
            skip
        "#]],
    );
}

#[test]
fn namespaces_of_terms() {
    let space = |name: &str, team: &str| {
        decode("v1", "Namespace", json!({"metadata": {"name": name, "uid": name, "labels": {"team": team}}}))
    };
    let of = |namespace: &str, node: &str| {
        pod(
            "w",
            json!({"namespace": namespace, "uid": namespace, "labels": {"app": "web"}}),
            json!({"nodeName": node}),
        )
    };
    let cluster = || {
        let spaces = vec![space("e", "blue"), space("f", "red"), space("d", "red")];
        with(with(zones(), spaces), vec![of("e", "a1"), of("f", "b1")])
    };
    let apart = |fields: Value| {
        let mut term = term("web");
        for (field, value) in fields.as_object().unwrap() {
            term[field] = value.clone();
        }
        pod("p", json!({}), wants("podAntiAffinity", json!([term])))
    };
    let rows = [
        (json!({}), "ok ok ok ok"),
        (json!({"namespaces": ["e"]}), "no no ok ok"),
        (json!({"namespaceSelector": {}}), "no no no ok"),
        (json!({"namespaceSelector": {"matchLabels": {"team": "red"}}}), "ok ok no ok"),
        (json!({"namespaces": ["e"], "namespaceSelector": {"matchLabels": {"team": "red"}}}), "no no no ok"),
    ];
    for (fields, expected) in rows {
        let verdicts = World::new(cluster()).verdicts(Plugin::InterPodAffinity, &apart(fields.clone()));
        let short: Vec<&str> =
            verdicts.lines().map(|l| if l.ends_with(": ok") { "ok" } else { "no" }).collect();
        assert_eq!(short.join(" "), expected, "{fields}");
    }
}

#[test]
fn preemption_counts_who_stays() {
    let mut world = World::new(with(zones(), vec![on("a1", "w", "web", json!({}))]));
    let incoming = pod("p", json!({}), wants("podAntiAffinity", json!([term("web")])));
    let Fact::Pod(incoming) = &incoming.fact else { panic!("a pod") };
    let (mut state, _) = world.prepared(Plugin::InterPodAffinity, incoming);
    let victim = world.seen.pods.iter().next().unwrap().clone();
    let plugin = Plugin::InterPodAffinity;
    let node = world.snapshot.by_name("a1").unwrap();
    let cycle = world.cycle(incoming);
    assert!(filter(plugin, &cycle, &state, node).is_err());
    count_pod(plugin, &cycle, &mut state, &victim, node, -1);
    assert!(filter(plugin, &cycle, &state, node).is_ok());
    count_pod(plugin, &cycle, &mut state, &victim, node, 1);
    assert!(filter(plugin, &cycle, &state, node).is_err());
    world.snapshot.remove(&victim.meta.key);
    let (state, _) = world.prepared(plugin, incoming);
    assert!(filter(plugin, &world.cycle(incoming), &state, world.snapshot.by_name("a1").unwrap()).is_ok());
}

#[test]
fn preferences_of_both_sides() {
    let plain = || pod("p", json!({"labels": {"app": "web"}}), json!({}));
    let rows = [
        (
            vec![on("a1", "d", "db", json!({}))],
            pod("p", json!({}), prefers("podAffinity", 5, "db")),
            "a1: 100, a2: 100, b1: 0, none: 0",
        ),
        (
            vec![on("a1", "d", "db", json!({}))],
            pod("p", json!({}), prefers("podAntiAffinity", 5, "db")),
            "a1: 0, a2: 0, b1: 100, none: 100",
        ),
        // What pods that are there want counts too, and their requirements by a weight of 1.
        (
            vec![on("b1", "d", "db", prefers("podAffinity", 5, "web"))],
            plain(),
            "a1: 0, a2: 0, b1: 100, none: 0",
        ),
        (
            vec![on("b1", "d", "db", wants("podAffinity", json!([term("web")])))],
            plain(),
            "a1: 0, a2: 0, b1: 100, none: 0",
        ),
        (
            vec![
                on("a1", "d", "db", prefers("podAffinity", 1, "web")),
                on("b1", "e", "db", prefers("podAffinity", 4, "web")),
            ],
            plain(),
            "a1: 25, a2: 25, b1: 100, none: 0",
        ),
        (vec![on("a1", "d", "db", json!({}))], plain(), "skip"),
    ];
    for (more, pod, expected) in rows {
        check_scores(Plugin::InterPodAffinity, with(zones(), more), pod, expected);
    }
    let mut world = World::new(with(zones(), vec![on("b1", "d", "db", prefers("podAffinity", 5, "web"))]));
    world.profile.args.inter_pod_affinity.ignore_preferred_terms_of_existing_pods = true;
    assert_eq!(world.scores(Plugin::InterPodAffinity, &plain()), "skip");
}
