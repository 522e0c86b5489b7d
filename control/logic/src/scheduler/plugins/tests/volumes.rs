//! VolumeBinding, VolumeRestrictions, VolumeZone and NodeVolumeLimits.

use expect_test::expect;

use super::super::volume_binding;
use super::*;
use crate::scheduler::framework::PreBind;
use crate::world::plan::Verb;

fn nodes() -> Vec<Object> {
    vec![node("a", json!({"zone": "a"}), json!({})), node("b", json!({"zone": "b"}), json!({}))]
}

fn with(more: Vec<Object>) -> Vec<Object> {
    let mut cluster = nodes();
    cluster.extend(more);
    cluster
}

fn claim(name: &str, metadata: Value, spec: Value) -> Object {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "7"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                 "resources": {"requests": {"storage": "5Gi"}}},
        "status": {"phase": "Pending"},
    });
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        for (field, value) in more.as_object().cloned().unwrap_or_default() {
            claim[part][field] = value;
        }
    }
    decode("v1", "PersistentVolumeClaim", claim)
}

fn bound(name: &str, volume: &str) -> Object {
    claim(
        name,
        json!({"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}),
        json!({"volumeName": volume}),
    )
}

fn volume(name: &str, zone: &str, spec: Value) -> Object {
    let mut volume = json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "8"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late", "capacity": {"storage": "5Gi"},
                 "nodeAffinity": {"required": {"nodeSelectorTerms": [
                     {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}},
        "status": {"phase": "Available"},
    });
    for (field, value) in spec.as_object().cloned().unwrap_or_default() {
        volume["spec"][field] = value;
    }
    decode("v1", "PersistentVolume", volume)
}

fn class(name: &str, provisioner: &str, mode: &str, topologies: Value) -> Object {
    decode(
        "storage.k8s.io/v1",
        "StorageClass",
        json!({
            "metadata": {"name": name, "uid": name}, "provisioner": provisioner, "volumeBindingMode": mode,
            "allowedTopologies": topologies,
        }),
    )
}

fn late(provisioner: &str) -> Object {
    class("late", provisioner, "WaitForFirstConsumer", json!([]))
}

fn uses(claims: &[&str]) -> Object {
    let volume = |c: &&str| json!({"name": c, "persistentVolumeClaim": {"claimName": c}});
    pod("p", json!({}), json!({"volumes": claims.iter().map(volume).collect::<Vec<_>>()}))
}

#[test]
fn claims_that_are_bound_tie_the_pod_to_their_volumes() {
    check(
        Plugin::VolumeBinding,
        nodes(),
        uses(&[]),
        expect![[r#"
        skip
    "#]],
    );
    check(
        Plugin::VolumeBinding,
        nodes(),
        uses(&["c"]),
        expect![[r#"
        !persistentvolumeclaim "c" not found
    "#]],
    );
    check(
        Plugin::VolumeBinding,
        with(vec![bound("c", "v"), volume("v", "b", json!({}))]),
        uses(&["c"]),
        expect![[r#"
        a: !node(s) didn't match PersistentVolume's node affinity
        b: ok
    "#]],
    );
    check(
        Plugin::VolumeBinding,
        with(vec![bound("c", "v")]),
        uses(&["c"]),
        expect![[r#"
        a: !node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)
        b: !node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)
    "#]],
    );
    check(
        Plugin::VolumeBinding,
        with(vec![bound("c", "v"), volume("v", "a", json!({"nodeAffinity": null}))]),
        uses(&["c"]),
        expect![[r#"
        skip
    "#]],
    );
    let leaving = claim("c", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({}));
    check(
        Plugin::VolumeBinding,
        with(vec![leaving, late("x")]),
        uses(&["c"]),
        expect![[r#"
        !persistentvolumeclaim "c" is being deleted
    "#]],
    );
}

#[test]
fn claims_that_do_not_wait_have_to_be_bound_first() {
    let at_once = class("late", "x", "Immediate", json!([]));
    check(
        Plugin::VolumeBinding,
        with(vec![claim("c", json!({}), json!({})), at_once]),
        uses(&["c"]),
        expect![[r#"
        !pod has unbound immediate PersistentVolumeClaims
    "#]],
    );
    // So does one that names its volume.
    let named = claim("c", json!({}), json!({"volumeName": "v"}));
    check(
        Plugin::VolumeBinding,
        with(vec![named, late("x")]),
        uses(&["c"]),
        expect![[r#"
        !pod has unbound immediate PersistentVolumeClaims
    "#]],
    );
}

#[test]
fn claims_that_wait_need_a_volume_or_somebody_who_makes_one() {
    let wanted = || claim("c", json!({}), json!({}));
    let by_hand = || late("kubernetes.io/no-provisioner");
    let only_b = expect![[r#"
        a: !node(s) didn't find available persistent volumes to bind
        b: ok
    "#]];
    let none = expect![[r#"
        a: !node(s) didn't find available persistent volumes to bind
        b: !node(s) didn't find available persistent volumes to bind
    "#]];
    let both = expect![[r#"
        a: ok
        b: ok
    "#]];
    let rows = [
        (vec![wanted(), by_hand(), volume("v", "b", json!({}))], &only_b),
        (vec![wanted(), by_hand()], &none),
        (vec![wanted(), late("x")], &both),
        (
            vec![
                wanted(),
                class(
                    "late",
                    "x",
                    "WaitForFirstConsumer",
                    json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]),
                ),
            ],
            &only_b,
        ),
        (
            vec![
                claim("c", json!({"annotations": {"volume.kubernetes.io/selected-node": "b"}}), json!({})),
                late("x"),
            ],
            &only_b,
        ),
        (vec![wanted(), by_hand(), volume("v", "b", json!({"capacity": {"storage": "4Gi"}}))], &none),
        (vec![wanted(), by_hand(), volume("v", "b", json!({"accessModes": ["ReadOnlyMany"]}))], &none),
        (vec![wanted(), by_hand(), volume("v", "b", json!({"volumeMode": "Block"}))], &none),
        (vec![wanted(), by_hand(), volume("v", "b", json!({"storageClassName": "other"}))], &none),
        (
            vec![wanted(), by_hand(), volume("v", "b", json!({"claimRef": {"name": "x", "namespace": "d"}}))],
            &none,
        ),
        (
            vec![wanted(), by_hand(), volume("v", "b", json!({"claimRef": {"name": "c", "namespace": "d"}}))],
            &only_b,
        ),
    ];
    for (more, expected) in rows {
        expected.assert_eq(&World::new(with(more)).verdicts(Plugin::VolumeBinding, &uses(&["c"])));
    }
    // Two claims need two volumes.
    let two = || vec![wanted(), claim("d", json!({}), json!({})), by_hand(), volume("v", "b", json!({}))];
    none.assert_eq(&World::new(with(two())).verdicts(Plugin::VolumeBinding, &uses(&["c", "d"])));
    let mut more = two();
    more.push(volume("w", "b", json!({})));
    only_b.assert_eq(&World::new(with(more)).verdicts(Plugin::VolumeBinding, &uses(&["c", "d"])));
}

/// What is asked of the API server before a pod with claim `c` is bound to node `b`.
fn asked(more: Vec<Object>) -> Option<Vec<String>> {
    let world = World::new(with(more));
    let pod = uses(&["c"]);
    let Fact::Pod(pod) = &pod.fact else { panic!("a pod") };
    let (state, _) = world.prepared(Plugin::VolumeBinding, pod);
    let node = world.snapshot.by_name("b").unwrap();
    let PreBind::Wait(plan) = volume_binding::pre_bind(&world.cycle(pod), &state.kept.volume_binding, node)
    else {
        return None;
    };
    let line = |verb: &Verb| match verb {
        Verb::Patch { target, change, .. } => format!("{} {}: {change:?}", target.kind, target.name),
        other => format!("{other:?}"),
    };
    Some(plan.actions.iter().map(|a| line(&a.verb)).collect())
}

#[test]
fn the_pod_waits_while_its_claims_are_bound() {
    let wanted = claim("c", json!({}), json!({}));
    let made = asked(vec![wanted.clone(), late("x")]).unwrap();
    assert!(made[0].starts_with("PersistentVolumeClaim c:") && made[0].contains("selected-node"), "{made:?}");
    assert!(made[1].contains("nominatedNodeName"), "{made:?}");
    let volumes = vec![
        wanted,
        late("x"),
        volume("big", "b", json!({"capacity": {"storage": "9Gi"}})),
        volume("fits", "b", json!({})),
    ];
    let found = asked(volumes).unwrap();
    assert!(found[0].starts_with("PersistentVolume fits:") && found[0].contains("claimRef"), "{found:?}");
    // What has been asked once is not asked again.
    let told = claim("c", json!({"annotations": {"volume.kubernetes.io/selected-node": "b"}}), json!({}));
    assert_eq!(asked(vec![told, late("x")]).unwrap().len(), 1);
    assert_eq!(asked(vec![bound("c", "v"), volume("v", "b", json!({}))]), None);
}

#[test]
fn a_claim_of_one_pod() {
    let alone = || claim("c", json!({}), json!({"accessModes": ["ReadWriteOncePod"]}));
    let volume = json!([{"name": "c", "persistentVolumeClaim": {"claimName": "c"}}]);
    check(
        Plugin::VolumeRestrictions,
        with(vec![alone()]),
        uses(&["c"]),
        expect![[r#"
        a: ok
        b: ok
    "#]],
    );
    check(
        Plugin::VolumeRestrictions,
        with(vec![alone(), on("a", "x", "x", json!({"volumes": volume}))]),
        uses(&["c"]),
        expect![[r#"
        a: node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode
        b: node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode
    "#]],
    );
    check(
        Plugin::VolumeRestrictions,
        with(vec![claim("c", json!({}), json!({}))]),
        uses(&["c"]),
        expect![[r#"
        skip
    "#]],
    );
}

#[test]
fn volumes_with_the_label_of_a_zone() {
    let zone = "topology.kubernetes.io/zone";
    let mut labelled = json!({"metadata": {"name": "v", "uid": "v", "labels": {}}, "spec": {}});
    labelled["metadata"]["labels"][zone] = "x__z".into();
    let cluster = vec![
        node("x", json!({zone: "x"}), json!({})),
        node("y", json!({zone: "y"}), json!({})),
        node("plain", json!({}), json!({})),
        bound("c", "v"),
        decode("v1", "PersistentVolume", labelled),
    ];
    check(
        Plugin::VolumeZone,
        cluster,
        uses(&["c"]),
        expect![[r#"
        plain: ok
        x: ok
        y: !node(s) had no available volume zone
    "#]],
    );
}

#[test]
fn a_driver_has_so_many_volumes_on_a_node() {
    let limit = |node: &str, count: i64| {
        decode(
            "storage.k8s.io/v1",
            "CSINode",
            json!({
                "metadata": {"name": node, "uid": node},
                "spec": {"drivers": [{"name": "csi", "nodeID": node, "allocatable": {"count": count}}]},
            }),
        )
    };
    let csi = |name: &str| volume(name, "a", json!({"csi": {"driver": "csi", "volumeHandle": name}}));
    let mounts =
        |claim: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]});
    let cluster = || {
        vec![
            limit("a", 1),
            limit("b", 2),
            csi("v"),
            csi("w"),
            bound("c", "v"),
            bound("d", "w"),
            on("a", "x", "x", mounts("c")),
            on("b", "y", "y", mounts("c")),
        ]
    };
    check(
        Plugin::NodeVolumeLimits,
        with(cluster()),
        uses(&["d"]),
        expect![[r#"
        a: node(s) exceed max volume count
        b: ok
    "#]],
    );
    // A volume that is there already takes no place.
    check(
        Plugin::NodeVolumeLimits,
        with(cluster()),
        uses(&["c"]),
        expect![[r#"
        a: ok
        b: ok
    "#]],
    );
}
