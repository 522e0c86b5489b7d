//! Tables: what each check finds at which level and version, in which words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proa_api::field::FieldErrors;
use serde_json::{Value, json};

use super::*;

const GOOD: &str = r#"{"allowPrivilegeEscalation":false,"runAsNonRoot":true,"capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"RuntimeDefault"}}"#;

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            patch.into_iter().for_each(|(k, v)| merge(target.entry(k).or_insert(Value::Null), v));
        }
        (target, patch) => *target = patch,
    }
}

fn mode(text: &str) -> LevelVersion {
    let (level, version) = text.split_once(':').unwrap();
    let labels = [("enforce", level), ("enforce-version", version)];
    let labels = labels.map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), v.to_owned()));
    Policy::of(&BTreeMap::from(labels)).0.enforce
}

/// A pod of one container `c` that keeps to every level. `spec` goes over its spec, `container` over
/// its container.
fn pod(spec: Value, container: Value) -> Pod {
    let mut own =
        json!({"name": "c", "image": "i", "securityContext": serde_json::from_str::<Value>(GOOD).unwrap()});
    merge(&mut own, container);
    let mut whole = json!({"metadata": {"name": "p"}, "spec": {"containers": [own]}});
    merge(&mut whole["spec"], spec);
    serde_json::from_value(whole).unwrap()
}

/// What is found, by `level:version`.
#[track_caller]
fn check(pod: &Pod, rows: &[(&str, &str)]) {
    for (level, expected) in rows {
        assert_eq!(evaluate(mode(level), pod).details(), *expected, "{level}");
    }
}

#[track_caller]
fn container(context: Value, rows: &[(&str, &str)]) {
    check(&pod(json!({}), json!({"securityContext": context})), rows);
}

#[test]
fn plain_pods() {
    check(&pod(json!({}), json!({})), &[("restricted:latest", ""), ("restricted:v1.0", "")]);
    let plain: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "nginx"}]}})).unwrap();
    check(
        &plain,
        &[
            ("privileged:latest", ""),
            ("baseline:latest", ""),
            (
                "restricted:latest",
                "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
                 unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), \
                 runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), \
                 seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ),
            (
                "restricted:v1.18",
                "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
                 runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true)",
            ),
            (
                "restricted:v1.7",
                "runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true)",
            ),
        ],
    );
}

#[test]
fn windows_pods_need_not_say_what_windows_does_not_have() {
    let windows = json!({"spec": {
        "os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true},
        "containers": [{"name": "c"}],
    }});
    let windows: Pod = serde_json::from_value(windows).unwrap();
    check(&windows, &[("restricted:latest", ""), ("restricted:v1.25", "")]);
    assert!(evaluate(mode("restricted:v1.24"), &windows).reasons().contains("allowPrivilegeEscalation"));
    let host = json!({"securityContext": {"windowsOptions": {"hostProcess": true}}});
    check(
        &pod(host.clone(), host),
        &[(
            "baseline:v1.0",
            "hostProcess (pod and container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        )],
    );
}

#[test]
fn what_is_shared_with_the_node() {
    let all = json!({"hostNetwork": true, "hostPID": true, "hostIPC": true});
    check(
        &pod(all, json!({})),
        &[("baseline:latest", "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)")],
    );
    let volumes = json!({"volumes": [
        {"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/b"}},
        {"name": "n", "nfs": {"server": "s", "path": "/"}}, {"name": "e", "emptyDir": {}},
        {"name": "i", "image": {"reference": "r"}}, {"name": "p", "projected": {}},
    ]});
    check(
        &pod(volumes, json!({})),
        &[
            ("baseline:latest", "hostPath volumes (volumes \"a\", \"b\")"),
            (
                "restricted:latest",
                "restricted volume types (volumes \"a\", \"b\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
            ),
        ],
    );
    let one = json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]});
    check(
        &pod(one, json!({})),
        &[
            ("baseline:latest", "hostPath volumes (volume \"a\")"),
            (
                "restricted:v1.0",
                "restricted volume types (volume \"a\" uses restricted volume type \"hostPath\")",
            ),
        ],
    );
    let ports = json!({"ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}, {"containerPort": 82, "hostPort": 443}]});
    check(
        &pod(json!({}), ports),
        &[("baseline:latest", "hostPort (container \"c\" uses hostPorts 443, 8080)")],
    );
    let hosts = json!({
        "livenessProbe": {"httpGet": {"port": 1, "host": "169.254.169.254"}},
        "readinessProbe": {"tcpSocket": {"port": 1, "host": "127.0.0.1"}},
        "startupProbe": {"httpGet": {"port": 1}},
        "lifecycle": {"preStop": {"httpGet": {"port": 1, "host": "127.0.0.1"}}},
    });
    check(
        &pod(json!({}), hosts),
        &[
            ("baseline:v1.33", ""),
            (
                "baseline:v1.34",
                "probe or lifecycle host (container \"c\" uses probe or lifecycle hosts \"127.0.0.1\", \"169.254.169.254\")",
            ),
        ],
    );
}

#[test]
fn what_containers_may_do() {
    container(
        json!({"privileged": true}),
        &[("baseline:latest", "privileged (container \"c\" must not set securityContext.privileged=true)")],
    );
    container(
        json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "SYS_ADMIN"]}}),
        &[
            (
                "baseline:latest",
                "non-default capabilities (container \"c\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                "restricted:v1.21",
                "non-default capabilities (container \"c\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                "restricted:v1.22",
                "unrestricted capabilities (container \"c\" must not include \"CHOWN\", \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
        ],
    );
    container(json!({"capabilities": {"add": ["NET_BIND_SERVICE"]}}), &[("restricted:latest", "")]);
    container(
        json!({"capabilities": {"drop": ["NET_RAW"], "add": ["KILL"]}}),
        &[(
            "restricted:latest",
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"c\" \
             must not include \"KILL\" in securityContext.capabilities.add)",
        )],
    );
    container(
        json!({"procMount": "Unmasked"}),
        &[(
            "baseline:v1.0",
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        )],
    );
    container(
        json!({"runAsUser": 0, "runAsNonRoot": false}),
        &[
            ("baseline:latest", ""),
            (
                "restricted:v1.22",
                "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
            ),
            (
                "restricted:v1.23",
                "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false), \
                 runAsUser=0 (container \"c\" must not set runAsUser=0)",
            ),
        ],
    );
    let as_root = json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false}});
    check(
        &pod(as_root, json!({})),
        &[(
            "restricted:latest",
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0)",
        )],
    );
}

#[test]
fn profiles() {
    let unconfined = json!({"type": "Unconfined"});
    container(
        json!({"seccompProfile": unconfined}),
        &[
            ("baseline:v1.18", ""),
            (
                "baseline:v1.19",
                "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                "restricted:latest",
                "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
        ],
    );
    let of_pod =
        json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}});
    check(&pod(of_pod, json!({"securityContext": {"seccompProfile": null}})), &[("restricted:latest", "")]);
    let of_pod = json!({"securityContext": {"appArmorProfile": unconfined}});
    check(
        &pod(of_pod, json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}})),
        &[(
            "baseline:latest",
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        )],
    );
    let mut annotated = pod(json!({}), json!({"securityContext": {"appArmorProfile": unconfined}}));
    let note = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    annotated.metadata.annotations = Some(BTreeMap::from([
        note("container.apparmor.security.beta.kubernetes.io/c", "unconfined"),
        note("container.apparmor.security.beta.kubernetes.io/d", "localhost/x"),
        note("seccomp.security.alpha.kubernetes.io/pod", "unconfined"),
        note("container.seccomp.security.alpha.kubernetes.io/c", "docker/default"),
    ]));
    let apparmor = "forbidden AppArmor profiles (container \"c\" and annotation must not set AppArmor profile type to \
                    \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")";
    check(
        &annotated,
        &[
            ("baseline:latest", apparmor),
            (
                "baseline:v1.18",
                &format!(
                    "{apparmor}, seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
                ),
            ),
        ],
    );
    let options = |type_: &str| json!({"seLinuxOptions": {"type": type_}});
    container(options("container_init_t"), &[("baseline:v1.0", "")]);
    container(
        options("container_engine_t"),
        &[
            (
                "baseline:v1.30",
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
            ),
            ("baseline:v1.31", ""),
        ],
    );
    let both = json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}}});
    check(
        &pod(both, json!({"securityContext": options("other_t")})),
        &[(
            "baseline:latest",
            "seLinuxOptions (pod and container \"c\" set forbidden securityContext.seLinuxOptions: types \"other_t\", \"spc_t\"; \
             user may not be set; role may not be set)",
        )],
    );
}

#[test]
fn sysctls_by_version() {
    let of = |names: &[&str]| {
        let sysctls: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        pod(json!({"securityContext": {"sysctls": sysctls}}), json!({}))
    };
    check(&of(&["kernel.shm_rmid_forced", "net.ipv4.ping_group_range"]), &[("restricted:v1.0", "")]);
    check(
        &of(&["kernel.core_pattern", "net.ipv4.tcp_rmem"]),
        &[
            ("baseline:v1.31", "forbidden sysctls (kernel.core_pattern, net.ipv4.tcp_rmem)"),
            ("baseline:v1.32", "forbidden sysctls (kernel.core_pattern)"),
            ("baseline:v1.999", "forbidden sysctls (kernel.core_pattern)"),
        ],
    );
    for (name, since) in [("net.ipv4.ip_local_reserved_ports", 27), ("net.ipv4.tcp_keepalive_time", 29)] {
        let before = format!("baseline:v1.{}", since - 1);
        assert!(!evaluate(mode(&before), &of(&[name])).is_empty(), "{name}");
        check(&of(&[name]), &[(&format!("baseline:v1.{since}"), "")]);
    }
}

#[test]
fn containers_of_all_sorts_are_looked_at() {
    let bad = json!({"name": "x", "securityContext": {"privileged": true}});
    let mut first = bad.clone();
    first["name"] = "first".into();
    let spec = json!({"initContainers": [first], "ephemeralContainers": [bad]});
    check(
        &pod(spec, json!({})),
        &[(
            "baseline:latest",
            "privileged (containers \"first\", \"x\" must not set securityContext.privileged=true)",
        )],
    );
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let labels = labels.iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), (*v).to_owned()));
    labels.collect()
}

#[test]
fn labels_of_namespaces() {
    let check = |sent: &[(&str, &str)], expected: [&str; 3], faults: &str| {
        let (policy, found) = Policy::of(&labels(sent));
        let modes = [policy.enforce, policy.audit, policy.warn].map(|mode| mode.to_string());
        assert_eq!(modes, expected, "{sent:?}");
        let mut errors = FieldErrors::new();
        policy::report(&found, &mut errors);
        assert_eq!(errors.to_string(), faults);
    };
    let open = "privileged:latest";
    check(&[], [open; 3], "[]");
    let baseline = "baseline:v1.30";
    check(&[("enforce", "baseline"), ("enforce-version", "v1.30")], [baseline, open, baseline], "[]");
    check(
        &[
            ("enforce", "baseline"),
            ("warn", "restricted"),
            ("audit", "restricted"),
            ("audit-version", "v1.0"),
        ],
        ["baseline:latest", "restricted:v1.0", "restricted:latest"],
        "[]",
    );
    check(&[("enforce", "restricted"), ("warn", "privileged")], ["restricted:latest", open, open], "[]");
    check(
        &[("enforce", "strict")],
        ["restricted:latest", open, open],
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
    );
    check(
        &[("warn", "Baseline"), ("audit", "")],
        [open; 3],
        "[metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"\": must be one of privileged, baseline, restricted, \
         metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"Baseline\": must be one of privileged, baseline, restricted]",
    );
    for version in ["1.30", "v1.30.1", "v1.", "v2.0", "v1.01", "v1.x", ""] {
        check(
            &[("enforce", "baseline"), ("enforce-version", version)],
            ["baseline:latest", open, "baseline:latest"],
            &format!(
                "metadata.labels[pod-security.kubernetes.io/enforce-version]: Invalid value: {version:?}: must be \"latest\" or \"v1.x\""
            ),
        );
    }
}

#[test]
fn when_pods_are_looked_at_anew() {
    let policy = |sent: &[(&str, &str)]| Policy::of(&labels(sent)).0;
    let (none, baseline) = (policy(&[]), policy(&[("enforce", "baseline")]));
    let restricted = policy(&[("enforce", "restricted")]);
    let older = policy(&[("enforce", "baseline"), ("enforce-version", "v1.20")]);
    assert!(baseline.is_stricter_than(&none) && restricted.is_stricter_than(&baseline));
    assert!(baseline.is_stricter_than(&older) && older.is_stricter_than(&baseline));
    assert!(!baseline.is_stricter_than(&baseline) && !baseline.is_stricter_than(&restricted));
    assert!(!none.is_stricter_than(&restricted));
    assert!(policy(&[("warn", "privileged")]).is_open() && !policy(&[("audit", "baseline")]).is_open());

    let pods: Vec<Pod> = ["b", "a", "c", "good"]
        .iter()
        .map(|name| {
            let context = if *name == "good" { json!({}) } else { json!({"privileged": true}) };
            let mut pod = pod(json!({}), json!({"securityContext": context}));
            pod.metadata.name = Some((*name).to_owned());
            pod
        })
        .collect();
    let latest = mode("baseline:latest");
    let head =
        "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"";
    assert_eq!(namespace::warnings("n", latest, &pods, 4), [head, "a (and 2 other pods): privileged"]);
    assert_eq!(namespace::warnings("n", latest, &pods[..2], 2), [head, "a (and 1 other pod): privileged"]);
    assert_eq!(
        namespace::warnings("n", latest, &pods[..1], 4),
        [
            "new PodSecurity enforce level only checked against the first 1 of 4 existing pods",
            head,
            "b: privileged"
        ]
    );
    assert!(namespace::warnings("n", latest, &pods[3..], 1).is_empty());
}

#[test]
fn verdicts() {
    let bad = pod(json!({"hostPID": true}), json!({}));
    let (policy, _) =
        Policy::of(&labels(&[("enforce", "baseline"), ("audit", "restricted"), ("warn", "restricted")]));
    let found = "host namespaces (hostPID=true)";
    let verdict = decide(&policy, &bad, false);
    assert_eq!(verdict.refused, Some(format!("violates PodSecurity \"baseline:latest\": {found}")));
    assert_eq!(verdict.warning, None);
    assert_eq!(verdict.audit, Some(format!("would violate PodSecurity \"restricted:latest\": {found}")));
    let verdict = decide(&policy, &bad, true);
    assert_eq!(verdict.refused, None);
    assert_eq!(verdict.warning, Some(format!("would violate PodSecurity \"restricted:latest\": {found}")));
    assert_eq!(decide(&policy, &pod(json!({}), json!({})), false), Verdict::default());
    assert_eq!(decide(&Policy::default(), &bad, false), Verdict::default());
}

#[test]
fn changes_that_matter() {
    let old = pod(json!({"hostPID": true}), json!({}));
    let with = |change: &dyn Fn(&mut Pod)| {
        let mut new = old.clone();
        change(&mut new);
        is_significant(&old, &new)
    };
    let note = |pod: &mut Pod, key: &str| {
        pod.metadata.annotations.get_or_insert_default().insert(key.to_owned(), "unconfined".to_owned());
    };
    assert!(!with(&|_| {}));
    assert!(!with(&|pod| pod.metadata.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]))));
    assert!(!with(&|pod| note(pod, "example.com/a")));
    assert!(with(&|pod| note(pod, "seccomp.security.alpha.kubernetes.io/pod")));
    assert!(with(&|pod| note(pod, "container.apparmor.security.beta.kubernetes.io/c")));
    assert!(with(&|pod| pod.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned())));
    assert!(with(&|pod| {
        let debugger = serde_json::from_value(json!({"name": "d", "image": "i"})).unwrap();
        pod.spec.as_mut().unwrap().ephemeral_containers = Some(vec![debugger]);
    }));
}
