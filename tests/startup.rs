//! What keeps `proa up` from starting: one clear sentence each, and exit status 1.

mod cluster;

use std::fs;
use std::os::unix::fs::PermissionsExt;
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
    fs::write(format!("{strange}/store.redb"), "not a database").expect("a file");
    fails_with(&with_free(&["--data-dir", &strange, "--api-listen", "127.0.0.1:7443"]), "store");

    // Settings that make no sense.
    fails_with(&with_free(&["--data-dir", &other, "--cluster-cidr", "10.42"]), "--cluster-cidr");
    fails_with(&up(&["--config", "/nonexistent.yaml"]), "/nonexistent.yaml");
    fails_with(&up(&["--data-dir", "/proc/nothing"]), "/proc/nothing");

    // The running cluster has not noticed.
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
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
