//! What each patch type does, as tables of object, patch and result.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::testing;

fn patched(type_: Type, current: &Value, patch: &Value) -> Result<Value, Refusal> {
    apply(&testing::pods(), type_, current, patch.to_string().as_bytes())
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
}

#[track_caller]
fn strategic(spec: Value, patch: Value, expected: Value) {
    let result = patched(Type::Strategic, &pod(spec), &json!({"spec": patch}));
    assert_eq!(result.expect("applies")["spec"], expected);
}

#[test]
fn json_patches_follow_rfc_6902() {
    let current = pod(json!({"nodeName": "a"}));
    let result = patched(
        Type::Json,
        &current,
        &json!([
            {"op": "test", "path": "/spec/nodeName", "value": "a"},
            {"op": "replace", "path": "/spec/nodeName", "value": "b"},
            {"op": "add", "path": "/metadata/labels", "value": {"a~1b": "c"}},
        ]),
    );
    assert_eq!(result.expect("applies")["spec"]["nodeName"], "b");
    let refusal =
        patched(Type::Json, &current, &json!([{"op": "test", "path": "/spec/nodeName", "value": "z"}]));
    let refusal = refusal.expect_err("the test fails");
    assert_eq!(refusal.code(), 422);
    assert_eq!(refusal.to_string(), "the server rejected our request due to an error in our request");
    let refusal = patched(Type::Json, &current, &json!({"op": "test"})).expect_err("no list");
    assert_eq!(refusal.code(), 400);
}

/// Neither the object's list nor the patch's is looked through for each element of the other: what is
/// so long would take minutes, and was refused where that was seen.
#[test]
fn long_lists_are_not_compared_element_by_element() {
    const MANY: usize = 30_000;
    let names = |from: usize| (from..from + MANY).map(|n| format!("g{n}"));
    let gates = |from: usize| names(from).map(|name| json!({ "name": name })).collect::<Vec<_>>();
    let length = |object: &Value, at: &str| object.pointer(at).and_then(Value::as_array).map(Vec::len);
    let mut current = pod(json!({ "schedulingGates": gates(0) }));
    current["metadata"]["finalizers"] = names(0).collect();
    let change = |spec: Value, metadata: Value| {
        patched(Type::Strategic, &current, &json!({ "spec": spec, "metadata": metadata })).expect("applies")
    };
    let finalizers: Vec<String> = names(0).collect();
    let longer = change(
        json!({ "schedulingGates": gates(MANY) }),
        json!({ "finalizers": names(MANY).collect::<Vec<_>>() }),
    );
    assert_eq!(length(&longer, "/spec/schedulingGates"), Some(2 * MANY));
    assert_eq!(length(&longer, "/metadata/finalizers"), Some(2 * MANY));
    let gone: Vec<Value> = names(0).map(|name| json!({ "$patch": "delete", "name": name })).collect();
    let shorter = change(
        json!({ "schedulingGates": gone }),
        json!({ "$deleteFromPrimitiveList/finalizers": finalizers }),
    );
    assert_eq!(length(&shorter, "/spec/schedulingGates"), Some(0));
    assert_eq!(length(&shorter, "/metadata/finalizers"), Some(0));
    let ordered = change(
        json!({}),
        json!({ "$deleteFromPrimitiveList/finalizers": finalizers, "$setElementOrder/finalizers": [] }),
    );
    assert_eq!(length(&ordered, "/metadata/finalizers"), Some(0));
}

#[test]
fn json_patches_do_not_move_long_lists_again_and_again() {
    let current = pod(json!({ "x": vec![0; 10_000], "y": [] }));
    for operation in [
        json!({ "op": "add", "path": "/spec/x/0", "value": 0 }),
        json!({ "op": "copy", "from": "/spec/x/0", "path": "/spec/x/0" }),
        json!({ "op": "move", "from": "/spec/x/0", "path": "/spec/x/1" }),
        json!({ "op": "remove", "path": "/spec/x/0" }),
    ] {
        let refusal = patched(Type::Json, &current, &vec![operation; 3_000].into()).expect_err("too much");
        assert_eq!(refusal.code(), 413);
        assert!(refusal.to_string().contains("may move 10000000 elements"), "{refusal}");
    }
    let at_the_end = json!({ "op": "add", "path": "/spec/x/-", "value": 0 });
    patched(Type::Json, &current, &vec![at_the_end; 10_000].into()).expect("moves nothing");
    let short = json!({ "op": "add", "path": "/spec/y/0", "value": 0 });
    patched(Type::Json, &current, &vec![short; 4_000].into()).expect("moves little");
}

#[test]
fn patches_make_no_more_values_than_a_body_may_have() {
    let few = |objects: usize| vec![json!({}); objects];
    let current = pod(json!({ "x": few(20_000) }));
    let copies: Vec<Value> =
        (0..5).map(|n| json!({ "op": "copy", "from": "/spec/x", "path": format!("/spec/y{n}") })).collect();
    patched(Type::Json, &current, &copies[..2].into()).expect("applies");
    let merge = json!({ "spec": { "y": few(80_000) } });
    let large = json!({ "spec": { "y": few(100_000) } });
    for (type_, patch) in [(Type::Json, copies.into()), (Type::Merge, merge), (Type::Merge, large)] {
        let refusal = patched(type_, &current, &patch).expect_err("too many");
        assert_eq!(refusal.code(), 413, "{refusal}");
    }
    // What is there already may become less.
    let many = pod(json!({ "x": few(100_000), "y": 1 }));
    patched(Type::Merge, &many, &json!({ "spec": { "y": null } })).expect("applies");
}

#[test]
fn json_patches_cannot_grow_without_bound() {
    let current = pod(json!({"nodeName": "x".repeat(1000)}));
    let many = vec![json!({"op": "copy", "from": "/spec", "path": "/spec/a"}); 200];
    assert_eq!(patched(Type::Json, &current, &many.into()).expect_err("too large").code(), 422);
    let many = vec![json!({"op": "test", "path": "/kind", "value": "Pod"}); MAX_JSON_PATCH_OPERATIONS + 1];
    assert_eq!(patched(Type::Json, &current, &many.into()).expect_err("too many").code(), 413);
    let deep = vec![json!({"op": "copy", "from": "", "path": "/a"}); 200];
    let refusal = patched(Type::Json, &json!({"apiVersion": "v1", "kind": "Pod"}), &deep.into());
    assert_eq!(refusal.expect_err("too deep").code(), 400);
}

#[test]
fn merge_patches_follow_rfc_7386() {
    let current = pod(json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}));
    let result =
        patched(Type::Merge, &current, &json!({"spec": {"a": {"b": null, "d": {"e": null}}, "l": [3]}}));
    assert_eq!(result.expect("applies")["spec"], json!({"a": {"c": 2, "d": {}}, "l": [3]}));
    assert_eq!(patched(Type::Merge, &current, &json!(1)).expect_err("no object").code(), 400);
    assert_eq!(patched(Type::Merge, &current, &json!({"kind": "Node"})).expect_err("other kind").code(), 400);
    let refusal = apply(&testing::pods(), Type::Merge, &current, b"{").expect_err("malformed");
    assert_eq!(refusal.code(), 400);
}

#[test]
fn lists_merge_by_their_key() {
    strategic(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
    );
    strategic(
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"$patch": "delete", "name": "X"}],
            "ports": [{"containerPort": 80, "name": "http"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "1"}],
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]}]}),
    );
    strategic(
        json!({"tolerations": [{"key": "a"}], "nodeSelector": {"a": "1"}}),
        json!({"tolerations": [{"key": "b"}], "nodeSelector": {"b": "2"}}),
        json!({"tolerations": [{"key": "b"}], "nodeSelector": {"a": "1", "b": "2"}}),
    );
}

#[test]
fn directives_replace_and_delete() {
    strategic(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    strategic(
        json!({"securityContext": {"runAsUser": 1}, "nodeSelector": {"a": "1"}}),
        json!({"securityContext": {"$patch": "replace", "fsGroup": 2}, "nodeSelector": {"$patch": "delete"}}),
        json!({"securityContext": {"fsGroup": 2}, "nodeSelector": {}}),
    );
    strategic(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    strategic(
        json!({}),
        json!({"affinity": {"$patch": "replace", "nodeAffinity": null}, "volumes": [{"name": "v", "$patch": "delete"}]}),
        json!({"affinity": {}, "volumes": []}),
    );
}

#[test]
fn primitive_lists_merge_and_shrink() {
    let mut current = pod(json!({}));
    current["metadata"]["finalizers"] = json!(["a", "b"]);
    let result =
        patched(Type::Strategic, &current, &json!({"metadata": {"finalizers": ["c"]}})).expect("applies");
    assert_eq!(result["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}});
    let result = patched(Type::Strategic, &current, &patch).expect("applies");
    assert_eq!(result["metadata"]["finalizers"], json!(["b"]));
}

#[test]
fn element_order_is_kept() {
    strategic(
        json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a", "image": "x"}]}),
        json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "a", "image": "x"}]}),
    );
    let refusal = patched(
        Type::Strategic,
        &pod(json!({"containers": []})),
        &json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
    );
    assert!(refusal.expect_err("not in the order").to_string().starts_with("The order in patch list:"));
}

/// The patch that kubectl 1.33 sends for a changed manifest that no longer has the sidecar, while
/// something else added a proxy on the server.
#[test]
fn kubectl_apply_merges_and_is_idempotent() {
    let current = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "uid": "u", "resourceVersion": "5"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [
            {"name": "proxy", "image": "p"},
            {"name": "a", "image": "old", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"name": "sidecar", "image": "x"}]}}}});
    let patch = json!({"metadata": {"annotations": {"last": "…"}, "resourceVersion": null, "uid": null},
        "spec": {"replicas": 2, "template": {"spec": {
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [
                {"$setElementOrder/ports": [{"containerPort": 80}], "image": "nginx", "name": "a",
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80}}},
                {"$patch": "delete", "name": "sidecar"}]}}}});
    let once = patched(Type::Strategic, &current, &patch).expect("applies");
    assert_eq!(
        once["spec"],
        json!({"replicas": 2, "template": {"spec": {"containers": [
            {"name": "proxy", "image": "p"},
            {"name": "a", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}}}]}}})
    );
    assert_eq!(once["metadata"], json!({"name": "web", "annotations": {"last": "…"}}));
    assert_eq!(patched(Type::Strategic, &once, &patch).expect("applies"), once);
}

#[test]
fn malformed_strategic_patches_are_refused() {
    let check = |patch: Value, code: u16, text: &str| {
        let current = pod(json!({"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}));
        let refusal = patched(Type::Strategic, &current, &json!({"spec": patch})).expect_err("refused");
        assert_eq!(refusal.code(), code);
        assert!(refusal.to_string().contains(text), "{refusal}");
    };
    check(json!({"containers": [{"image": "x"}]}), 422, "does not contain declared merge key: name");
    check(json!({"$patch": "explode"}), 400, "unknown patch type found: explode");
    check(json!({"volumes": [{"name": "v", "$retainKeys": "x"}]}), 400, "$retainKeys");
    check(json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}), 400, "emptyDir");
    check(json!({"containers": ["x"]}), 422, "merge key");
    let scale = json!({"apiVersion": "example.com/v1", "kind": "Thing"});
    assert_eq!(patched(Type::Strategic, &scale, &json!({})).expect_err("custom kind").code(), 415);
}

#[test]
fn content_types_name_the_patch() {
    assert_eq!(
        Type::from_content_type("application/merge-patch+json; charset=utf-8").expect("merge"),
        Type::Merge
    );
    assert_eq!(Type::from_content_type("application/apply-patch+yaml").expect_err("apply").code(), 415);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
        Just(json!(true))
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The smallest merge patch from `old` to `new`.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(key.clone(), difference(before, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

proptest! {
    #[test]
    fn a_merge_patch_of_the_difference_gives_the_new_object(old in value(), new in value()) {
        let patch = json!({"spec": difference(&old, &new)});
        let result = patched(Type::Merge, &pod(old), &patch).expect("applies");
        prop_assert_eq!(&result["spec"], &new);
    }

    #[test]
    fn a_strategic_patch_applied_twice_changes_nothing_more(
        old in prop::collection::btree_set("[a-e]", 0..5),
        new in prop::collection::btree_set("[a-e]", 0..5),
    ) {
        let list = |names: &std::collections::BTreeSet<String>, image: &str| -> Vec<Value> {
            names.iter().map(|name| json!({"name": name, "image": image})).collect()
        };
        let order: Vec<Value> = new.iter().map(|name| json!({"name": name})).collect();
        let current = pod(json!({"containers": list(&old, "1")}));
        let patch = json!({"spec": {"$setElementOrder/containers": order, "containers": list(&new, "2")}});
        let once = patched(Type::Strategic, &current, &patch).expect("applies");
        let twice = patched(Type::Strategic, &once, &patch).expect("applies");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn no_patch_makes_it_panic(current in value(), patch in value()) {
        for type_ in [Type::Json, Type::Merge, Type::Strategic] {
            let _ = patched(type_, &pod(current.clone()), &patch);
        }
    }
}
