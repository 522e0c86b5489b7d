//! What keeps `proa up` from starting: one clear sentence each, and exit status 1.

mod cluster;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use cluster::Cluster;

fn fails_with(output: &Output, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(expected), "expected {expected:?} in {error}");
    assert_eq!(error.lines().count(), 1, "one sentence: {error}");
}

#[test]
fn what_is_in_the_way_is_named() {
    let cluster = Cluster::start();
    let up = |arguments: &[&str]| {
        let mut command = cluster.command(env!("CARGO_BIN_EXE_proa"));
        command.arg("up").args(arguments).output().expect("proa starts")
    };
    let scratch = |name: &str| cluster.scratch().join(name).to_str().expect("UTF-8").to_owned();

    // The ports are the running cluster's.
    let other = scratch("other");
    fails_with(&up(&["--data-dir", &other]), "127.0.0.1:80");
    let free = ["--ingress-http", "127.0.0.1:8080", "--ingress-https", "127.0.0.1:8443"];
    let with_free = |more: &[&str]| up(&[&free, more].concat());
    fails_with(&with_free(&["--data-dir", &other]), "--api-listen");

    // So is its data directory.
    let data = cluster.data_dir();
    let data = data.to_str().expect("UTF-8");
    let busy = with_free(&["--data-dir", data, "--api-listen", "127.0.0.1:7443"]);
    fails_with(&busy, "in use");

    // A store of another version, or something else entirely.
    let strange = scratch("strange");
    fs::create_dir_all(&strange).expect("a directory");
    let put = |content: &str| {
        let path = format!("{strange}/store.redb");
        fs::write(&path, content).expect("a file");
        // One that others may read is worth a line of its own.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    };
    put("not a database");
    fails_with(&with_free(&["--data-dir", &strange, "--api-listen", "127.0.0.1:7443"]), "store");

    // A store that was there and is gone, or has been emptied.
    let keys = format!("{strange}/pki");
    fs::DirBuilder::new().mode(0o700).create(&keys).expect("a directory");
    let strange_up = || with_free(&["--data-dir", &strange, "--api-listen", "127.0.0.1:7443"]);
    put("");
    fails_with(&strange_up(), "store.redb is damaged: it is empty");
    fs::remove_file(format!("{strange}/store.redb")).expect("the file");
    fails_with(&strange_up(), "store.redb is missing");

    // Settings that make no sense.
    fails_with(&with_free(&["--data-dir", &other, "--cluster-cidr", "10.42"]), "--cluster-cidr");
    fails_with(&up(&["--config", "/nonexistent.yaml"]), "/nonexistent.yaml");
    fails_with(&up(&["--data-dir", "/proc/nothing"]), "/proc/nothing");

    // The running cluster has not noticed.
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn what_the_machine_lacks_is_named() {
    let cluster = Cluster::start();
    // The node's address is not the pods' gateway.
    let node = cluster.get("node", cluster.node_name());
    let addresses = node["status"]["addresses"].as_array().expect("addresses");
    let internal = addresses.iter().find(|a| a["type"] == "InternalIP").expect("an address");
    assert_eq!(internal["address"], "198.51.100.1");

    // A mount namespace of its own, in which something is done to the control groups first.
    let up_after = |change: &str| {
        let data = cluster.scratch().join("lacking");
        let script = format!("{change} && exec \"$0\" up --data-dir \"$1\" --node-name n");
        let mut command = cluster.command("/usr/bin/unshare");
        command.args(["--mount", "/bin/sh", "-c", &script, cluster::PROA]).arg(&data);
        let output = command.output().expect("unshare starts");
        assert!(!data.exists(), "nothing is left behind");
        output
    };
    // As `ip netns exec` does.
    fails_with(&up_after("mount -t sysfs sysfs /sys"), "no control groups are mounted at /sys/fs/cgroup");
    if fs::exists("/sys/fs/cgroup/pids/cgroup.procs").expect("/sys") {
        fails_with(&up_after("umount /sys/fs/cgroup/pids"), "mount -t cgroup -o pids");
    }
}

#[test]
fn only_root_may() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = dir.path().join("proa");
    fs::copy(env!("CARGO_BIN_EXE_proa"), &binary).expect("a copy that anybody can reach");

    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
    let output = Command::new(&binary).arg("up").uid(65534).gid(65534).output().expect("proa starts");
    fails_with(&output, "must be run as root");
}
