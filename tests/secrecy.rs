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
