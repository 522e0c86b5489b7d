//! The walk-throughs of the Kubernetes documentation for DaemonSets, StatefulSets and
//! ReplicationControllers, in short, with a real kubectl: what users read there is what they see
//! here.

mod cluster;

use cluster::Cluster;
use cluster::workload::{SLEEP, events_have, template, word};
use serde_json::Value;

/// <https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/> and `rollback-daemon-set`.
#[test]
fn a_daemon_set_is_updated_and_rolled_back() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let manifest = |image: &str| {
        let template = template("name: agent", "Always", SLEEP).replace("hello-container:1", image);
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec:\n  selector: {{matchLabels: {{name: agent}}}}\n  template: {template}\n"
        )
    };
    cluster.apply(&manifest("hello-container:1"));
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    let table = cluster.kubectl(&["get", "ds", "agent"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(
        header,
        ["NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE", "SELECTOR", "AGE"]
    );
    assert_eq!((word(&table, 1, 1), word(&table, 1, 5)), ("1", "1"), "{table}");
    events_have(&cluster, "agent", "SuccessfulCreate");

    // The same image under another name is another template.
    let first = cluster.list("pod", "name=agent")[0]["metadata"]["uid"].clone();
    cluster.kubectl(&["set", "env", "ds/agent", "LEVEL=debug"]);
    cluster.kubectl(&["annotate", "ds/agent", "kubernetes.io/change-cause=level debug"]);
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    let pods = cluster.list("pod", "name=agent");
    assert!(pods.len() == 1 && pods[0]["metadata"]["uid"] != first, "{pods:?}");
    let history = cluster.kubectl(&["rollout", "history", "ds/agent"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert!(cluster.kubectl(&["rollout", "history", "ds/agent", "--revision=2"]).contains("LEVEL"));
    cluster.kubectl(&["rollout", "undo", "ds/agent", "--to-revision=1"]);
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    let container = &cluster.get("ds", "agent")["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("env").is_none(), "{container}");
    let history = cluster.kubectl(&["rollout", "history", "ds/agent"]);
    assert!(history.contains("\n2 ") && history.contains("\n3 ") && !history.contains("\n1 "), "{history}");
    assert_eq!(word(&cluster.kubectl(&["get", "controllerrevisions"]), 1, 1), "daemonset.apps/agent");

    // A node that is not fit loses its pod, and gets it back.
    cluster.kubectl(&[
        "patch",
        "ds",
        "agent",
        "-p",
        r#"{"spec":{"template":{"spec":{"nodeSelector":{"ssd":"yes"}}}}}"#,
    ]);
    cluster.wait("the pod to leave", || cluster.list("pod", "name=agent").is_empty());
    cluster.kubectl(&["label", "node", "--all", "ssd=yes"]);
    cluster.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]);
    cluster.wait("the pod to come back", || cluster.get("ds", "agent")["status"]["numberAvailable"] == 1);
    cluster.kubectl(&["delete", "ds", "agent"]);
    cluster.wait("everything to go", || {
        cluster.list("pod", "name=agent").is_empty()
            && cluster.list("controllerrevision", "name=agent").is_empty()
    });
}

/// <https://kubernetes.io/docs/tutorials/stateful-application/basic-stateful-set/>, without storage.
#[test]
fn a_stateful_set_keeps_its_names_and_its_order() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let template = template("app: nginx", "Always", SLEEP);
    let manifest = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: nginx}}\nspec: {{clusterIP: None, selector: {{app: nginx}}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: web}}\nspec: {{serviceName: nginx, replicas: 2, \
         selector: {{matchLabels: {{app: nginx}}}}, template: {template}}}\n"
    );
    cluster.apply(&manifest);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    let names = || -> Vec<String> {
        let name = |p: &Value| p["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        cluster.list("pod", "app=nginx").iter().map(name).collect()
    };
    assert_eq!(names(), ["web-0", "web-1"]);
    let pods = cluster.list("pod", "app=nginx");
    assert!(
        pods[0]["metadata"]["creationTimestamp"].as_str()
            <= pods[1]["metadata"]["creationTimestamp"].as_str()
    );
    assert_eq!(
        (&pods[1]["spec"]["hostname"], &pods[1]["spec"]["subdomain"]),
        (&"web-1".into(), &"nginx".into())
    );
    let slices =
        cluster.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=nginx", "-o", "yaml"]);
    assert!(slices.contains("hostname: web-0") && slices.contains("hostname: web-1"), "{slices}");
    assert_eq!(word(&cluster.kubectl(&["get", "sts", "web"]), 1, 1), "2/2");

    // A pod that is deleted comes back under its name.
    let before = pods[0]["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", "pod", "web-0"]);
    cluster.wait("web-0 to come back", || {
        let pod = cluster.get("pod", "web-0");
        !pod.is_null() && pod["metadata"]["uid"] != before
    });
    cluster.kubectl(&["scale", "sts", "web", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert_eq!(names(), ["web-0", "web-1", "web-2"]);

    // A canary: only what is not below the partition is replaced.
    let partition =
        |n: u32| format!(r#"{{"spec":{{"updateStrategy":{{"rollingUpdate":{{"partition":{n}}}}}}}}}"#);
    cluster.kubectl(&["patch", "sts", "web", "-p", &partition(2)]);
    cluster.kubectl(&["set", "env", "sts/web", "LEVEL=debug"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    let has_level = |name: &str| cluster.get("pod", name)["spec"]["containers"][0].get("env").is_some();
    assert_eq!((has_level("web-1"), has_level("web-2")), (false, true));
    cluster.kubectl(&["patch", "sts", "web", "-p", &partition(0)]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert!(has_level("web-0") && has_level("web-1"));
    cluster.kubectl(&["rollout", "undo", "sts/web"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert!(!has_level("web-0") && !has_level("web-2"));

    cluster.kubectl(&["scale", "sts", "web", "--replicas=1"]);
    cluster.wait("web-2 and web-1 to go", || names() == ["web-0"]);
    cluster.kubectl(&["delete", "sts", "web"]);
    cluster.wait("its pods to go", || names().is_empty());
}

fn names(cluster: &Cluster, selector: &str) -> Vec<String> {
    let pods = cluster.list("pod", selector);
    pods.iter().map(|p| p["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// OnDelete, another first ordinal and Parallel, on
/// <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>, and the deletion that
/// leaves the pods in the tutorial.
#[test]
fn a_stateful_set_updates_on_deletion_and_counts_from_its_start() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let template = template("app: nginx", "Always", SLEEP);
    let manifest = format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: web}}\nspec: {{serviceName: nginx, replicas: 2, \
         podManagementPolicy: Parallel, updateStrategy: {{type: OnDelete}}, ordinals: {{start: 5}}, \
         selector: {{matchLabels: {{app: nginx}}}}, template: {template}}}\n"
    );
    cluster.apply(&manifest);
    let ready = |count: i64| {
        cluster.wait("its pods", || {
            let set = cluster.get("sts", "web");
            set["status"]["readyReplicas"] == count
                && set["status"]["observedGeneration"] == set["metadata"]["generation"]
        });
    };
    ready(2);
    assert_eq!(names(&cluster, "app=nginx"), ["web-5", "web-6"]);
    assert_eq!(names(&cluster, "apps.kubernetes.io/pod-index=6"), ["web-6"]);

    // A new template is for the pods that come from now on.
    let uid = |pod: &str| cluster.get("pod", pod)["metadata"]["uid"].clone();
    let (five, six) = (uid("web-5"), uid("web-6"));
    cluster.kubectl(&["set", "env", "sts/web", "LEVEL=debug"]);
    cluster.wait("the new revision", || {
        let status = cluster.get("sts", "web")["status"].clone();
        status["updateRevision"] != status["currentRevision"]
    });
    let history = cluster.kubectl(&["rollout", "history", "sts/web"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    let refused = cluster.kubectl_fails(&["rollout", "status", "sts/web", "--timeout=5s"]);
    assert!(
        refused.contains("rollout status is only available for RollingUpdate strategy type"),
        "{refused}"
    );
    cluster.kubectl(&["delete", "pod", "web-5"]);
    cluster.wait("another web-5", || {
        let pod = cluster.get("pod", "web-5");
        !pod.is_null() && pod["metadata"]["uid"] != five
    });
    let has_level = |pod: &str| cluster.get("pod", pod)["spec"]["containers"][0].get("env").is_some();
    assert_eq!((has_level("web-5"), has_level("web-6")), (true, false));
    assert_eq!(uid("web-6"), six);
    cluster.wait("one to be up to date", || cluster.get("sts", "web")["status"]["updatedReplicas"] == 1);

    // The ordinals move.
    cluster.kubectl(&["patch", "sts", "web", "-p", r#"{"spec":{"ordinals":{"start":6}}}"#]);
    cluster.wait("web-7 for web-5", || names(&cluster, "app=nginx") == ["web-6", "web-7"]);
    assert_eq!(uid("web-6"), six);
    ready(2);

    // The set goes and its pods stay, until there is a set again that takes them.
    cluster.kubectl(&["delete", "sts", "web", "--cascade=orphan"]);
    let owners = |pod: &str| cluster.get("pod", pod)["metadata"]["ownerReferences"].clone();
    cluster.wait("the pods to be nobody's", || owners("web-6").is_null() && owners("web-7").is_null());
    let seven = uid("web-7");
    cluster.apply(&manifest.replace("start: 5", "start: 6"));
    cluster.wait("the pods to be adopted", || {
        ["web-6", "web-7"].iter().all(|pod| owners(pod)[0]["controller"] == true)
    });
    ready(2);
    assert_eq!((uid("web-6"), uid("web-7")), (six, seven));
    cluster.kubectl(&["delete", "sts", "web"]);
    cluster.wait("its pods to go", || names(&cluster, "app=nginx").is_empty());
}

/// The forced rollback of
/// <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback>.
#[test]
fn a_broken_stateful_set_waits_for_its_pod_to_be_deleted() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let template = template("app: nginx", "Always", SLEEP);
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: web}}\nspec: {{serviceName: nginx, replicas: 2, \
         selector: {{matchLabels: {{app: nginx}}}}, template: {template}}}\n"
    ));
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    cluster.kubectl(&["set", "image", "sts/web", "c=hello-containr:1"]);
    let waiting = |pod: &str| {
        let status = cluster.get("pod", pod)["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        status["reason"].as_str().is_some_and(|reason| reason.contains("Image"))
    };
    cluster.wait("the typo to show", || waiting("web-1"));
    cluster.kubectl(&["rollout", "undo", "sts/web"]);
    cluster.wait("the template to be seen", || {
        let set = cluster.get("sts", "web");
        set["status"]["observedGeneration"] == set["metadata"]["generation"]
    });
    // The pod that cannot become ready holds everything up, the way back included.
    assert!(waiting("web-1"));
    cluster.kubectl(&["delete", "pod", "web-1"]);
    cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    assert_eq!(cluster.get("sts", "web")["status"]["readyReplicas"], 2);
}

/// <https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/>.
#[test]
fn a_replication_controller_takes_over_what_it_selects() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let manifest = |name: &str, replicas: u32, labels: &str| {
        format!(
            "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}, \
             selector: {{app: nginx}}, template: {}}}\n",
            template(labels, "Always", SLEEP)
        )
    };
    // One pod is there already, by hand.
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: own, labels: {app: nginx}}\nspec: {terminationGracePeriodSeconds: 1, \
         containers: [{name: c, image: 'hello-container:1'}]}\n",
    );
    cluster.apply(&manifest("nginx", 3, "app: nginx"));
    let ready = |name: &str, count: i64| {
        cluster.wait("its pods", || cluster.get("rc", name)["status"]["readyReplicas"] == count);
    };
    ready("nginx", 3);
    let pods = names(&cluster, "app=nginx");
    assert!(pods.len() == 3 && pods.contains(&"own".to_owned()), "{pods:?}");
    let described = cluster.kubectl(&["describe", "replicationcontrollers/nginx"]);
    assert!(described.contains("Replicas:     3 current / 3 desired"), "{described}");
    assert!(
        described.contains("Pods Status:  3 Running / 0 Waiting / 0 Succeeded / 0 Failed"),
        "{described}"
    );
    events_have(&cluster, "nginx", "SuccessfulCreate");
    let table = cluster.kubectl(&["get", "rc"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]);
    let wrong = cluster.kubectl_fails(&["scale", "rc", "nginx", "--current-replicas=2", "--replicas=1"]);
    assert!(wrong.contains("Expected replicas to be 2, was 3"), "{wrong}");
    cluster.kubectl(&["scale", "rc", "nginx", "--current-replicas=3", "--replicas=2"]);
    cluster.wait("one to go", || cluster.get("rc", "nginx")["status"]["replicas"] == 2);
    events_have(&cluster, "nginx", "SuccessfulDelete");

    // The controller goes, its pods stay, and the next one takes them as they are; its own
    // template is for those that it makes itself.
    cluster.kubectl(&["delete", "rc", "nginx", "--cascade=orphan"]);
    let before = names(&cluster, "app=nginx");
    cluster.wait("the pods to be nobody's", || {
        cluster.list("pod", "app=nginx").iter().all(|p| p["metadata"]["ownerReferences"].is_null())
    });
    cluster.apply(&manifest("next", 2, "app: nginx, release: next"));
    ready("next", 2);
    assert_eq!(names(&cluster, "app=nginx"), before);
    cluster.kubectl(&["scale", "rc", "next", "--replicas=3"]);
    ready("next", 3);
    assert_eq!(names(&cluster, "release=next").len(), 1);
    let refused = cluster.kubectl_stdin(&["create", "-f", "-"], &manifest("bad", 1, "app: other"));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("`selector` does not match template `labels`"), "{error}");
    cluster.kubectl(&["delete", "rc", "next"]);
    cluster.wait("its pods to go", || cluster.list("pod", "app=nginx").is_empty());
}
