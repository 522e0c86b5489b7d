//! What the host's other users, and whoever gets at its disk, cannot read.

mod cluster;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use cluster::Cluster;
use cluster::pod::{lasting, pack, path, ready, shell, wasm};
use nix::sys::signal::Signal;
use serde_json::json;

/// A program run by somebody who is nobody on this machine.
fn as_stranger(cluster: &Cluster, command: &[&str]) -> Output {
    let mut setpriv = cluster.command("/usr/bin/setpriv");
    // setpriv itself is root's until it starts something.
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sh", "-c", "exec \"$@\"", "sh"]);
    setpriv.args(command);
    setpriv.output().expect("setpriv starts")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("own file");
}

#[test]
fn an_open_data_directory_is_closed_at_the_start() {
    let mut cluster = Cluster::start();
    pack(&cluster);
    let (data, scratch) = (cluster.data_dir(), cluster.scratch().to_owned());
    cluster.proa(&["down"]);
    cluster.ended();

    let (store, tool) = (data.join("store.redb"), data.join("images/layers/tool"));
    fs::copy("/usr/bin/id", &tool).expect("coreutils are installed");
    set_mode(&tool, 0o4755);
    set_mode(&store, 0o644);
    let parts = ["images", "run", "volumes", "volumes-local", "pods", "wasm", "pki"];
    for part in parts.map(|part| data.join(part)).iter().chain([&data, &scratch]) {
        set_mode(part, 0o755);
    }
    let read = |cluster: &Cluster| as_stranger(cluster, &["/bin/cat", path(&store)]).status.success();
    let runs = |cluster: &Cluster| as_stranger(cluster, &[path(&tool), "-u"]);
    assert!(read(&cluster), "the directory is open");
    assert_eq!(String::from_utf8_lossy(&runs(&cluster).stdout), "0\n", "and makes anybody root");

    cluster.up();
    assert!(!read(&cluster));
    let refused = runs(&cluster);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((mode(&data), mode(&store)), (0o755, 0o600), "the directory itself is its owner's choice");
    for part in parts {
        assert_eq!(mode(&data.join(part)), 0o700, "{part}");
        let listed = as_stranger(&cluster, &["/bin/ls", path(&data.join(part))]);
        assert!(!listed.status.success(), "{part}: {listed:?}");
    }
    assert!(!as_stranger(&cluster, &["/bin/cat", path(&data.join("kubeconfig"))]).status.success());
    let log = cluster.log();
    assert!(log.contains("closed to others") && log.contains("mode=0644"), "{log}");

    // Containers, Wasm and their volumes have what they had, whoever they run as.
    let user = json!({"securityContext": {"runAsUser": 1000}});
    let script = "echo kept > /empty/file; cat /empty/file; exec sleep 1000";
    let pods = [
        lasting("box", json!([shell(script, user.clone())])),
        lasting("web", json!([wasm("http:1", &[], user.clone())])),
    ];
    cluster::pod::apply(&cluster, &pods);
    ready(&cluster, &["box", "web"]);
    cluster.wait("what it wrote", || cluster.kubectl(&["logs", "box"]) == "kept\n");
    let ip = cluster.get("pod", "web")["status"]["podIP"].as_str().expect("an address").to_owned();
    assert_eq!(cluster.http(&format!("{ip}:80"), "web", "/").expect("an answer").1, "hello from wasm\n");

    // Nor may others put anything there.
    cluster.stop(Signal::SIGTERM);
    set_mode(&data, 0o777);
    let mut command = cluster.command(cluster::PROA);
    let output = command.arg("up").arg("--data-dir").arg(&data).output().expect("proa starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("(mode 0777): run `chmod go-w "), "{said}");
    set_mode(&data, 0o700);
}

/// A value that is nowhere else, and what a file that holds it holds.
const VALUE: &str = "kahlschlag-zwetschge-41";
const FILE_VALUE: &str = "walfisch-brombeere-17";

/// Files below a directory, as the disk has them, that hold any of these.
fn files_with(dir: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), texts));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).expect("root reads all");
            let holds = |text: &&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            found.extend(texts.iter().any(holds).then(|| entry.path().display().to_string()));
        }
    }
    found
}

#[test]
fn values_of_secrets_are_on_no_disk_but_in_the_store() {
    let mut cluster = Cluster::start();
    pack(&cluster);
    let literals = [format!("--from-literal=env={VALUE}"), format!("--from-literal=file={FILE_VALUE}")];
    cluster.kubectl(&["create", "secret", "generic", "deep", &literals[0], &literals[1]]);
    let env = json!([{"name": "DEEP", "valueFrom": {"secretKeyRef": {"name": "deep", "key": "env"}}}]);
    let file = json!([{"name": "deep", "mountPath": "/deep"},
        {"name": "mixed", "mountPath": "/part", "subPath": "in/file"}]);
    let fields = json!({"env": env, "volumeMounts": file});
    let script = "trap 'exit 0' TERM; echo scratch > /tmp/written; while true; do sleep 0.1; done";
    let mut pod = lasting("deep", json!([shell(script, fields.clone()), wasm("http:1", &[], fields)]));
    let volumes = json!([{"name": "deep", "secret": {"secretName": "deep"}},
        {"name": "mixed", "projected": {"sources": [
            {"secret": {"name": "deep", "items": [{"key": "file", "path": "in/file"}]}}]}}]);
    pod["spec"]["volumes"]
        .as_array_mut()
        .expect("volumes")
        .extend(volumes.as_array().expect("a list").clone());
    cluster::pod::apply(&cluster, &[pod]);
    ready(&cluster, &["deep"]);
    // A command has the environment too.
    let said =
        cluster.kubectl(&["exec", "deep", "-c", "c0", "--", "sh", "-c", "echo $DEEP; cat /deep/file /part"]);
    assert_eq!(said, format!("{VALUE}\n{FILE_VALUE}{FILE_VALUE}"));

    // The mounts are in the cluster's own namespace: what is seen from here is the disk.
    let data = cluster.data_dir();
    let run = cluster.mounted(&data.join("run"));
    assert!(!files_with(&run, &[VALUE]).is_empty(), "what its containers are started with is in memory");
    assert!(!files_with(&data.join("containers"), &["scratch"]).is_empty(), "what they write is on the disk");
    let encoded = ["a2FobHNjaGxhZy16d2V0c2NoZ2UtNDE=", "d2FsZmlzY2gtYnJvbWJlZXJlLTE3"];
    let all = [VALUE, FILE_VALUE, encoded[0], encoded[1]];
    let on_disk = files_with(&data, &all);
    assert_eq!(on_disk, [path(&data.join("store.redb"))]);

    // The memory outlives proa, and a reboot, which takes it, leaves no trace of the containers.
    let before = cluster.get("pod", "deep")["status"]["containerStatuses"].clone();
    cluster.stop(Signal::SIGTERM);
    cluster.up();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/deep", "--timeout=60s"]);
    assert_eq!(cluster.get("pod", "deep")["status"]["containerStatuses"], before);
    cluster.proa(&["down"]);
    cluster.ended();
    assert_eq!(fs::read_dir(data.join("run")).expect("a directory").count(), 0);
    assert_eq!(fs::read_dir(data.join("containers")).expect("a directory").count(), 0);
    cluster.up();
    cluster.wait("its containers anew", || {
        let statuses = cluster.get("pod", "deep")["status"]["containerStatuses"].clone();
        statuses
            .as_array()
            .is_some_and(|all| all.iter().all(|s| s["restartCount"] == 1 && s["ready"] == true))
    });
}
