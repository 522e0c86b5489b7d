//! What kubectl users type every day, typed at a real cluster by a real kubectl: the machine's own
//! and Debian's 1.20, which speaks an older dialect (no aggregated discovery, OpenAPI v2 in
//! protobuf).

mod cluster;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use cluster::Cluster;

/// kubectl 1.20, unpacked by `make setup`.
fn kubectl_1_20() -> PathBuf {
    let path = std::env::var_os("PROA_TEST_KUBECTL_1_20").map(PathBuf::from);
    let path = path.unwrap_or_else(|| cluster::target_dir().join("tools/kubectl-1.20/usr/bin/kubectl"));
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

#[test]
fn verbs_of_the_machines_kubectl() {
    verbs(Cluster::start());
}

#[test]
fn verbs_of_kubectl_1_20() {
    verbs(Cluster::start().with_kubectl(&kubectl_1_20()));
}

/// One cluster for all verbs: the steps build on each other as a user's session does.
fn verbs(cluster: Cluster) {
    cluster.pack_examples();
    create_and_get(&cluster);
    deploy_and_roll(&cluster);
    change_in_place(&cluster);
    roll_by_hand(&cluster);
    apply_lists(&cluster);
    ask_without_doing(&cluster);
    select_and_page(&cluster);
    look_around(&cluster);
    logs(&cluster);
    cascade(&cluster);
    delete(&cluster);
}

fn create_and_get(cluster: &Cluster) {
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  labels: {app: demo}\ndata:\n  a: '1'\n";
    let output = cluster.kubectl_stdin(&["create", "-f", "-"], config_map);
    assert!(output.status.success(), "{output:?}");
    let output = cluster.kubectl_stdin(&["create", "-f", "-"], config_map);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("configmaps \"settings\" already exists"), "{error}");

    assert!(cluster.kubectl(&["get", "cm", "settings", "-o", "yaml"]).contains("  a: \"1\""));
    assert!(cluster.kubectl(&["get", "cm", "settings", "-o", "json"]).contains("\"a\": \"1\""));
    assert_eq!(cluster.kubectl(&["get", "cm", "settings", "-o", "name"]), "configmap/settings\n");
    assert_eq!(cluster.kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data.a}"]), "1");
    assert_eq!(cluster.kubectl(&["get", "cm", "settings", "-o", "go-template={{.data.a}}"]), "1");
    let columns =
        cluster.kubectl(&["get", "cm", "settings", "-o", "custom-columns=N:.metadata.name,A:.data.a"]);
    assert_eq!(
        columns.lines().nth(1).map(|l| l.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["settings", "1"])
    );
    let table = cluster.kubectl(&["get", "cm", "-l", "app=demo", "--show-labels"]);
    assert!(table.starts_with("NAME") && table.contains("DATA") && table.contains("app=demo"), "{table}");
    assert!(cluster.kubectl(&["get", "cm", "-A"]).contains("kube-root-ca.crt"));
    assert!(cluster.kubectl(&["get", "nodes", "-o", "wide"]).contains("INTERNAL-IP"));
    assert!(cluster.kubectl(&["get", "ns"]).contains("kube-system"));
    let error = cluster.kubectl_fails(&["get", "cm", "nothing"]);
    assert_eq!(error, "Error from server (NotFound): configmaps \"nothing\" not found\n");
}

fn deploy_and_roll(cluster: &Cluster) {
    let said = cluster.kubectl(&["create", "deployment", "web", "--image=hello-wasm:1", "--port=8080"]);
    assert_eq!(said, "deployment.apps/web created\n");
    let said = cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(said.contains("successfully rolled out"), "{said}");
    cluster.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]);

    let manifest = include_str!("../examples/hello-wasm/manifest.yaml");
    let deployment = manifest.split("---").next().expect("the Deployment");
    assert_eq!(cluster.apply(deployment), "deployment.apps/hello-wasm created\n");
    assert_eq!(cluster.apply(deployment), "deployment.apps/hello-wasm unchanged\n");
    let changed = deployment.replace("value: Hello", "value: Salve");
    assert_eq!(cluster.apply(&changed), "deployment.apps/hello-wasm configured\n");
    cluster.kubectl(&["rollout", "status", "deployment/hello-wasm", "--timeout=60s"]);
    let history = cluster.kubectl(&["rollout", "history", "deployment/hello-wasm"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");

    cluster.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(cluster.get("deployment", "web")["status"]["readyReplicas"], 3);

    cluster.kubectl(&["set", "image", "deployment/web", "hello-wasm=together-front:1"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let containers = &cluster.get("deployment", "web")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["image"], "together-front:1");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let containers = &cluster.get("deployment", "web")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["image"], "hello-wasm:1");

    assert_eq!(cluster.kubectl(&["expose", "deployment", "web"]), "service/web exposed\n");
    cluster.wait("endpoints", || cluster.kubectl(&["get", "endpoints", "web"]).matches(":8080").count() == 3);
}

fn change_in_place(cluster: &Cluster) {
    cluster.kubectl(&["label", "cm", "settings", "tier=one"]);
    let error = cluster.kubectl_fails(&["label", "cm", "settings", "tier=two"]);
    assert!(error.contains("--overwrite is false"), "{error}");
    cluster.kubectl(&["label", "cm", "settings", "tier=two", "--overwrite"]);
    cluster.kubectl(&["label", "cm", "settings", "tier-"]);
    assert!(cluster.get("cm", "settings")["metadata"]["labels"].get("tier").is_none());
    cluster.kubectl(&["annotate", "cm", "settings", "note=hello"]);
    assert_eq!(cluster.get("cm", "settings")["metadata"]["annotations"]["note"], "hello");

    let patch =
        |kind: &str, patch: &str| cluster.kubectl(&["patch", "cm", "settings", "--type", kind, "-p", patch]);
    patch("merge", r#"{"data":{"b":"2"}}"#);
    patch("json", r#"[{"op":"add","path":"/data/c","value":"3"},{"op":"remove","path":"/data/a"}]"#);
    patch("strategic", r#"{"data":{"d":"4"}}"#);
    let data = cluster.get("cm", "settings")["data"].clone();
    assert_eq!(data, serde_json::json!({"b": "2", "c": "3", "d": "4"}));
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"hello-wasm","env":[{"name":"X","value":"1"}]}]}}}}"#;
    cluster.kubectl(&["patch", "deployment", "web", "-p", strategic]);
    let container = cluster.get("deployment", "web")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!((&container["image"], &container["env"][0]["name"]), (&"hello-wasm:1".into(), &"X".into()));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    // What only made sense with the type that a Service had goes with it.
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: moves}\nspec: {type: NodePort, \
         externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80}]}\n",
    );
    let outside = r#"{"spec":{"type":"ExternalName","externalName":"web.example"}}"#;
    cluster.kubectl(&["patch", "service", "moves", "-p", outside]);
    let spec = cluster.get("service", "moves")["spec"].clone();
    let left = ["externalTrafficPolicy", "clusterIP", "clusterIPs"].map(|field| spec.get(field));
    assert_eq!((left, spec["ports"][0].get("nodePort")), ([None; 3], None), "{spec}");
    cluster.kubectl(&["delete", "service", "moves"]);

    let error = cluster.kubectl_fails(&[
        "patch",
        "cm",
        "settings",
        "--type",
        "json",
        "-p",
        r#"[{"op":"test","path":"/data/c","value":"9"}]"#,
    ]);
    assert!(error.starts_with("The request is invalid: patch: ") && error.contains("/data/c"), "{error}");
    let pod = cluster.list("pod", "app=web")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let error = cluster.kubectl_fails(&["patch", "pod", &pod, "-p", r#"{"spec":{"nodeName":"other"}}"#]);
    assert!(error.contains("pod updates may not change fields other than"), "{error}");

    let mut edit = cluster.kubectl_command();
    let edit = edit
        .args(["edit", "cm", "settings"])
        .env("EDITOR", "sed -i s/hello/edited/")
        .output()
        .expect("kubectl");
    assert!(edit.status.success(), "{edit:?}");
    assert_eq!(cluster.get("cm", "settings")["metadata"]["annotations"]["note"], "edited");
}

/// What changes a roll-out other than its image.
fn roll_by_hand(cluster: &Cluster) {
    let web = || cluster.get("deployment", "web")["spec"].clone();
    assert_eq!(cluster.kubectl(&["rollout", "pause", "deploy/web"]), "deployment.apps/web paused\n");
    let error = cluster.kubectl_fails(&["rollout", "pause", "deploy/web"]);
    assert!(error.contains("already paused"), "{error}");
    cluster.kubectl(&["set", "env", "deploy/web", "COLOUR=blue"]);
    cluster.kubectl(&["set", "resources", "deploy/web", "--limits=memory=64Mi", "--requests=memory=16Mi"]);
    assert!(cluster.kubectl(&["set", "env", "deploy/web", "--list"]).contains("COLOUR=blue"));
    assert_eq!(cluster.kubectl(&["rollout", "resume", "deploy/web"]), "deployment.apps/web resumed\n");
    cluster.kubectl(&["rollout", "restart", "deploy/web"]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    assert_eq!(web()["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    let error = cluster.kubectl_fails(&["rollout", "undo", "deploy/web", "--to-revision=99"]);
    assert!(error.contains("unable to find specified revision 99"), "{error}");
    let error = cluster.kubectl_fails(&["scale", "deploy", "web", "--current-replicas=9", "--replicas=1"]);
    assert!(error.contains("xpected replicas to be 9, was 3"), "{error}");
}

/// What only shows what would be, and what is refused before it is done.
/// Lists in a file, of the kind `List` and of their items' own.
fn apply_lists(cluster: &Cluster) {
    for (kind, name) in [("List", "of-any"), ("ConfigMapList", "of-one")] {
        let item =
            format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{app: demo}}}}}}");
        cluster.apply(&format!("apiVersion: v1\nkind: {kind}\nmetadata: {{}}\nitems: [{item}]\n"));
        cluster.kubectl(&["get", "cm", name]);
    }
}

fn ask_without_doing(cluster: &Cluster) {
    assert_eq!(
        cluster.kubectl(&["create", "cm", "dry", "--dry-run=server"]),
        "configmap/dry created (server dry run)\n"
    );
    cluster.kubectl_fails(&["get", "cm", "dry"]);
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain}\ndata: {a: b}\n";
    cluster.apply(manifest);
    let diff = cluster.kubectl_stdin(&["diff", "-f", "-"], manifest);
    assert!(diff.status.success() && diff.stdout.is_empty(), "{diff:?}");
    let changed = manifest.replace("a: b", "a: c");
    let diff = cluster.kubectl_stdin(&["diff", "-f", "-"], &changed);
    let shown = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert!(diff.status.code() == Some(1) && shown.contains("+  a: c"), "{diff:?}");
    assert_eq!(cluster.get("cm", "plain")["data"]["a"], "b");
    let replaced = cluster.kubectl_stdin(&["replace", "-f", "-"], &changed);
    assert!(replaced.status.success(), "{replaced:?}");
    assert_eq!(cluster.get("cm", "plain")["data"]["a"], "c");
    let refused = cluster.kubectl_stdin(&["apply", "--server-side", "-f", "-"], manifest);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("Server-side apply not available on the server"), "{error}");
    let misspelt = manifest.replace("data:", "dataa:");
    let refused = cluster.kubectl_stdin(&["create", "--validate=true", "-f", "-"], &misspelt);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("unknown field \"dataa\""), "{error}");

    assert_eq!(cluster.kubectl(&["auth", "can-i", "create", "pods"]), "yes\n");
    let error = cluster.kubectl_fails(&["get", "pods", "--as=somebody"]);
    assert!(error.contains("User \"somebody\" cannot list resource \"pods\" in API group \"\""), "{error}");
    assert!(cluster.kubectl(&["cluster-info"]).contains("https://127.0.0.1:6443"));
    assert!(cluster.kubectl(&["version"]).contains("proa"));
}

fn select_and_page(cluster: &Cluster) {
    let names = |arguments: &[&str]| -> Vec<String> {
        let fixed = ["get", "-o", "name"];
        cluster.kubectl(&[&fixed, arguments].concat()).lines().map(str::to_owned).collect()
    };
    for i in 0..5 {
        cluster.kubectl(&["create", "cm", &format!("page-{i}")]);
    }
    cluster.kubectl(&["label", "cm", "page-1", "page-3", "odd=yes"]);
    let all = names(&["cm"]);
    assert_eq!(names(&["cm", "--chunk-size=2"]), all);
    assert!(all.len() >= 7, "{all:?}");
    assert_eq!(names(&["cm", "-l", "odd in (yes,no)"]), ["configmap/page-1", "configmap/page-3"]);
    assert_eq!(names(&["cm", "-l", "odd,odd!=no", "--chunk-size=1"]).len(), 2);
    assert_eq!(names(&["cm", "--field-selector=metadata.name=page-2"]), ["configmap/page-2"]);
    let running = ["pods", "--field-selector=status.phase=Running,spec.nodeName!=", "-l", "app=web"];
    assert_eq!(names(&running).len(), 3);
    let error = cluster.kubectl_fails(&["get", "pods", "--field-selector=no.such=field"]);
    assert!(error.contains("field label not supported: no.such"), "{error}");
    let events = cluster.kubectl(&["get", "events", "--sort-by=.metadata.creationTimestamp"]);
    assert!(events.contains("ScalingReplicaSet"), "{events}");
    let raw = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps?limit=1"]);
    assert!(raw.contains("\"continue\":\"") && raw.contains("\"remainingItemCount\":"), "{raw}");
}

fn look_around(cluster: &Cluster) {
    let resources = cluster.kubectl(&["api-resources"]);
    for name in ["configmaps", "deployments", "ingresses", "leases", "endpointslices"] {
        assert!(resources.contains(name), "{resources}");
    }
    assert!(cluster.kubectl(&["api-versions"]).contains("apps/v1"));
    let explained = cluster.kubectl(&["explain", "deployment.spec.strategy"]);
    assert!(explained.contains("rollingUpdate"), "{explained}");
    let explained = cluster.kubectl(&["explain", "pod.spec.containers.image"]);
    assert!(explained.contains("Container image name"), "{explained}");

    let info = cluster.kubectl(&["cluster-info"]);
    assert!(info.contains("/api/v1/namespaces/kube-system/services/kube-dns:dns/proxy"), "{info}");
    let unknown = cluster.kubectl_fails(&["get", "flurbs"]);
    assert!(unknown.contains("the server doesn't have a resource type \"flurbs\""), "{unknown}");

    let described = cluster.kubectl(&["describe", "deployment", "web"]);
    for text in ["StrategyType:", "RollingUpdate", "NewReplicaSet:", "ScalingReplicaSet"] {
        assert!(described.contains(text), "{text} in {described}");
    }
    let pod = cluster.list("pod", "app=web")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let described = cluster.kubectl(&["describe", "pod", &pod]);
    for text in ["Status:", "Running", "Container ID:", "Scheduled", "Started"] {
        assert!(described.contains(text), "{text} in {described}");
    }
    let refused = cluster.kubectl_fails(&["debug", &pod, "--image=hello-container:1"]);
    assert!(refused.contains("ephemeral containers are disabled for this cluster"), "{refused}");
    for kind in ["node", "service", "ingress", "configmap", "namespace", "secret"] {
        cluster.kubectl(&["describe", kind]);
    }

    // -w shows what is there, then what happens.
    let mut watch = cluster.kubectl_command();
    watch.args(["get", "cm", "-w", "--no-headers", "-l", "watched=yes"]).stdout(Stdio::piped());
    let mut watch = watch.spawn().expect("kubectl");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    cluster.kubectl(&["create", "cm", "seen"]);
    cluster.kubectl(&["label", "cm", "seen", "watched=yes"]);
    let line = lines.next().expect("a line").expect("text");
    assert!(line.starts_with("seen"), "{line}");
    watch.kill().expect("it runs");
    watch.wait().expect("own child");
}

fn logs(cluster: &Cluster) {
    let chatty = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: chatty\nspec:\n  containers:\n  - name: c\n    image: hello-container:1\n    command: [/bin/busybox, sh, -c]\n    args: ['i=0; while true; do i=$((i+1)); echo line $i; /bin/busybox sleep 0.1; done']\n";
    cluster.apply(chatty);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/chatty", "--timeout=60s"]);
    let mut follow = cluster.kubectl_command();
    let mut follow = follow.args(["logs", "-f", "chatty"]).stdout(Stdio::piped()).spawn().expect("kubectl");
    let lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    let seen: Vec<String> = lines.take(5).map(|l| l.expect("text")).collect();
    assert_eq!(seen, ["line 1", "line 2", "line 3", "line 4", "line 5"]);
    follow.kill().expect("it runs");
    follow.wait().expect("own child");
    assert_eq!(cluster.kubectl(&["logs", "chatty", "--tail=1"]).lines().count(), 1);
    let stamped = cluster.kubectl(&["logs", "chatty", "--timestamps", "--tail=1"]);
    assert!(stamped.starts_with("20") && stamped.contains("Z line "), "{stamped}");
    assert!(cluster.kubectl(&["logs", "chatty", "-c", "c", "--since=1h"]).starts_with("line 1\n"));
    let error = cluster.kubectl_fails(&["logs", "chatty", "-c", "nobody"]);
    assert!(error.contains("container nobody is not valid for pod chatty"), "{error}");
}

/// What becomes of the pods and ReplicaSets of what is deleted.
fn cascade(cluster: &Cluster) {
    let create = |name: &str| {
        cluster.kubectl(&["create", "deployment", name, "--image=hello-wasm:1"]);
        cluster.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]);
    };
    create("left");
    cluster.kubectl(&["delete", "deployment", "left", "--cascade=orphan"]);
    let sets = cluster.list("replicaset", "app=left");
    assert_eq!(sets.len(), 1);
    assert!(sets[0]["metadata"].get("ownerReferences").is_none(), "{}", sets[0]);
    assert_eq!(cluster.list("pod", "app=left").len(), 1);
    cluster.kubectl(&["delete", "replicaset", "-l", "app=left"]);
    cluster.wait("the orphan's pods to follow", || cluster.list("pod", "app=left").is_empty());

    create("whole");
    cluster.kubectl(&["delete", "deployment", "whole", "--cascade=foreground", "--timeout=60s"]);
    assert!(cluster.list("replicaset", "app=whole").is_empty());
    assert!(cluster.list("pod", "app=whole").is_empty());

    cluster.kubectl(&["run", "forced", "--image=hello-wasm:1"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/forced", "--timeout=60s"]);
    cluster.kubectl(&["set", "image", "pod/forced", "forced=together-front:1"]);
    cluster.wait("the pod to run its new image", || {
        let status = cluster.get("pod", "forced")["status"]["containerStatuses"][0].clone();
        let image_id = status["imageID"].as_str().unwrap_or_default();
        image_id.contains("together-front") && status["restartCount"] == 1 && status["ready"] == true
    });
    cluster.kubectl(&["delete", "pod", "forced", "--force", "--grace-period=0"]);
    cluster.kubectl_fails(&["get", "pod", "forced"]);
}

fn delete(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pod", "chatty", "--grace-period=1"]);
    assert_eq!(
        cluster.kubectl(&["delete", "deployment", "web"]),
        "deployment.apps \"web\" deleted\n".to_owned().replace("deleted", &deleted_suffix(cluster))
    );
    cluster.wait("the pods to follow", || cluster.list("pod", "app=web").is_empty());
    cluster.kubectl(&["delete", "cm", "-l", "app=demo"]);
    cluster.kubectl_fails(&["get", "cm", "settings"]);
    cluster.kubectl(&["create", "ns", "short"]);
    cluster.kubectl(&["-n", "short", "create", "cm", "inside"]);
    cluster.kubectl(&["delete", "ns", "short", "--timeout=60s"]);
    cluster.kubectl_fails(&["get", "ns", "short"]);
}

/// Newer kubectls name the namespace of what they have deleted.
fn deleted_suffix(cluster: &Cluster) -> String {
    let version = cluster.kubectl(&["version", "-o", "json"]);
    let version: serde_json::Value = serde_json::from_str(&version).expect("kubectl prints JSON");
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+');
    let named = minor.parse::<u32>().is_ok_and(|m| m >= 33);
    if named { "deleted from default namespace".to_owned() } else { "deleted".to_owned() }
}
