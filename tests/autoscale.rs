//! Autoscaling with a real kubectl and a component that has to work for its answers, as in
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale-walkthrough/>.

mod cluster;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::{Cluster, target_dir};
use serde_json::Value;

/// Autoscalers look every two seconds, so that the tests need not wait for minutes.
const OFTEN: [&str; 2] = ["--horizontal-pod-autoscaler-sync-period", "2s"];
/// Clients that ask without a pause.
const CLIENTS: usize = 3;

fn start() -> Cluster {
    let cluster = Cluster::start_with(&OFTEN);
    let file = target_dir().join("examples/wasm32-wasip2/release/busy-wasm.wasm");
    assert!(file.exists(), "{} is not built: run `make examples`", file.display());
    cluster.proa(&["image", "pack", file.to_str().expect("UTF-8"), "-t", "busy-wasm:1"]);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/busy-wasm/manifest.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().expect("UTF-8")]);
    cluster.kubectl(&["rollout", "status", "deployment/busy-wasm", "--timeout=60s"]);
    cluster
}

fn replicas(cluster: &Cluster) -> i64 {
    cluster.get("deployment", "busy-wasm")["spec"]["replicas"].as_i64().unwrap_or_default()
}

/// Status, reason and text of a condition.
fn condition(autoscaler: &Value, type_: &str) -> (String, String, String) {
    let conditions = autoscaler["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|c| c["type"] == type_).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn messages(cluster: &Cluster, object: &str, reason: &str) -> String {
    let field = format!("involvedObject.name={object},reason={reason}");
    cluster.kubectl(&["get", "events", "--field-selector", &field, "-o", "jsonpath={.items[*].message}"])
}

/// The rows of a table, each as its words.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_wasm_service_grows_with_its_load_and_shrinks_after_it() {
    let cluster = start();
    let window = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":4}}}}"#;
    cluster.kubectl(&["patch", "hpa", "busy-wasm", "-p", window]);
    cluster.wait("the service to be measured", || {
        condition(&cluster.get("hpa", "busy-wasm"), "ScalingActive").1 == "ValidMetricFound"
    });
    assert_eq!(replicas(&cluster), 1);
    let table = cluster.kubectl(&["get", "hpa", "busy-wasm"]);
    let columns: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE"]);
    let row = rows(&table).remove(0);
    assert_eq!((row[1], row[2]), ("Deployment/busy-wasm", "cpu:"), "{table}");
    assert!(row[3].ends_with("%/50%") && !row[3].contains("unknown"), "{table}");

    let enough = AtomicBool::new(false);
    std::thread::scope(|threads| {
        // Also when an assertion below fails: the clients must not go on for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&enough);
        for _ in 0..CLIENTS {
            threads.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    // That a pod goes while it answers is the test's own doing.
                    let _ = cluster.ingress("busy-wasm.localhost", "/100");
                }
            });
        }
        cluster.wait("more pods", || replicas(&cluster) >= 3);
        cluster.wait("figures of each pod", || {
            let table = cluster.kubectl_output(&["top", "pods", "--containers", "-l", "app=busy-wasm"]);
            let table = String::from_utf8_lossy(&table.stdout).into_owned();
            let busy = |row: &Vec<&str>| row[1] == "busy" && row[2] != "0m" && row[3].ends_with("Mi");
            rows(&table).iter().filter(|row| busy(row)).count() >= 2
        });
    });
    let told = messages(&cluster, "busy-wasm", "SuccessfulRescale");
    let reason = "reason: cpu resource utilization (percentage of request) above target";
    assert!(told.contains("New size: ") && told.contains(reason), "{told}");

    cluster.wait("one pod to be left", || replicas(&cluster) == 1);
    let told = messages(&cluster, "busy-wasm", "SuccessfulRescale");
    assert!(told.contains("New size: 1; reason: All metrics below target"), "{told}");
    let (status, reason, _) = condition(&cluster.get("hpa", "busy-wasm"), "ScalingActive");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ValidMetricFound"));

    let nodes = cluster.kubectl(&["top", "nodes"]);
    let row = rows(&nodes).remove(0);
    assert!(row[1].ends_with('m') && row[2].ends_with('%') && row[3].ends_with("Mi"), "{nodes}");
    let pods = cluster.kubectl(&["get", "pods.metrics.k8s.io"]);
    let columns: Vec<&str> = pods.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "CPU", "MEMORY", "WINDOW"]);
    let none = cluster.kubectl_fails(&["get", "pods.metrics.k8s.io", "none"]);
    assert!(none.contains("pods.metrics.k8s.io \"default/none\" not found"), "{none}");
}

#[test]
fn kubectl_autoscale_and_what_stands_in_the_way() {
    let cluster = start();
    cluster.kubectl(&["delete", "hpa", "busy-wasm"]);
    let made =
        cluster.kubectl(&["autoscale", "deployment", "busy-wasm", "--min=2", "--max=3", "--cpu-percent=70"]);
    assert_eq!(made.trim(), "horizontalpodautoscaler.autoscaling/busy-wasm autoscaled");
    cluster.wait("the least number of pods", || replicas(&cluster) == 2);
    let told = messages(&cluster, "busy-wasm", "SuccessfulRescale");
    assert_eq!(told, "New size: 2; reason: Current number of replicas below Spec.MinReplicas");
    let old = cluster.get("horizontalpodautoscalers.v1.autoscaling", "busy-wasm");
    assert_eq!(old["apiVersion"], "autoscaling/v1");
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 70);
    assert!(cluster.kubectl(&["describe", "hpa", "busy-wasm"]).contains("SuccessfulRescale"));

    let patch = |change: &str| {
        cluster.kubectl(&["patch", "hpa", "busy-wasm", "--type=merge", "-p", change]);
    };
    let wait = |type_: &str, reason: &str| -> String {
        cluster.wait(&format!("{type_} {reason}"), || {
            condition(&cluster.get("hpa", "busy-wasm"), type_).1 == reason
        });
        condition(&cluster.get("hpa", "busy-wasm"), type_).2
    };
    patch(
        r#"{"spec":{"metrics":[{"type":"Pods","pods":{"metric":{"name":"hits"},"target":{"type":"AverageValue","averageValue":"1"}}}]}}"#,
    );
    assert_eq!(
        wait("ScalingActive", "FailedGetPodsMetric"),
        "the HPA was unable to compute the replica count: unable to get metric hits: unable to fetch metrics from \
         custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
    );
    cluster.kubectl(&["autoscale", "deployment", "busy-wasm", "--name=second", "--max=3"]);
    let told = wait("ScalingActive", "AmbiguousSelector");
    assert!(told.ends_with("multiple HPAs: [default/busy-wasm default/second]"), "{told}");
    cluster.kubectl(&["delete", "hpa", "second"]);
    cluster.kubectl(&["scale", "deployment", "busy-wasm", "--replicas=0"]);
    wait("ScalingActive", "ScalingDisabled");
    patch(r#"{"spec":{"scaleTargetRef":{"name":"other"}}}"#);
    assert_eq!(
        wait("AbleToScale", "FailedGetScale"),
        "the HPA controller was unable to get the target's current scale: deployments/scale.apps \"other\" not found"
    );
    let refused = cluster.kubectl_fails(&[
        "patch",
        "hpa",
        "busy-wasm",
        "-p",
        r#"{"spec":{"minReplicas":0,"metrics":null}}"#,
    ]);
    assert!(
        refused.contains("spec.metrics: Forbidden: must specify at least one Object or External metric"),
        "{refused}"
    );
}
