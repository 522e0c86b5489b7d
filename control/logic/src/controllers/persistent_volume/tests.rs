//! Tables: what the binder, the protection and the expansion do next.

use serde_json::{Value, json};

use crate::controllers::reconcile;
use crate::controllers::tests::{at, object, seen, stamp};
use crate::world::plan::{Change, Plan, Verb};
use crate::world::{Controller, Key, Object};

/// A claim of 1Gi. `more` is merged over its spec, `meta` over its metadata.
fn claim(more: Value, meta: Value) -> Object {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "",
    });
    merge(&mut spec, more);
    let mut metadata = json!({"finalizers": ["kubernetes.io/pvc-protection"]});
    merge(&mut metadata, meta);
    object(
        "v1",
        "PersistentVolumeClaim",
        "c",
        json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}),
    )
}

/// A free volume. `more` is merged over all of it.
fn volume(name: &str, size: &str, more: Value) -> Object {
    let mut rest = json!({
        "metadata": {"namespace": null, "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"},
        },
        "status": {"phase": "Available"},
    });
    merge(&mut rest, more);
    object("v1", "PersistentVolume", name, rest)
}

fn class(name: &str, more: Value) -> Object {
    let mut rest = json!({"metadata": {"namespace": null}, "provisioner": "p.example/x", "volumeBindingMode": "Immediate"});
    merge(&mut rest, more);
    object("storage.k8s.io/v1", "StorageClass", name, rest)
}

fn pod(name: &str, node: Option<&str>) -> Object {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    object("v1", "Pod", name, json!({"spec": {"nodeName": node, "containers": [], "volumes": volumes}}))
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

fn look(controller: Controller, objects: Vec<Object>) -> Plan {
    let key = match controller {
        Controller::VolumeBinder | Controller::VolumeProtection => Key::new("", "v"),
        Controller::EphemeralVolume => Key::new("d", "p"),
        _ => Key::new("d", "c"),
    };
    reconcile(controller, &seen(objects), &key, at(100))
}

/// The changes of a plan, their members in the order of the alphabet.
fn show(plan: &Plan) -> Vec<String> {
    let line = |verb: &Verb| match verb {
        Verb::Patch { target, change: Change::Merge(patch), .. } => {
            format!("patch {} {}", target.name, sorted(patch))
        }
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(|a| line(&a.verb)).collect()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: std::collections::BTreeMap<_, _> =
                map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            map.into_iter().collect()
        }
        other => other.clone(),
    }
}

/// Actions in short, then the problems.
fn lines(plan: &Plan) -> Vec<String> {
    let problems = plan
        .problems
        .iter()
        .map(|p| format!("{} {}: {}", if p.warning { "Warning" } else { "Normal" }, p.reason, p.message));
    show(plan).into_iter().chain(problems).collect()
}

fn check(controller: Controller, objects: Vec<Object>, expected: &[&str]) {
    assert_eq!(lines(&look(controller, objects)), expected);
}

/// The volume that a claim is bound to, if it is.
fn choice(claim: Object, others: Vec<Object>) -> Option<String> {
    let plan = look(Controller::ClaimBinder, others.into_iter().chain([claim]).collect());
    let line = show(&plan).into_iter().find(|line| line.contains("claimRef"))?;
    line.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn a_claim_gets_the_smallest_volume_that_fits() {
    let some = |name: &str| Some(name.to_owned());
    let plain = || claim(json!({}), json!({}));
    assert_eq!(
        choice(plain(), vec![volume("a", "5Gi", json!({})), volume("b", "2Gi", json!({}))]),
        some("b")
    );
    assert_eq!(choice(plain(), vec![volume("a", "512Mi", json!({}))]), None);
    let spec = |spec: Value| json!({"spec": spec});
    for unfit in [
        spec(json!({"accessModes": ["ReadOnlyMany"]})),
        spec(json!({"volumeMode": "Block"})),
        spec(json!({"storageClassName": "other"})),
        spec(json!({"claimRef": {"namespace": "d", "name": "other"}})),
        spec(json!({"volumeAttributesClassName": "gold"})),
        json!({"status": {"phase": "Released"}}),
        json!({"status": {"phase": "Pending"}}),
        json!({"metadata": {"deletionTimestamp": stamp(1)}}),
    ] {
        assert_eq!(choice(plain(), vec![volume("a", "2Gi", unfit.clone())]), None, "{unfit}");
    }
    // More ways to mount it than are asked for is worse than more room.
    let wide = volume("a", "1Gi", spec(json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]})));
    assert_eq!(choice(plain(), vec![wide, volume("b", "9Gi", json!({}))]), some("b"));
    let picky = claim(json!({"selector": {"matchLabels": {"tier": "fast"}}}), json!({}));
    let labelled = volume("b", "9Gi", json!({"metadata": {"labels": {"tier": "fast"}}}));
    assert_eq!(choice(picky, vec![volume("a", "2Gi", json!({})), labelled]), some("b"));
    // One that is kept for the claim goes before a smaller one, whatever its class.
    let kept = volume("z", "9Gi", spec(json!({"claimRef": {"namespace": "d", "name": "c"}})));
    assert_eq!(choice(plain(), vec![volume("a", "1Gi", json!({})), kept]), some("z"));
    let other = volume("z", "9Gi", spec(json!({"claimRef": {"namespace": "d", "name": "c", "uid": "old"}})));
    assert_eq!(choice(plain(), vec![other]), None);
    let leaving = claim(json!({}), json!({"deletionTimestamp": stamp(1)}));
    assert_eq!(choice(leaving, vec![volume("a", "1Gi", json!({}))]), None);
}

#[test]
fn a_binding_is_made_in_four_steps() {
    let promise = r#"{"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"c","namespace":"d","resourceVersion":"1","uid":"c"}}}"#;
    let bound = r#"{"status":{"lastPhaseTransitionTime":"1970-01-01T00:01:40Z","message":null,"phase":"Bound","reason":null}}"#;
    let accept = r#"{"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes","pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"volumeName":"v"}}"#;
    let status =
        r#"{"status":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"2Gi"},"phase":"Bound"}}"#;
    let plan =
        look(Controller::ClaimBinder, vec![claim(json!({}), json!({})), volume("v", "2Gi", json!({}))]);
    assert_eq!(
        show(&plan),
        [
            format!("patch v {promise}"),
            format!("patch v {bound}"),
            format!("patch c {accept}"),
            format!("patch c {status}")
        ]
    );
    assert_eq!(plan.actions.iter().map(|a| a.chained).collect::<Vec<_>>(), [false, true, true, true]);
    // Half of it is there: the rest follows. What the user named is not the binder's doing.
    let promised = json!({"spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "c"}}, "status": {"phase": "Bound"}});
    let plan = look(
        Controller::ClaimBinder,
        vec![claim(json!({"volumeName": "v"}), json!({})), volume("v", "2Gi", promised)],
    );
    assert_eq!(
        show(&plan),
        [
            r#"patch c {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes"}}}"#.to_owned(),
            format!("patch c {status}")
        ]
    );
}

#[test]
fn a_claim_that_names_a_volume_gets_that_one_or_none() {
    let named = || claim(json!({"volumeName": "v"}), json!({}));
    let refused =
        |volume: Object, expected: &str| check(Controller::ClaimBinder, vec![named(), volume], &[expected]);
    check(Controller::ClaimBinder, vec![named()], &[]);
    refused(
        volume("v", "1Mi", json!({})),
        "Warning VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small",
    );
    refused(
        volume("v", "1Gi", json!({"spec": {"storageClassName": "x"}})),
        "Warning VolumeMismatch: Cannot bind to requested volume \"v\": storageClassName does not match",
    );
    refused(
        volume("v", "1Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
        "Warning VolumeMismatch: Cannot bind to requested volume \"v\": incompatible accessMode",
    );
    refused(
        volume("v", "1Gi", json!({"spec": {"claimRef": {"namespace": "d", "name": "other"}}})),
        "Warning FailedBinding: volume \"v\" already bound to a different claim.",
    );
    // A class of the claim's own does not matter when the volume is kept for it.
    let other_class = claim(json!({"volumeName": "v", "storageClassName": "x"}), json!({}));
    let kept = volume("v", "1Gi", json!({"spec": {"claimRef": {"namespace": "d", "name": "c"}}}));
    assert_eq!(choice(other_class, vec![kept]), Some("v".to_owned()));
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    let of = |class: &str, meta: Value| claim(json!({"storageClassName": class}), meta);
    check(
        Controller::ClaimBinder,
        vec![claim(json!({}), json!({}))],
        &["Normal FailedBinding: no persistent volumes available for this claim and no storage class is set"],
    );
    check(
        Controller::ClaimBinder,
        vec![of("x", json!({}))],
        &["Warning ProvisioningFailed: storageclass.storage.k8s.io \"x\" not found"],
    );
    let waits = || {
        class("w", json!({"volumeBindingMode": "WaitForFirstConsumer", "provisioner": "proa.dev/local-path"}))
    };
    check(
        Controller::ClaimBinder,
        vec![of("w", json!({})), waits(), volume("v", "2Gi", json!({"spec": {"storageClassName": "w"}}))],
        &["Normal WaitForFirstConsumer: waiting for first consumer to be created before binding"],
    );
    check(
        Controller::ClaimBinder,
        vec![of("w", json!({})), waits(), pod("p", None)],
        &["Normal WaitForPodScheduled: waiting for pod p to be scheduled"],
    );
    let turn = |provisioner: &str| {
        format!(
            "Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner \
             '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that \
             the provisioner is running and correctly registered."
        )
    };
    let annotated = |p: &str| {
        format!(
            r#"patch c {{"metadata":{{"annotations":{{"volume.beta.kubernetes.io/storage-provisioner":"{p}","volume.kubernetes.io/storage-provisioner":"{p}"}}}}}}"#
        )
    };
    let local = "proa.dev/local-path";
    check(
        Controller::ClaimBinder,
        vec![of("w", json!({"annotations": {"volume.kubernetes.io/selected-node": "n"}})), waits()],
        &[&annotated(local), &turn(local)],
    );
    check(
        Controller::ClaimBinder,
        vec![of("x", json!({})), class("x", json!({}))],
        &[&annotated("p.example/x"), &turn("p.example/x")],
    );
    check(
        Controller::ClaimBinder,
        vec![of("x", json!({})), class("x", json!({"provisioner": "kubernetes.io/no-provisioner"}))],
        &["Warning ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"],
    );
    let line = lines(&look(
        Controller::ClaimBinder,
        vec![of("x", json!({})), class("x", json!({"provisioner": local}))],
    ));
    assert!(line[0].contains("ProvisioningFailed") && line[0].contains("volumeBindingMode"), "{line:?}");
}

#[test]
fn a_claim_without_a_class_gets_the_newest_default_later() {
    let default = |name: &str, made: i64| {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        class(name, json!({"metadata": {"annotations": annotations, "creationTimestamp": stamp(made)}}))
    };
    let plain = || claim(json!({"storageClassName": null}), json!({}));
    let patch = |name: &str| format!(r#"patch c {{"spec":{{"storageClassName":"{name}"}}}}"#);
    check(Controller::ClaimBinder, vec![plain(), default("a", 1), default("b", 2)], &[&patch("b")]);
    check(Controller::ClaimBinder, vec![plain(), default("b", 2), default("a", 2)], &[&patch("a")]);
    // A volume without a class that fits goes first; a claim that wants no class gets none.
    assert_eq!(choice(plain(), vec![default("a", 1), volume("v", "1Gi", json!({}))]), Some("v".to_owned()));
    let line = lines(&look(Controller::ClaimBinder, vec![claim(json!({}), json!({})), default("a", 1)]));
    assert!(line[0].contains("no storage class is set"), "{line:?}");
}

#[test]
fn a_bound_claim_whose_volume_is_gone_is_lost() {
    let completed = json!({"annotations": {"pv.kubernetes.io/bind-completed": "yes"}});
    let bound = || claim(json!({"volumeName": "v"}), completed.clone());
    let lost = r#"patch c {"status":{"accessModes":null,"capacity":null,"phase":"Lost"}}"#;
    check(
        Controller::ClaimBinder,
        vec![bound()],
        &[lost, "Warning ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"],
    );
    check(
        Controller::ClaimBinder,
        vec![claim(json!({}), completed.clone())],
        &[
            lost,
            "Warning ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ],
    );
    let others =
        volume("v", "1Gi", json!({"spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "other"}}}));
    check(
        Controller::ClaimBinder,
        vec![bound(), others],
        &[
            lost,
            "Warning ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly",
        ],
    );
    assert_eq!(choice(bound(), vec![volume("v", "1Gi", json!({}))]), Some("v".to_owned()), "bound again");
}

fn phases(volume: Object, others: Vec<Object>) -> Vec<String> {
    let plan = look(Controller::VolumeBinder, others.into_iter().chain([volume]).collect());
    let phase = |line: String| match line.split_once("\"phase\":\"") {
        Some((_, rest)) => rest.split('"').next().unwrap_or_default().to_owned(),
        None => line,
    };
    let problems = plan.problems.iter().map(|p| p.reason.to_owned());
    show(&plan).into_iter().map(phase).chain(problems).collect()
}

#[test]
fn a_volume_goes_through_its_phases() {
    let with = |phase: &str, more: Value| {
        let mut rest = json!({"status": {"phase": phase}});
        merge(&mut rest, more);
        volume("v", "1Gi", rest)
    };
    let promised =
        |uid: Option<&str>| json!({"spec": {"claimRef": {"namespace": "d", "name": "c", "uid": uid}}});
    let bound_to = |name: Option<&str>| claim(json!({"volumeName": name}), json!({}));
    let none: [&str; 0] = [];
    assert_eq!(phases(with("Pending", json!({})), vec![]), ["Available"]);
    assert_eq!(phases(with("Pending", promised(None)), vec![]), ["Available"]);
    assert_eq!(phases(with("Available", json!({})), vec![]), none);
    assert_eq!(phases(with("Available", promised(Some("c"))), vec![bound_to(Some("v"))]), ["Bound"]);
    assert_eq!(phases(with("Bound", promised(Some("c"))), vec![bound_to(Some("v"))]), none);
    assert_eq!(phases(with("Available", promised(Some("c"))), vec![bound_to(None)]), none);
    // The claim is gone, or another of its name has come.
    assert_eq!(phases(with("Bound", promised(Some("c"))), vec![]), ["Released"]);
    assert_eq!(phases(with("Bound", promised(Some("old"))), vec![bound_to(Some("v"))]), ["Released"]);
    assert_eq!(phases(with("Released", promised(Some("c"))), vec![]), none);
    let policy = |policy: &str, made_by: Option<&str>| {
        let mut rest = promised(Some("c"));
        merge(&mut rest, json!({"spec": {"persistentVolumeReclaimPolicy": policy}}));
        merge(
            &mut rest,
            json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": made_by.unwrap_or("")}}}),
        );
        if made_by.is_none() {
            rest["metadata"]["annotations"] = json!({});
        }
        with("Released", rest)
    };
    assert_eq!(phases(policy("Delete", Some("proa.dev/local-path")), vec![]), none);
    assert_eq!(phases(policy("Delete", None), vec![]), ["Failed", "VolumeFailedDelete"]);
    assert_eq!(phases(policy("Recycle", None), vec![]), ["Failed", "VolumeFailedRecycle"]);
    // Its claim is bound elsewhere: what was made for it goes, what was chosen is free again.
    let elsewhere = || vec![bound_to(Some("w"))];
    let made = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}},
        "spec": {"persistentVolumeReclaimPolicy": "Delete"},
    });
    let mut rest = promised(Some("c"));
    merge(&mut rest, made);
    assert_eq!(phases(with("Bound", rest), elsewhere()), ["Released"]);
    let mut rest = promised(Some("c"));
    merge(&mut rest, json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}}));
    assert_eq!(
        phases(with("Bound", rest), elsewhere()),
        [
            r#"patch v {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":null}},"spec":{"claimRef":null}}"#,
            "Available"
        ]
    );
    assert_eq!(
        phases(with("Bound", promised(Some("c"))), elsewhere()),
        [r#"patch v {"spec":{"claimRef":{"uid":null}}}"#, "Available"]
    );
}

#[test]
fn a_release_needs_the_servers_own_word() {
    let rest = json!({"spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "u"}}, "status": {"phase": "Bound"}});
    let plan = look(Controller::VolumeBinder, vec![volume("v", "1Gi", rest)]);
    let Verb::Patch { guard, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    let absent = guard.absent.as_ref().unwrap();
    assert_eq!((&*absent.namespace, &*absent.name, &*absent.uid), ("d", "c", "u"));
}

#[test]
fn what_is_in_use_is_held() {
    let free = r#"patch c {"metadata":{"finalizers":[]}}"#;
    let leaving = || claim(json!({}), json!({"deletionTimestamp": stamp(1)}));
    check(Controller::ClaimProtection, vec![leaving()], &[free]);
    check(Controller::ClaimProtection, vec![leaving(), pod("p", Some("n"))], &[]);
    check(Controller::ClaimProtection, vec![leaving(), pod("p", None)], &[free]);
    check(Controller::ClaimProtection, vec![claim(json!({}), json!({}))], &[]);
    check(
        Controller::ClaimProtection,
        vec![claim(json!({}), json!({"finalizers": ["a/b"]}))],
        &[r#"patch c {"metadata":{"finalizers":["a/b","kubernetes.io/pvc-protection"]}}"#],
    );
    let leaving = |phase: &str| {
        volume("v", "1Gi", json!({"metadata": {"deletionTimestamp": stamp(1)}, "status": {"phase": phase}}))
    };
    check(Controller::VolumeProtection, vec![leaving("Bound")], &[]);
    check(
        Controller::VolumeProtection,
        vec![leaving("Released")],
        &[r#"patch v {"metadata":{"finalizers":[]}}"#],
    );
}

#[test]
fn a_local_path_grows_on_paper() {
    let grown = |made_by: &str, allowed: bool| {
        let mut claim = json!({
            "metadata": {}, "spec": {"storageClassName": "x", "volumeName": "v", "resources": {"requests": {"storage": "3Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
        });
        claim["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
        let volume = volume(
            "v",
            "1Gi",
            json!({
                "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": made_by}},
                "spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "c"}},
            }),
        );
        let class = class("x", json!({"allowVolumeExpansion": allowed}));
        vec![object("v1", "PersistentVolumeClaim", "c", claim), volume, class]
    };
    check(
        Controller::VolumeExpansion,
        grown("proa.dev/local-path", true),
        &[
            r#"patch v {"spec":{"capacity":{"storage":"3Gi"}}}"#,
            r#"patch c {"status":{"capacity":{"storage":"3Gi"}}}"#,
        ],
    );
    check(Controller::VolumeExpansion, grown("proa.dev/local-path", false), &[]);
    check(
        Controller::VolumeExpansion,
        grown("x.example/y", true),
        &["Normal ExternalExpanding: waiting for an external controller to expand this PVC"],
    );
}

#[test]
fn a_pod_brings_its_ephemeral_claims_along() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    let volumes = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
    let pod = || object("v1", "Pod", "p", json!({"spec": {"containers": [], "volumes": volumes}}));
    let plan = look(Controller::EphemeralVolume, vec![pod()]);
    let Verb::Create { body, .. } = &plan.actions[0].verb else { panic!("{plan:?}") };
    assert_eq!(body["metadata"]["name"], "p-scratch");
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "p");
    assert_eq!(body["metadata"]["labels"]["a"], "b");
    let other = object("v1", "PersistentVolumeClaim", "p-scratch", json!({"spec": {}}));
    check(
        Controller::EphemeralVolume,
        vec![pod(), other],
        &[
            "Warning FailedBinding: ephemeral volume scratch: PVC d/p-scratch was not created for pod d/p (pod is not owner)",
        ],
    );
}
