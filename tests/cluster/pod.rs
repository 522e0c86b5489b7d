//! Pods for the tests of what pods may ask for: rows that say what a pod is and what comes of it,
//! containers and guests to make them of, and the images that they run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::Cluster;

/// A core module on WASI 0.1, by hand: calls `proc_exit` with 7 from `_start`.
const EXIT_7: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x08\x02\x60\x01\x7f\0\x60\0\0\
    \x02\x24\x01\x16wasi_snapshot_preview1\x09proc_exit\0\0\
    \x03\x02\x01\x01\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06_start\0\x01\x06memory\x02\0\
    \x0a\x08\x01\x06\0\x41\x07\x10\0\x0b";
/// Another, whose `_start` is one `unreachable`.
const TRAP: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\
    \x0a\x05\x01\x03\0\0\x0b";
/// A component that imports a function `get` of an interface that no node has.
const WANTS: &[u8] = b"\0asm\x0d\0\x01\0\
    \x07\x10\x01\x42\x02\x01\x40\0\x01\0\x04\0\x03get\x01\0\
    \x0a\x1e\x01\0\x19wasi:keyvalue/store@0.2.0\x05\0";

/// One pod: what its containers are, what the rest of its spec is, what comes of it.
pub struct Row {
    pub name: &'static str,
    pub containers: Value,
    pub spec: Value,
    /// The last container's reason and exit code; `Waiting` with the reason that it shows instead.
    pub ends: Ends,
    /// Must be in its log, or in its message where that is said.
    pub says: &'static [&'static str],
    /// Must not be there.
    pub never: &'static [&'static str],
}

/// How a pod ends.
pub enum Ends {
    With(i64, &'static str),
    /// The texts are looked for in the message that it left.
    Message(i64, &'static str),
    Waiting(&'static str),
}

pub const DONE: Ends = Ends::With(0, "Completed");

/// A row whose pod has one container and nothing else to say.
pub fn row(name: &'static str, container: Value, ends: Ends, says: &'static [&'static str]) -> Row {
    Row { name, containers: json!([container]), spec: json!({}), ends, says, never: &[] }
}

impl Row {
    /// With these fields in the pod's spec.
    pub fn spec(mut self, spec: Value) -> Row {
        self.spec = spec;
        self
    }

    pub fn never(mut self, never: &'static [&'static str]) -> Row {
        self.never = never;
        self
    }

    pub fn pod(&self) -> Value {
        let mut containers = self.containers.clone();
        for (index, container) in containers.as_array_mut().expect("a list").iter_mut().enumerate() {
            if container["name"].is_null() {
                container["name"] = json!(format!("c{index}"));
            }
        }
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "labels": {"row": self.name}},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": containers,
                "volumes": volumes()}});
        for (key, value) in self.spec.as_object().expect("an object") {
            pod["spec"][key] = value.clone();
        }
        pod
    }
}

/// All rows' pods have all of these.
fn volumes() -> Value {
    json!([{"name": "empty", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "config", "configMap": {"name": "config"}}, {"name": "secret", "secret": {"secretName": "secret"}},
        {"name": "all", "projected": {"defaultMode": 0o440, "sources": [{"configMap": {"name": "config"}},
            {"serviceAccountToken": {"path": "token"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}])
}

fn mounts() -> Value {
    json!([{"name": "empty", "mountPath": "/empty"}, {"name": "memory", "mountPath": "/memory"},
        {"name": "config", "mountPath": "/config"}, {"name": "secret", "mountPath": "/secret"},
        {"name": "all", "mountPath": "/all"}])
}

/// A Wasm container.
pub fn wasm(image: &str, args: &[&str], fields: Value) -> Value {
    with(json!({"image": image, "args": args, "volumeMounts": mounts()}), fields)
}

/// One that runs the command guest.
pub fn guest(args: &[&str]) -> Value {
    wasm("command:1", args, json!({}))
}

/// A container that runs a shell script.
pub fn shell(script: &str, fields: Value) -> Value {
    with(json!({"image": "box:1", "command": ["sh", "-c", script], "volumeMounts": mounts()}), fields)
}

/// An object with further fields.
pub fn with(mut object: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("an object") {
        object[key] = value.clone();
    }
    object
}

/// Packs a root file system with busybox under its applets' names, and the guests.
pub fn pack(cluster: &Cluster) {
    let root = cluster.scratch().join("box");
    for dir in ["bin", "etc", "tmp", "data"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    let list = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs").stdout;
    for applet in String::from_utf8_lossy(&list).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    symlink("/etc", root.join("data/link")).expect("a link");
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("a file");
    cluster.proa(&["image", "pack", path(&root), "-t", "box:1", "--cmd", "sh"]);
    let guests = super::build_guests();
    for (name, bytes) in [("exit7", EXIT_7), ("trap", TRAP), ("wants", WANTS)] {
        fs::write(cluster.scratch().join(name), bytes).expect("a module");
    }
    let own = |name: &str| cluster.scratch().join(name);
    for (file, image) in [
        (guests.join("command.wasm"), "command:1"),
        (guests.join("http.wasm"), "http:1"),
        (guests.join("examples/command_p3.wasm"), "command3:1"),
        (guests.join("examples/http_p3.wasm"), "http3:1"),
        (own("exit7"), "exit7:1"),
        (own("trap"), "trap:1"),
        (own("wants"), "wants:1"),
    ] {
        let named = cluster.scratch().join(format!("{}.wasm", image.replace(':', "-")));
        fs::copy(&file, &named).expect("a module");
        cluster.proa(&["image", "pack", path(&named), "-t", image]);
    }
    let command = cluster.scratch().join("command-1.wasm");
    let set = ["--cmd", "env", "--env", "FROM=image", "--workdir", "/empty", "--user", "1000:1001"];
    cluster.proa(&[&["image", "pack", path(&command), "-t", "command-set:1"][..], &set].concat());
    cluster.kubectl(&["create", "configmap", "config", "--from-literal=key=value"]);
    cluster.kubectl(&["create", "secret", "generic", "secret", "--from-literal=password=pass"]);
}

/// A path as text.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Makes these pods.
pub fn apply(cluster: &Cluster, pods: &[Value]) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
}

/// The first container's status.
pub fn status(cluster: &Cluster, pod: &str) -> Value {
    cluster.get("pod", pod)["status"]["containerStatuses"][0].clone()
}

/// A pod that goes on.
pub fn lasting(name: &str, containers: Value) -> Value {
    let all = Row {
        name: name.to_owned().leak(),
        containers,
        spec: json!({"restartPolicy": "Always"}),
        ..row("", json!({}), DONE, &[])
    };
    all.pod()
}

/// Waits until all of them are ready.
pub fn ready(cluster: &Cluster, pods: &[&str]) {
    let names: Vec<String> = pods.iter().map(|name| format!("pod/{name}")).collect();
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
    arguments.extend(names.iter().map(String::as_str));
    cluster.kubectl(&arguments);
}
