//! What only a pod that goes on can show: probes, restarts, hooks, logs that are rotated, and what
//! is left when it is gone.

mod cluster;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::pod::{DONE, Row, apply, guest, lasting, pack, path, ready, row, shell, status, wasm};
use cluster::{Cluster, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn pods_that_go_on() {
    let cluster = Cluster::start();
    pack(&cluster);
    let http = |image: &str, fields: Value| wasm(image, &[], fields);
    let port = |port: u16| json!({"ports": [{"containerPort": port}]});
    let failing = json!({"livenessProbe": {"httpGet": {"port": 80, "path": "/trap"}, "periodSeconds": 1, "failureThreshold": 1}});
    let hooks = json!({"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1"]}}},
        "ports": [{"containerPort": 8080, "hostPort": 18080}]});
    let serve = "trap 'echo TERM; kill %1; sleep 0.3; exit 0' TERM; echo page > /tmp/index.html; httpd -f -p 8080 -h /tmp & wait";
    apply(
        &cluster,
        &[
            lasting("plain", json!([http("http:1", json!({}))])),
            lasting("other", json!([http("http3:1", port(9000)), shell("sleep 1000", json!({}))])),
            lasting("asks", json!([http("http:1", port(8000)), http("http3:1", port(9000))])),
            lasting("failing", json!([http("http:1", failing)])),
            lasting("crashing", json!([shell("echo run; exit 3", json!({}))])),
            lasting("spins", json!([guest(&["spin"])])),
            lasting("serves", json!([shell(serve, hooks)])),
            Row { spec: json!({}), ..row("w-follows", guest(&["await", "/config/key", "new"]), DONE, &[]) }
                .pod(),
        ],
    );
    ready(&cluster, &["plain", "other", "asks", "spins", "serves"]);
    let address = |pod: &str, port: u16| {
        format!("{}:{port}", cluster.get("pod", pod)["status"]["podIP"].as_str().expect("an address"))
    };
    let get =
        |pod: &str, port: u16, path: &str| cluster.http(&address(pod, port), "pod", path).expect("an answer");
    assert_eq!(get("plain", 80, "/"), (200, "hello from wasm\n".to_owned()));
    assert_eq!(get("other", 9000, "/"), (200, "hello from 0.3\n".to_owned()));
    assert_eq!(get("asks", 8000, "/ask?9000"), (200, "hello from 0.3\n".to_owned()));
    let node = cluster.get("pod", "serves")["status"]["hostIP"].as_str().expect("an address").to_owned();
    assert_eq!(cluster.http(&format!("{node}:18080"), "node", "/").expect("an answer").1, "page\n");

    // A changed ConfigMap reaches a guest that runs.
    cluster.kubectl(&["patch", "configmap", "config", "-p", r#"{"data":{"key":"new"}}"#]);
    cluster.wait("the guest to see it", || cluster.get("pod", "w-follows")["status"]["phase"] == "Succeeded");

    // Probes and crashes restart, with the log of the run before.
    cluster
        .wait("a restart by the probe", || status(&cluster, "failing")["restartCount"].as_u64() >= Some(1));
    assert!(cluster.kubectl(&["logs", "failing", "--previous"]).contains("unreachable"));
    cluster.wait("a pause between restarts", || {
        let status = status(&cluster, "crashing");
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["lastState"]["terminated"]["exitCode"] == 3
    });
    assert_eq!(cluster.kubectl(&["logs", "crashing", "--previous"]), "run\n");

    // A guest that spins is ended within its grace period of two seconds; a container hears its
    // hook, then SIGTERM.
    let follow = cluster
        .kubectl_command()
        .args(["logs", "-f", "serves"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kubectl");
    let begin = Instant::now();
    cluster.kubectl(&["delete", "pod", "spins", "serves"]);
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    let said = String::from_utf8_lossy(&follow.wait_with_output().expect("kubectl ends").stdout).into_owned();
    assert_eq!(said, "hook\nTERM\n");

    // A Node that somebody deletes comes back.
    let name = cluster.kubectl(&["get", "nodes", "-o", "name"]);
    let before = cluster.get("node", name.trim().trim_start_matches("node/"))["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", name.trim()]);
    cluster.wait("the Node", || {
        let node = cluster.get("node", name.trim().trim_start_matches("node/"));
        node["metadata"]["uid"].is_string() && node["metadata"]["uid"] != before
    });
    cluster.kubectl(&["delete", "pod", "--all", "--ignore-not-found"]);
}

#[test]
fn a_log_is_followed_over_its_rotation() {
    let cluster = Cluster::start();
    pack(&cluster);
    let script = "until test -f /tmp/go; do sleep 0.1; done; i=0; while [ $i -lt 250000 ]; do echo \"$i 0123456789012345678901234567890123456789\"; i=$((i+1)); done";
    let hook =
        json!({"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "sleep 1; touch /tmp/go"]}}}});
    apply(&cluster, &[row("rotates", shell(script, hook), DONE, &[]).pod()]);
    cluster.wait("its log", || !status(&cluster, "rotates")["state"]["running"].is_null());
    let followed = cluster.kubectl(&["logs", "-f", "rotates"]);
    cluster.wait("its end", || cluster.get("pod", "rotates")["status"]["phase"] == "Succeeded");
    let is_whole = |log: &str| {
        let numbers = log.lines().map(|line| line.split(' ').next().and_then(|n| n.parse::<usize>().ok()));
        numbers.enumerate().all(|(index, number)| number == Some(index)) && log.lines().count() == 250_000
    };
    assert!(is_whole(&followed), "{} lines were followed", followed.lines().count());
    assert!(is_whole(&cluster.kubectl(&["logs", "rotates"])));
    let logs = fs::read_dir(cluster.data_dir().join("pods")).expect("logs").flatten().next().expect("a pod");
    assert!(logs.path().join("c0/0.log.1").exists(), "the log was not rotated");
    cluster.kubectl(&["delete", "pod", "rotates"]);
}

/// Everything outside of `proa` itself that pods leave on a node.
#[derive(Debug, PartialEq)]
struct Traces {
    processes: usize,
    mounts: usize,
    links: usize,
    cgroups: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

fn traces(cluster: &Cluster) -> Traces {
    let data = cluster.data_dir();
    let lines = |program: &str, args: &[&str], word: &str| {
        let output = cluster.command(program).args(args).output().expect("it runs").stdout;
        String::from_utf8_lossy(&output).lines().filter(|line| line.contains(word)).count()
    };
    let names = fs::read_to_string(data.join("node.json")).expect("how its cgroup is named");
    let names: Value = serde_json::from_str(&names).expect("JSON");
    let id = names["id"].as_str().expect("an id");
    let mut directories = BTreeSet::new();
    for dir in ["volumes", "pods", "containers", "run/sandboxes"] {
        let dir = cluster.mounted(&data.join(dir));
        directories.extend(fs::read_dir(dir).expect("a directory").flatten().map(|e| e.path()));
    }
    let mut cgroups = BTreeSet::new();
    for controller in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for dir in [controller.path().join("proa").join(id), PathBuf::from("/sys/fs/cgroup/proa").join(id)] {
            let pods = fs::read_dir(dir).into_iter().flatten().flatten();
            cgroups.extend(pods.filter(|e| e.path().is_dir()).map(|e| e.path()));
        }
    }
    let processes = fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(path(&data.join("run")))
    });
    Traces {
        processes: processes.count(),
        mounts: lines("/bin/cat", &["/proc/mounts"], path(&data)),
        links: lines("/sbin/ip", &["-o", "link"], ":"),
        cgroups,
        directories,
    }
}

fn descriptors(cluster: &Cluster) -> usize {
    fs::read_dir(format!("/proc/{}/fd", cluster.pid())).expect("proa runs").count()
}

#[test]
fn fifty_pods_leave_nothing() {
    let cluster = Cluster::start();
    pack(&cluster);
    let pods = |from: usize, to: usize| -> Vec<Value> {
        let both = |n: usize| match n % 2 {
            0 => json!([wasm("http:1", &[], json!({}))]),
            _ => json!([shell("trap 'exit 0' TERM; while true; do sleep 0.1; done", json!({}))]),
        };
        (from..to).map(|n| lasting(&format!("p{n}"), both(n))).collect()
    };
    let all = |pods: Vec<Value>| {
        apply(&cluster, &pods);
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        ready(&cluster, &names);
        cluster.kubectl(&["delete", "pod", "--all"]);
    };
    // What the first pods bring along stays: connections, compiled files, watches. So does the memory
    // that sandboxes' directories are in.
    all(pods(0, 2));
    let settled =
        Traces { processes: 0, mounts: 1, links: 2, cgroups: BTreeSet::new(), directories: BTreeSet::new() };
    wait_for("the first pods to leave nothing", || traces(&cluster) == settled);
    let before = descriptors(&cluster);
    all(pods(2, 52));
    cluster.wait("fifty pods to leave nothing", || traces(&cluster) == settled);
    cluster.wait("descriptors to be closed", || descriptors(&cluster) <= before + 8);
}

#[test]
fn an_empty_store_costs_no_data() {
    let mut cluster = Cluster::start();
    pack(&cluster);
    let script =
        "echo here > /empty/file; trap 'echo bye; exit 0' TERM; echo hello; while true; do sleep 0.1; done";
    apply(&cluster, &[lasting("lost", json!([shell(script, json!({}))]))]);
    ready(&cluster, &["lost"]);
    cluster.wait("its first words", || cluster.kubectl(&["logs", "lost"]) == "hello\n");
    let uid = cluster.get("pod", "lost")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let sandbox = cluster.mounted(&cluster.data_dir().join("run/sandboxes").join(&uid));
    assert!(sandbox.exists());
    cluster.stop(Signal::SIGTERM);
    fs::remove_file(cluster.data_dir().join("store.redb")).expect("the store");
    // A store that was there is missed; without its keys the directory is of no cluster any more.
    fs::remove_dir_all(cluster.data_dir().join("pki")).expect("the keys");
    cluster.up();
    // Nobody knows the pod any more: it is ended, as gently as the kubelet ends such pods …
    cluster.wait("the orphan to be gone", || !sandbox.exists());
    // … and what it wrote is where the node's log says.
    let aside = |dir: &str| {
        let all = fs::read_dir(cluster.data_dir()).expect("the data").flatten().map(|entry| entry.path());
        let wanted = format!("{dir}-of-");
        let mut found =
            all.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&wanted)));
        found.next().unwrap_or_else(|| panic!("no {dir} are set aside"))
    };
    let file = aside("volumes").join(&uid).join("volumes/empty/file");
    assert_eq!(fs::read_to_string(file).expect("the volume"), "here\n");
    let log = fs::read_to_string(aside("pods").join(format!("default_lost_{uid}")).join("c0/0.log"))
        .expect("the log");
    assert!(log.ends_with(" stdout F bye\n"), "{log}");
}
