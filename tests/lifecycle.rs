//! What outlives what: the pods outlive `proa`, the data outlives everything, and nothing outlives
//! `proa down`.

mod cluster;

use std::fs;

use cluster::{Cluster, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A pod with a Wasm half and a container half, both restarted when they end.
const BOTH: &str = "
apiVersion: v1
kind: Pod
metadata: {name: both, labels: {app: both}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: wasm
    image: hello-wasm:1
    ports: [{containerPort: 8080}]
  - name: container
    image: hello-container:1
    command: [/bin/busybox, sh, -c]
    args: ['i=0; while true; do i=$((i+1)); echo $i; /bin/busybox sleep 0.2; done']
";

fn cluster_with_pod() -> Cluster {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(BOTH);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/both", "--timeout=60s"]);
    cluster
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let statuses = pod["status"]["containerStatuses"].as_array().expect("container statuses");
    statuses.iter().find(|s| s["name"] == name).expect("the container")
}

fn restarts(pod: &Value, name: &str) -> u64 {
    container(pod, name)["restartCount"].as_u64().expect("a count")
}

/// Processes whose command line holds all of these words.
fn processes(words: &[&str]) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if words.iter().all(|w| command.contains(w)) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// The sandbox of the one pod of a cluster.
fn sandbox(cluster: &Cluster) -> Pid {
    let dir = cluster.data_dir();
    let found = processes(&["sandbox", dir.to_str().expect("UTF-8")]);
    assert_eq!(found.len(), 1, "one sandbox: {found:?}");
    found[0]
}

fn child_of(parent: Pid, word: &str) -> Pid {
    let children: Vec<Pid> = processes(&[word])
        .into_iter()
        .filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|l| l.strip_prefix("PPid:").is_some_and(|p| p.trim() == parent.to_string()))
        })
        .collect();
    assert_eq!(children.len(), 1, "one child of {parent} with {word}: {children:?}");
    children[0]
}

fn adopted_after(signal: Signal, meanwhile: impl FnOnce(&mut Cluster)) -> Cluster {
    let mut cluster = cluster_with_pod();
    let before = cluster.get("pod", "both");
    let holder = sandbox(&cluster);
    cluster.stop(signal);
    assert!(fs::exists(format!("/proc/{holder}")).expect("/proc"), "the pod goes on without proa");
    meanwhile(&mut cluster);
    cluster.up();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/both", "--timeout=60s"]);
    let after = cluster.get("pod", "both");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
    for name in ["wasm", "container"] {
        assert_eq!(container(&after, name)["state"], container(&before, name)["state"], "{name}");
        assert_eq!(restarts(&after, name), 0, "{name}");
    }
    assert_eq!(sandbox(&cluster), holder);
    // The log has every line, also those of the time without an agent.
    let log = cluster.kubectl(&["logs", "both", "-c", "container"]);
    let numbers: Vec<usize> = log.lines().map(|l| l.parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    let address = format!("{}:8080", after["status"]["podIP"].as_str().expect("an address"));
    assert_eq!(cluster.http(&address, "pod", "/").expect("an answer").0, 200);
    cluster
}

/// Kills both containers in their sandbox, and waits until they run again.
fn killed(cluster: &Cluster, holder: Pid) {
    for (name, word) in [("wasm", "wasm"), ("container", "while true")] {
        kill(child_of(holder, word), Signal::SIGKILL).expect("it runs");
        cluster.wait(&format!("{name} to be restarted"), || {
            let pod = cluster.get("pod", "both");
            restarts(&pod, name) == 1 && container(&pod, name)["state"].get("running").is_some()
        });
    }
}

/// Deletes a pod that has been adopted, which takes its time only.
fn deleted(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pod", "both"]);
    assert_eq!(cluster.get("pod", "both"), Value::Null);
}

#[test]
fn pods_are_adopted_after_sigterm() {
    deleted(&adopted_after(Signal::SIGTERM, |_| {}));
}

#[test]
fn pods_are_adopted_by_another_proa() {
    let cluster = adopted_after(Signal::SIGTERM, Cluster::upgrade);
    // What it starts runs in the sandbox that the other one has started.
    let holder = sandbox(&cluster);
    killed(&cluster, holder);
    assert_eq!(sandbox(&cluster), holder);
    deleted(&cluster);
}

#[test]
fn pods_are_adopted_after_sigkill() {
    deleted(&adopted_after(Signal::SIGKILL, |_| {}));
}

#[test]
fn a_killed_process_is_restarted_and_shown_as_kubernetes_shows_it() {
    let cluster = cluster_with_pod();
    let holder = sandbox(&cluster);
    killed(&cluster, holder);
    for name in ["wasm", "container"] {
        let pod = cluster.get("pod", "both");
        let ended = &container(&pod, name)["lastState"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&137.into(), &"Error".into()), "{name}: {pod}");
    }
    assert!(cluster.kubectl(&["logs", "both", "-c", "container", "--previous"]).starts_with("1\n"));

    // The sandbox itself: a new one takes its place, under the same pod.
    let before = cluster.get("pod", "both");
    kill(holder, Signal::SIGKILL).expect("it runs");
    cluster.wait("a new sandbox", || {
        let pod = cluster.get("pod", "both");
        ["wasm", "container"]
            .iter()
            .all(|n| restarts(&pod, n) == 2 && container(&pod, n)["state"].get("running").is_some())
    });
    let after = cluster.get("pod", "both");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_ne!(sandbox(&cluster), holder);
    cluster.kubectl(&["delete", "pod", "both"]);
}

#[test]
fn down_leaves_nothing_but_the_data() {
    let mut cluster = cluster_with_pod();
    // It stops the cluster, which is up, and then its pods.
    cluster.proa(&["down"]);
    assert!(cluster.ended().success(), "it was asked to stop, not killed");
    let dir = cluster.data_dir();
    let dir = dir.to_str().expect("UTF-8");
    wait_for("the processes to end", || processes(&["sandbox", dir]).is_empty());
    let mounts = cluster.command("/bin/cat").arg("/proc/mounts").output().expect("cat");
    assert!(!String::from_utf8_lossy(&mounts.stdout).contains(dir), "mounts are left");
    let links = cluster.command("/sbin/ip").args(["-o", "link"]).output().expect("ip");
    assert_eq!(String::from_utf8_lossy(&links.stdout).lines().count(), 1, "only lo is left: {links:?}");
    let left = cgroups_of(&cluster);
    assert!(left.is_empty(), "cgroups are left: {left:?}");
    // The data is still there: the pod comes back, with its uid, in a new sandbox.
    cluster.up();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/both", "--timeout=60s"]);
    cluster.kubectl(&["delete", "pod", "both"]);
}

/// Cgroups that carry the uid of the cluster's pod.
fn cgroups_of(cluster: &Cluster) -> Vec<String> {
    let pods = fs::read_dir(cluster.data_dir().join("pods")).map(|d| d.flatten().count()).unwrap_or(0);
    assert!(pods > 0, "the pod's logs are data");
    let mut found = Vec::new();
    for entry in fs::read_dir(cluster.data_dir().join("pods")).expect("pods").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit('_').next().expect("a uid").to_owned();
        let mut stack = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
        while let Some(dir) = stack.pop() {
            for child in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if child.file_type().is_ok_and(|t| t.is_dir()) {
                    if child.file_name().to_string_lossy().contains(&uid) {
                        found.push(child.path().display().to_string());
                    }
                    stack.push(child.path());
                }
            }
        }
    }
    found
}
