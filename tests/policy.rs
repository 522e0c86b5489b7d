//! What limits users and operators, with a real kubectl: priorities, disruption budgets, quotas,
//! limits and Pod Security as the pages of the Kubernetes documentation show them, and a
//! ReplicationController.

mod cluster;

use cluster::Cluster;
use serde_json::Value;

/// A workload of pods that sleep.
fn workload(kind: &str, version: &str, name: &str, selector: &str, replicas: u32) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  {selector}\n  \
         template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [\
         {{name: c, image: 'hello-container:1', command: [/bin/busybox, sh, -c], \
         args: [\"trap exit TERM; while true; do /bin/busybox sleep 0.1; done\"]}}]}}}}\n"
    )
}

fn deployment(name: &str, replicas: u32) -> String {
    let selector = format!("selector: {{matchLabels: {{app: {name}}}}}");
    workload("Deployment", "apps/v1", name, &selector, replicas)
}

/// <https://kubernetes.io/docs/tasks/run-application/configure-pdb/> and
/// <https://kubernetes.io/docs/tasks/administer-cluster/safely-drain-node/>.
#[test]
fn a_drain_waits_for_the_budget() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(&deployment("web", 2));
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    cluster.kubectl(&["create", "pdb", "web", "--selector=app=web", "--min-available=2"]);
    cluster.wait("the budget to be computed", || cluster.get("pdb", "web")["status"]["currentHealthy"] == 2);
    let table = cluster.kubectl(&["get", "pdb"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().take(4).collect();
    assert_eq!(row, ["web", "2", "N/A", "0"], "{table}");
    assert!(
        table.starts_with("NAME   MIN AVAILABLE   MAX UNAVAILABLE   ALLOWED DISRUPTIONS   AGE"),
        "{table}"
    );
    assert!(cluster.kubectl(&["describe", "pdb", "web"]).contains("Allowed disruptions:  0"));

    let node = cluster.kubectl(&["get", "node", "-o", "name"]).trim().replace("node/", "");
    let drain = ["drain", &node, "--ignore-daemonsets", "--timeout=4s"];
    let refused = cluster.kubectl_fails(&drain);
    assert!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    assert_eq!(cluster.list("pod", "app=web").len(), 2);

    // With one disruption allowed the first goes; the second only once there is another, which
    // the drained node cannot take, until the budget asks for none.
    cluster.kubectl(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":1}}"#]);
    let ready = || {
        let pods = cluster.list("pod", "app=web");
        let ready = |pod: &&serde_json::Value| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && pod["status"]["conditions"].to_string().contains(r#""status":"True","type":"Ready""#)
        };
        pods.iter().filter(ready).count()
    };
    cluster.wait("a disruption to be allowed", || {
        cluster.get("pdb", "web")["status"]["disruptionsAllowed"] == 1
    });
    let refused = cluster.kubectl_fails(&drain);
    assert!(refused.contains("violate the pod's disruption budget"), "{refused}");
    assert_eq!(ready(), 1);
    cluster.kubectl(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":0}}"#]);
    let drained = cluster.kubectl(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"]);
    assert!(drained.contains("drained"), "{drained}");
    cluster.wait("the pods to wait for a node", || {
        let pods = cluster.list("pod", "app=web");
        pods.len() == 2 && pods.iter().all(|pod| pod["spec"]["nodeName"].is_null())
    });
    cluster.kubectl(&["uncordon", &node]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
}

/// <https://kubernetes.io/docs/tasks/administer-cluster/manage-resources/quota-pod-namespace/> and
/// `memory-default-namespace` beside it.
#[test]
fn quotas_and_limits_hold() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.kubectl(&["create", "quota", "pods", "--hard=pods=2,requests.memory=1Gi"]);
    cluster.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: memory}\nspec:\n  limits:\n  - type: Container\n    \
         default: {memory: 64Mi}\n    defaultRequest: {memory: 32Mi}\n    max: {memory: 1Gi}\n",
    );
    cluster.wait("the quota to be counted", || cluster.get("quota", "pods")["status"]["used"]["pods"] == "0");
    cluster.apply(&deployment("web", 3));
    cluster.wait("two of three pods", || cluster.get("deploy", "web")["status"]["readyReplicas"] == 2);
    let sets = cluster.list("rs", "app=web");
    let condition = &sets[0]["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&"ReplicaFailure".into(), &"FailedCreate".into())
    );
    let text = "is forbidden: exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2";
    assert!(condition["message"].as_str().is_some_and(|m| m.ends_with(text)), "{condition}");
    // It goes on trying, without saying again what is known.
    let version = |set: &Value| set["metadata"]["resourceVersion"].clone();
    let tries = || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector=reason=FailedCreate", "-o", "json"]);
        let events: Value = serde_json::from_str(&events).expect("JSON");
        let items = events["items"].as_array().expect("a list");
        items.iter().map(|event| event["count"].as_i64().unwrap_or(1)).sum::<i64>()
    };
    let (before, tried) = (version(&cluster.list("rs", "app=web")[0]), tries());
    cluster.wait("two more tries", || tries() >= tried + 2);
    assert_eq!(version(&cluster.list("rs", "app=web")[0]), before);
    let refused = cluster.kubectl_fails(&["run", "x", "--image=hello-container:1"]);
    assert_eq!(refused.trim(), format!("Error from server (Forbidden): pods \"x\" {text}"));
    let table = cluster.kubectl(&["get", "quota"]);
    assert!(table.contains("pods: 2/2, requests.memory: 64Mi/1Gi"), "{table}");
    let described = cluster.kubectl(&["describe", "quota", "pods"]);
    assert!(described.contains("requests.memory  64Mi  1Gi"), "{described}");

    let pod = &cluster.list("pod", "app=web")[0];
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"]["memory"], "64Mi");
    let note = &pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"];
    assert_eq!(*note, "LimitRanger plugin set: memory request for container c; memory limit for container c");
    assert!(cluster.kubectl(&["describe", "limits", "memory"]).contains("Container   memory    -    1Gi"));
    assert!(cluster.kubectl(&["describe", "ns", "default"]).contains("Resource Limits"));

    // Room comes with a larger quota, and the set fills it.
    cluster.kubectl(&["patch", "quota", "pods", "--type=merge", "-p", r#"{"spec":{"hard":{"pods":"3"}}}"#]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    assert_eq!(cluster.get("quota", "pods")["status"]["used"]["pods"], "3");
    cluster.kubectl(&["delete", "deploy", "web"]);
    cluster.wait("the quota to be free", || cluster.get("quota", "pods")["status"]["used"]["pods"] == "0");
    let over = r#"{"spec":{"containers":[{"name":"x","image":"hello-container:1","resources":{"limits":{"memory":"2Gi"}}}]}}"#;
    let refused = cluster.kubectl_fails(&["run", "x", "--image=hello-container:1", "--overrides", over]);
    assert!(refused.contains("maximum memory usage per Container is 1Gi, but limit is 2Gi"), "{refused}");
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/> and
/// <https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/>.
#[test]
fn priorities_and_replication_controllers() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let table = cluster.kubectl(&["get", "priorityclass"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["NAME", "VALUE", "GLOBAL-DEFAULT", "AGE", "PREEMPTIONPOLICY"]);
    assert!(table.contains("system-node-critical") && table.contains("2000001000"), "{table}");
    cluster.kubectl(&["create", "priorityclass", "high", "--value=1000", "--description=matters"]);
    assert!(cluster.kubectl(&["describe", "pc", "high"]).contains("Description:       matters"));
    let refused = cluster.kubectl_fails(&["create", "priorityclass", "system-mine", "--value=1"]);
    assert!(refused.contains("reserved for system use only"), "{refused}");
    let high = r#"{"spec":{"priorityClassName":"high"}}"#;
    cluster.kubectl(&["run", "vip", "--image=hello-container:1", "--overrides", high]);
    assert_eq!(cluster.get("pod", "vip")["spec"]["priority"], 1000);
    let described = cluster.kubectl(&["describe", "pod", "vip"]);
    assert!(described.contains("Priority Class Name:  high"), "{described}");

    cluster.apply(&workload("ReplicationController", "v1", "old", "selector: {app: old}", 1));
    let ready = |count: i64| {
        cluster
            .wait("the controller's pods", || cluster.get("rc", "old")["status"]["readyReplicas"] == count);
    };
    ready(1);
    cluster.kubectl(&["scale", "rc", "old", "--replicas=3"]);
    ready(3);
    let table = cluster.kubectl(&["get", "rc"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().take(4).collect();
    assert_eq!(row, ["old", "3", "3", "3"], "{table}");
    // A pod whose label changes is let go and replaced.
    let pod = cluster.list("pod", "app=old")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    cluster.kubectl(&["label", "pod", &pod, "app=own", "--overwrite"]);
    cluster.wait("another pod", || cluster.list("pod", "app=old").len() == 3);
    cluster
        .wait("the pod to be let go", || cluster.get("pod", &pod)["metadata"]["ownerReferences"].is_null());
    cluster.kubectl(&["delete", "rc", "old"]);
    cluster.wait("the pods to go", || cluster.list("pod", "app=old").is_empty());
    assert!(cluster.get("pod", &pod).is_object());
}

/// <https://kubernetes.io/docs/tutorials/security/ns-level-pss/>.
#[test]
fn namespaces_refuse_insecure_pods() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "ns", "example"]);
    cluster.kubectl(&["-n", "example", "run", "root", "--image=hello-container:1", "--restart=Never"]);
    let says = |arguments: &[&str]| {
        let output = cluster.kubectl_output(arguments);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let label = |label: &str| says(&["label", "--overwrite", "ns", "example", label]);
    let text = label("pod-security.kubernetes.io/enforce=restricted");
    assert!(
        text.contains("Warning: existing pods in namespace \"example\" violate the new PodSecurity enforce level \"restricted:latest\"")
            && text.contains(
                "Warning: root: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
            ),
        "{text}"
    );
    let text = says(&["-n", "example", "run", "other", "--image=hello-container:1", "--restart=Never"]);
    assert!(
        text.contains("pods \"other\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"other\" must set"),
        "{text}"
    );
    let text = says(&["-n", "example", "create", "deployment", "web", "--image=hello-container:1"]);
    assert!(text.contains("Warning: would violate PodSecurity \"restricted:latest\""), "{text}");
    let text = label("pod-security.kubernetes.io/enforce-version=1.30");
    assert!(text.contains("must be \"latest\" or \"v1.x\""), "{text}");
    assert_eq!(label("pod-security.kubernetes.io/enforce=baseline"), "");
    cluster.kubectl(&["-n", "example", "run", "other", "--image=hello-container:1", "--restart=Never"]);
}
