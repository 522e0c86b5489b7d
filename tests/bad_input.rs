//! What users get wrong: a clear error in Kubernetes' own words, nothing lost, nothing leaked.

mod cluster;

use std::fs;

use cluster::Cluster;

fn refused(cluster: &Cluster, manifest: &str, expected: &str) {
    let output = cluster.kubectl_stdin(&["create", "-f", "-"], manifest);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "accepted: {manifest}");
    assert!(error.contains(expected), "expected {expected:?} in {error}");
}

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn the_api_refuses_in_kubernetes_words() {
    let cluster = Cluster::start();
    refused(&cluster, "a: [", "error converting YAML to JSON");
    refused(&cluster, &pod("p", "{containers: []}"), "spec.containers: Required value");
    refused(
        &cluster,
        &pod("UPPER", "{containers: [{name: c, image: i}]}"),
        "a lowercase RFC 1123 subdomain must consist of",
    );
    refused(
        &cluster,
        &pod("p", "{containers: [{name: c, imagee: i, image: i}]}"),
        "unknown field \"spec.containers[0].imagee\"",
    );
    refused(
        &cluster,
        &pod(
            "p",
            "{containers: [{name: c, image: i, resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}]}",
        ),
        "must be less than or equal to memory limit of 1Gi",
    );
    refused(
        &cluster,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}",
        "`selector` does not match template `labels`",
    );
    refused(
        &cluster,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: missing}",
        "namespaces \"missing\" not found",
    );
    refused(
        &cluster,
        "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: x}",
        "no matches for kind \"Nothing\"",
    );
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.43.7.7, ports: [{port: 80}]}";
    cluster.apply(service);
    let error =
        cluster.kubectl_fails(&["patch", "service", "s", "-p", r#"{"spec":{"clusterIP":"10.43.7.8"}}"#]);
    assert!(
        error.contains("spec.clusterIPs[0]: Invalid value: [\"10.43.7.8\"]: may not change once set"),
        "{error}"
    );
    let error = cluster.kubectl_fails(&["delete", "ns", "kube-system"]);
    assert!(error.contains("this namespace may not be deleted"), "{error}");

    // Past kubectl's own checks: raw bodies.
    let huge = cluster.scratch().join("huge.json");
    fs::write(
        &huge,
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"h"}},"data":{{"a":"{}"}}}}"#,
            "x".repeat(4 << 20)
        ),
    )
    .expect("a file");
    let error = cluster.kubectl_fails(&[
        "create",
        "--raw",
        "/api/v1/namespaces/default/configmaps",
        "-f",
        huge.to_str().expect("UTF-8"),
    ]);
    assert!(error.contains("Request entity too large"), "{error}");
    let deep = cluster.scratch().join("deep.json");
    fs::write(&deep, "[".repeat(200_000)).expect("a file");
    let error = cluster.kubectl_fails(&[
        "create",
        "--raw",
        "/api/v1/namespaces/default/configmaps",
        "-f",
        deep.to_str().expect("UTF-8"),
    ]);
    assert!(!error.contains("EOF") && error.contains("rror"), "{error}");
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn what_cannot_run_says_so_in_its_status_and_an_event() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let broken = cluster.scratch().join("broken.wasm");
    fs::write(&broken, b"\0asm\x01\0\0\0\xff\xff\xff").expect("a file");
    cluster.proa(&["image", "pack", broken.to_str().expect("UTF-8"), "-t", "broken:1"]);

    cluster.apply(&pod("missing", "{containers: [{name: c, image: 'nothing:1', imagePullPolicy: Never}]}"));
    cluster.apply(&pod("broken", "{containers: [{name: c, image: 'broken:1'}]}"));
    cluster
        .apply(&pod("nosuch", "{containers: [{name: c, image: 'hello-container:1', command: [/nosuch]}]}"));
    cluster.apply(&pod(
        "noconfig",
        "{containers: [{name: c, image: 'hello-wasm:1', envFrom: [{configMapRef: {name: gone}}]}]}",
    ));
    cluster.apply(&pod(
        "huge",
        "{containers: [{name: c, image: 'hello-wasm:1', resources: {requests: {cpu: '4000'}}}]}",
    ));
    cluster.apply(&pod("twice", "{containers: [{name: a, image: 'hello-wasm:1', ports: [{containerPort: 80}]}, {name: b, image: 'hello-wasm:1', ports: [{containerPort: 80}]}]}"));

    let waiting = |name: &str, reason: &str| {
        cluster.wait(&format!("{name} to show {reason}"), || {
            let status = &cluster.get("pod", name)["status"];
            status.to_string().contains(&format!("\"reason\":\"{reason}\""))
        });
    };
    waiting("missing", "ErrImageNeverPull");
    waiting("broken", "CreateContainerError");
    waiting("nosuch", "StartError");
    waiting("noconfig", "CreateContainerConfigError");
    waiting("huge", "Unschedulable");
    cluster.wait("one of twice to fail on the port", || {
        cluster.kubectl(&["get", "pod", "twice"]).contains("CrashLoopBackOff")
    });
    let events = cluster.kubectl(&["get", "events"]);
    assert!(events.contains("0/1 nodes are available: 1 Insufficient cpu"), "{events}");
    assert!(events.contains("configmap \"gone\" not found"), "{events}");

    // What was missing comes, and the pod runs.
    cluster.kubectl(&["create", "configmap", "gone"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/noconfig", "--timeout=60s"]);
    cluster.kubectl(&["delete", "pod", "--all", "--grace-period=1"]);
}
