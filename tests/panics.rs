//! A panic in any long-lived task, or in any step of a pod, ends neither the cluster nor a pod.
//!
//! `proa` as these tests build it can be told to panic at a place (`supervise/src/failpoint.rs`).

mod cluster;

use std::fs;
use std::path::PathBuf;

use cluster::{Cluster, wait_for};
use serde_json::Value;

/// A pod that goes on, with a probe, a volume out of the API, and a Service and an Ingress before it.
const WEB: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index.html: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: hello-container:1
    command: [/bin/busybox, httpd, -f, -p, '8080', -h, /page]
    ports: [{containerPort: 8080}]
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: page, mountPath: /page}]
  volumes: [{name: page, configMap: {name: page}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
";

const CLAIM: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

/// A cluster that can be told to panic, with the pod.
fn start() -> Cluster {
    let cluster = Cluster::start_after(&[], |cluster| {
        fs::create_dir(cluster.failpoints()).expect("a directory");
    });
    cluster.pack_examples();
    cluster.apply(WEB);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    cluster.wait("the route", || cluster.ingress("web.test", "/").is_ok_and(|(code, _)| code == 200));
    cluster
}

/// Tells of a panic; it has come when the file is gone.
fn tell(cluster: &Cluster, place: &str) -> PathBuf {
    let file = cluster.failpoints().join(place);
    fs::write(&file, "").expect("a file");
    file
}

/// Makes a task panic, and waits until that is counted and told.
fn panic(cluster: &Cluster, task: &str) {
    let before = restarts(cluster, task);
    let file = tell(cluster, task);
    cluster.wait(&format!("{task} to be told to panic"), || !file.exists());
    cluster.wait(&format!("{task} to be counted"), || restarts(cluster, task) == before + 1);
    let text = format!("Task {task} failed and is started again: panicked: told to at {task}");
    cluster.wait_for_event(cluster.node_name(), "TaskRestarted", &text);
}

fn restarts(cluster: &Cluster, task: &str) -> u64 {
    let path = format!("/api/v1/nodes/{}/proxy/metrics", cluster.node_name());
    let metrics = cluster.kubectl(&["get", "--raw", &path]);
    let name = format!("proa_task_restarts_total{{task=\"{task}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What tells one run of the pod from another: its container, and when its process began.
fn run(cluster: &Cluster) -> (Value, String) {
    let status = cluster.get("pod", "web")["status"]["containerStatuses"][0].clone();
    assert_eq!((&status["restartCount"], &status["ready"]), (&0.into(), &true.into()), "{status}");
    let begun = ["/bin/busybox", "cut", "-d ", "-f22", "/proc/1/stat"];
    let begun = cluster.kubectl(&[&["exec", "web", "--"][..], &begun].concat());
    (status["containerID"].clone(), begun)
}

/// Asks for the page in every way that leads to the pod.
fn serves(cluster: &Cluster, page: &str) {
    let page = Ok((200, page.to_owned()));
    let address = cluster.get("service", "web")["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    cluster.wait("the service", || cluster.http(&format!("{address}:80"), "web", "/") == page);
    cluster.wait("the ingress", || cluster.ingress("web.test", "/") == page);
    cluster.wait("the name", || {
        let look = ["exec", "web", "--", "/bin/busybox", "nslookup", "web.default.svc.cluster.local"];
        let output = cluster.kubectl_output(&[&look[..], &["10.43.0.10"]].concat());
        String::from_utf8_lossy(&output.stdout).contains(&address)
    });
}

#[test]
fn every_task_comes_back_and_no_pod_is_disturbed() {
    let cluster = start();
    let before = run(&cluster);
    for task in ["service-proxy", "dns", "dns-watch", "dns-udp", "dns-tcp"] {
        panic(&cluster, task);
    }
    for task in ["ingress-watch", "ingress-http", "ingress-https"] {
        panic(&cluster, task);
    }
    serves(&cluster, "hello");
    for task in ["node-status", "pods", "pod-worker", "sandbox-listener", "probe", "services", "events"] {
        panic(&cluster, task);
    }
    for task in ["volume-objects", "local-paths", "disk-pressure", "restarts", "log-notices", "node"] {
        panic(&cluster, task);
    }
    for task in ["api", "first-objects", "controllers", "election", "sampler"] {
        panic(&cluster, task);
    }
    panic(&cluster, "controllers-events");
    assert_eq!(run(&cluster), before);

    // They do what they did before: a claim is provided for, a Deployment becomes pods, a change of what
    // a volume is made of comes through, the node tells that it lives.
    cluster.apply(CLAIM);
    cluster.kubectl(&["create", "deployment", "more", "--image=hello-container:1", "--replicas=2"]);
    let claim = r#"{"spec":{"template":{"spec":{"volumes":[{"name":"data","persistentVolumeClaim":{"claimName":"data"}}]}}}}"#;
    cluster.kubectl(&["patch", "deployment", "more", "-p", claim]);
    cluster.kubectl(&["rollout", "status", "deployment/more", "--timeout=60s"]);
    cluster.kubectl(&["patch", "configmap", "page", "-p", r#"{"data":{"index.html":"changed"}}"#]);
    serves(&cluster, "changed");
    assert_eq!(run(&cluster), before);
    let renewed = || {
        let lease = ["get", "lease", "-n", "kube-node-lease", cluster.node_name()];
        cluster.kubectl(&[&lease[..], &["-o", "jsonpath={.spec.renewTime}"]].concat())
    };
    let last = renewed();
    cluster.wait("a heartbeat", || renewed() != last);
    cluster.kubectl(&["delete", "pod", "web"]);
    assert_eq!(cluster.get("pod", "web"), Value::Null);
}

#[test]
fn decisions_that_panic_are_made_again() {
    let cluster = start();
    let before = run(&cluster);
    for (place, then) in [("scheduler", "one"), ("deployment-controller", "two")] {
        let file = tell(&cluster, place);
        cluster.kubectl(&["create", "deployment", then, "--image=hello-container:1"]);
        cluster.kubectl(&["rollout", "status", &format!("deployment/{then}"), "--timeout=60s"]);
        assert!(!file.exists());
        assert_eq!(restarts(&cluster, place), 1);
        cluster.wait_for_event(cluster.node_name(), "TaskRestarted", &format!("told to at {place}"));
    }
    assert_eq!(run(&cluster), before);
}

#[test]
fn a_step_that_panics_has_failed_and_is_done_again() {
    let cluster = start();
    let before = run(&cluster);
    let pod = |name: &str| {
        let pod = WEB.split("---").nth(1).expect("the pod");
        cluster.apply(&pod.replace("name: web", &format!("name: {name}")).replace("app: web", "app: other"));
    };
    for (step, reason) in [
        ("start-sandbox", "FailedCreatePodSandBox"),
        ("set-up-volumes", "FailedMount"),
        ("start-container", "Failed"),
    ] {
        let file = tell(&cluster, step);
        pod(step);
        cluster.wait_for_event(step, reason, &format!("panicked: told to at {step}"));
        assert!(!file.exists());
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{step}"), "--timeout=60s"]);
    }
    let refresh = tell(&cluster, "refresh-volumes");
    cluster.kubectl(&["patch", "configmap", "page", "-p", r#"{"data":{"more":"x"}}"#]);
    wait_for("the refresh", || !refresh.exists());
    let status = tell(&cluster, "write-status");
    let ends = ["terminate", "kill", "tear-down", "release"];
    for (step, name) in ends.into_iter().zip(["start-sandbox", "set-up-volumes", "start-container", "last"]) {
        if name == "last" {
            pod(name);
            cluster.kubectl(&["wait", "--for=condition=Ready", "pod/last", "--timeout=60s"]);
        }
        let file = tell(&cluster, step);
        cluster.kubectl(&["delete", "pod", name]);
        assert_eq!(cluster.get("pod", name), Value::Null, "{step}");
        // Nobody is killed who has ended.
        assert!(!file.exists() || step == "kill", "{step}");
        let _ = fs::remove_file(file);
    }
    assert!(!status.exists());
    assert_eq!(run(&cluster), before);
}
