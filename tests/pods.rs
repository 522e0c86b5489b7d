//! What a pod may ask of its node, for Wasm and for containers: a table of pods that run to their
//! end, and what each must have said and become; then what only a pod that goes on can show.

mod cluster;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Cluster, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

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
struct Row {
    name: &'static str,
    containers: Value,
    spec: Value,
    /// The last container's reason and exit code; `Waiting` with the reason that it shows instead.
    ends: Ends,
    /// Must be in its log, or in its message where that is said.
    says: &'static [&'static str],
    /// Must not be there.
    never: &'static [&'static str],
}

enum Ends {
    With(i64, &'static str),
    /// The texts are looked for in the message that it left.
    Message(i64, &'static str),
    Waiting(&'static str),
}

use Ends::{Message, Waiting, With};

const DONE: Ends = With(0, "Completed");

fn row(name: &'static str, container: Value, ends: Ends, says: &'static [&'static str]) -> Row {
    Row { name, containers: json!([container]), spec: json!({}), ends, says, never: &[] }
}

impl Row {
    /// With these fields in the pod's spec.
    fn spec(mut self, spec: Value) -> Row {
        self.spec = spec;
        self
    }

    fn never(mut self, never: &'static [&'static str]) -> Row {
        self.never = never;
        self
    }

    fn pod(&self) -> Value {
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

fn wasm(image: &str, args: &[&str], fields: Value) -> Value {
    with(json!({"image": image, "args": args, "volumeMounts": mounts()}), fields)
}

fn guest(args: &[&str]) -> Value {
    wasm("command:1", args, json!({}))
}

fn shell(script: &str, fields: Value) -> Value {
    with(json!({"image": "box:1", "command": ["sh", "-c", script], "volumeMounts": mounts()}), fields)
}

fn with(mut object: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("an object") {
        object[key] = value.clone();
    }
    object
}

fn wasm_rows() -> Vec<Row> {
    let env = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "key"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
        {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "config"}}]});
    let said = ["A=1\n", "B=12\n", "C=value\n", "S=pass\n", "N=w-env\n", "P_key=value\n", "HOSTNAME=w-env\n"];
    let limit = |bytes: &str| json!({"resources": {"limits": {"memory": bytes}}});
    let aliases = json!({"hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias"]}]});
    let file = json!([{"name": "config", "mountPath": "/etc/app/key", "subPath": "key"}]);
    let end = json!({"terminationMessagePath": "/end/words"});
    let writable = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000}});
    let probe = json!({"livenessProbe": {"exec": {"command": ["true"]}}});
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    vec![
        row("w-args", wasm("command:1", &["args", "$(A)", "$$(A)"], env.clone()), DONE, &["args\n1\n$(A)\n"]),
        row("w-env", wasm("command:1", &["env"], env), DONE, said.to_vec().leak()),
        row("w-stdin", guest(&["stdin"]), DONE, &["0 bytes"]),
        row("w-fails", guest(&["exit", "1"]), With(1, "Error"), &[]),
        row("w-traps", guest(&["trap"]), Message(134, "Error"), &["unreachable"]),
        row("w-core", wasm("exit7:1", &[], json!({})), With(7, "Error"), &[]),
        row("w-core-traps", wasm("trap:1", &[], json!({})), Message(134, "Error"), &["unreachable"]),
        row("w-p3", wasm("command3:1", &[], json!({})), With(1, "Error"), &["a command of 0.3"]),
        row("w-write", guest(&["write", "/empty/file", "x"]), DONE, &[]),
        row("w-config", guest(&["read", "/config/key"]), DONE, &["value"]),
        row("w-secret", guest(&["read", "/secret/password"]), DONE, &["pass"]),
        row("w-projected", guest(&["read", "/all/labels"]), DONE, &["row=\"w-projected\""]),
        row("w-read-only", guest(&["write", "/config/key", "x"]), With(1, "Error"), &["not permitted"]),
        row("w-out", guest(&["read", "/empty/../../etc/passwd"]), With(1, "Error"), &["not permitted"]),
        row("w-node", guest(&["read", "/etc/passwd"]), With(1, "Error"), &["No such file"]),
        row(
            "w-account",
            wasm("command:1", &["read", "/var/run/secrets/kubernetes.io/serviceaccount/token"], json!({})),
            DONE,
            &["eyJ"],
        ),
        row(
            "w-file",
            wasm("command:1", &["read", "/etc/app/key"], json!({"volumeMounts": file})),
            DONE,
            &["value"],
        ),
        row("w-user", guest(&["write", "/empty/file", "x"]), DONE, &[]).spec(writable.clone()),
        row("w-user-read-only", guest(&["write", "/all/key", "x"]), With(1, "Error"), &[]).spec(writable),
        row(
            "w-words",
            guest(&["write", "/dev/termination-log", "good-bye"]),
            Message(0, "Completed"),
            &["good-bye"],
        ),
        row(
            "w-own-words",
            wasm("command:1", &["write", "/end/words", "by"], end),
            Message(0, "Completed"),
            &["by"],
        ),
        row("w-fallback", wasm("command:1", &["what"], fallback), Message(1, "Error"), &["unknown: what"]),
        row("w-memory", wasm("command:1", &["eat"], limit("32Mi")), With(137, "OOMKilled"), &[]),
        row("w-alias", guest(&["lookup", "alias"]), DONE, &["192.0.2.7"]).spec(aliases),
        row("w-service", guest(&["lookup", "kubernetes"]), DONE, &["10.43.0.1"]),
        row("w-nobody", guest(&["lookup", "nobody"]), With(1, "Error"), &[]),
        row(
            "w-wants",
            wasm("wants:1", &[], json!({})),
            Waiting("CreateContainerError"),
            &["imports what this node does not offer: wasi:keyvalue/store@0.2.0"],
        ),
        row(
            "w-probe",
            wasm("command:1", &["sleep"], probe),
            Waiting("CreateContainerConfigError"),
            &["livenessProbe.exec is not possible in a Wasm container"],
        ),
    ]
}

fn container_rows() -> Vec<Row> {
    let status = "grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; ";
    let walls = "mount -t tmpfs t /tmp; touch /sys/x /sys/fs/cgroup/x /sys/fs/cgroup/memory/x /proc/sys/kernel/x; \
        echo 1 > /proc/sys/vm/drop_caches; echo 3 > /proc/sysrq-trigger; head -c1 /proc/kcore; ls /sys/firmware; \
        ls /dev | grep -E 'sd|vd|mem'; true";
    let tight = json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}});
    let user = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000,
        "supplementalGroups": [3000]}});
    let evil = json!({"volumeMounts": [{"name": "empty", "mountPath": "/x", "subPath": "evil"}]});
    let part = json!({"volumeMounts": [{"name": "empty", "mountPath": "/x", "subPathExpr": "$(HOSTNAME)/a"},
        {"name": "config", "mountPath": "/etc/app/key", "subPath": "key"}],
        "env": [{"name": "HOSTNAME", "value": "part"}]});
    let over_link = json!({"volumeMounts": [{"name": "config", "mountPath": "/data/link/config"}]});
    let names = json!({"hostname": "host", "subdomain": "sub", "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias"]}]});
    let order = json!({"initContainers": [
        with(shell("echo first >> /empty/log", json!({})), json!({"name": "first"})),
        with(shell("echo side >> /empty/log; sleep 1000", json!({})), json!({"name": "side", "restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["grep", "side", "/empty/log"]}, "periodSeconds": 1}})),
        with(shell("echo second >> /empty/log", json!({})), json!({"name": "second"}))]});
    let attack = json!({"initContainers": [with(shell("ln -s /etc /empty/evil", json!({})), json!({"name": "attack"}))]});
    let limits = json!({"resources": {"limits": {"cpu": "100m", "memory": "24Mi"}}});
    let eats = with(limits.clone(), json!({"command": ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M"]}));
    let env = json!({"command": null, "args": ["echo", "$(A)", "$$(A)", "$(NONE)"], "env": [{"name": "A", "value": "v"}]});
    vec![
        row("c-default", shell(status, json!({})), DONE, &[
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "Seccomp:\t2",
        ]),
        row("c-walls", shell(walls, json!({})), DONE, &[
            "mount: permission denied",
            "/sys/x: Read-only",
            "/sys/fs/cgroup/x: Read-only",
            "drop_caches: Read-only",
        ])
        .never(&["sda\n", "vda\n", "mem\n"]),
        row("c-tight", shell(&format!("{status} touch /x; touch /empty/x && echo written"), tight), DONE, &[
            "CapEff:\t0000000000000400",
            "CapBnd:\t0000000000000400",
            "NoNewPrivs:\t1",
            "/x: Read-only file system",
            "written",
        ]),
        row("c-privileged", shell(&format!("{status} mount -t tmpfs t /tmp && echo mounted"),
            json!({"securityContext": {"privileged": true}})), DONE, &["Seccomp:\t0", "mounted"]),
        row("c-user", shell("id; touch /empty/f; stat -c %u:%g /empty/f; cat /secret/password; echo >> /all/key", json!({})),
            With(1, "Error"), &["uid=1000 gid=1001 groups=1001,2000,3000", "1000:2000", "pass", "can't create"])
        .spec(user),
        row("c-root", shell("id", json!({"securityContext": {"runAsNonRoot": true}})),
            Waiting("CreateContainerConfigError"), &["image will run as root"]),
        row("c-memory", shell("", eats), With(137, "OOMKilled"), &[]),
        row("c-limits", shell("cd /sys/fs/cgroup; cat cpu.max memory.max cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes; true",
            limits), DONE, &["10000", "25165824"]),
        row("c-tmpfs", shell("dd if=/dev/zero of=/memory/f bs=64k count=32", json!({})), With(1, "Error"), &["No space left"]),
        row("c-arguments", shell("", env), DONE, &["v $(A) $(NONE)\n"]),
        row("c-directory", shell("pwd", json!({"workingDir": "/new/one"})), DONE, &["/new/one"]),
        row("c-order", shell("cat /empty/log", json!({})), DONE, &["first\nside\nsecond\n"]).spec(order),
        row("c-projected", shell("ls /all; stat -Lc %a /all/key; cat /all/labels", json!({})), DONE,
            &["key\nlabels\ntoken\n", "440", "row=\"c-projected\""]),
        row("c-part", shell("echo x > /x/f; cat /x/f /etc/app/key", part), DONE, &["x\nvalue"]),
        row("c-attack", shell("cat /x/passwd", evil), Waiting("CreateContainerConfigError"),
            &["failed to prepare subPath for volumeMount \"empty\" of container \"c0\": it leads out of the volume"]).spec(attack),
        row("c-link", shell("cat /etc/config/key", over_link), DONE, &["value"]),
        row("c-names", shell("cat /etc/resolv.conf /etc/hosts; hostname", json!({})), DONE, &[
            "search example\nnameserver 192.0.2.53\noptions ndots:2\n",
            "host.sub.default.svc.cluster.local\thost\n",
            "192.0.2.7\talias\n",
            "\nhost\n",
        ])
        .spec(names),
        row("c-node-network", shell("cat /etc/resolv.conf; ls /sys/class/net", json!({})), DONE,
            &["nameserver 10.43.0.10", "lo\n", "proa0\n"])
        .spec(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
        row("c-words", shell("echo words > /t/end; exit 2", json!({"terminationMessagePath": "/t/end"})),
            Message(2, "Error"), &["words\n"]),
        row("c-after-start", shell("until test -f /empty/hook; do sleep 0.1; done; cat /empty/hook",
            json!({"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /empty/hook"]}}}})),
            DONE, &["hooked"]),
    ]
}

/// Packs a root file system with busybox under its applets' names, and the guests.
fn pack(cluster: &Cluster) {
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
    let guests = cluster::build_guests();
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
    cluster.kubectl(&["create", "configmap", "config", "--from-literal=key=value"]);
    cluster.kubectl(&["create", "secret", "generic", "secret", "--from-literal=password=pass"]);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn apply(cluster: &Cluster, pods: &[Value]) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
}

/// The first container's status.
fn status(cluster: &Cluster, pod: &str) -> Value {
    cluster.get("pod", pod)["status"]["containerStatuses"][0].clone()
}

fn check(cluster: &Cluster, row: &Row) {
    let name = row.name;
    let is_there = |status: &Value| match row.ends {
        Waiting(reason) => status["state"]["waiting"]["reason"] == reason,
        With(..) | Message(..) => !status["state"]["terminated"].is_null(),
    };
    cluster.wait(&format!("{name} to come to its end"), || is_there(&status(cluster, name)));
    let status = status(cluster, name);
    let ended = &status["state"]["terminated"];
    let text = match row.ends {
        Waiting(_) => {
            let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
            cluster.wait(&format!("an Event of {name}"), || {
                let about = format!("involvedObject.name={name}");
                let events = cluster.kubectl(&["get", "events", "--field-selector", &about]);
                row.says.iter().all(|text| events.contains(text.trim_end()))
            });
            message
        }
        With(code, reason) | Message(code, reason) => {
            let log = cluster.kubectl(&["logs", name, "-c", "c0"]);
            assert_eq!(
                (&ended["exitCode"], &ended["reason"]),
                (&json!(code), &json!(reason)),
                "{name}: {ended} {log}"
            );
            assert!(ended["signal"].is_null(), "{name}: {ended}");
            match row.ends {
                Message(..) => ended["message"].as_str().unwrap_or_default().to_owned(),
                _ => log,
            }
        }
    };
    for wanted in row.says {
        assert!(text.contains(wanted), "{name} does not say {wanted:?}: {text}");
    }
    for unwanted in row.never {
        assert!(!text.contains(unwanted), "{name} says {unwanted:?}: {text}");
    }
}

fn run(rows: &[Row]) -> Cluster {
    let cluster = Cluster::start();
    pack(&cluster);
    apply(&cluster, &rows.iter().map(Row::pod).collect::<Vec<_>>());
    rows.iter().for_each(|row| check(&cluster, row));
    cluster
}

#[test]
fn wasm_pods_come_to_the_right_end() {
    let cluster = run(&wasm_rows());
    // Each module was compiled once, however many pods run it.
    let compiled = fs::read_dir(cluster.data_dir().join("wasm")).expect("compiled files").flatten();
    let compiled = compiled.filter(|e| e.path().extension().is_some_and(|x| x == "cwasm")).count();
    assert_eq!(compiled, 4, "command, command3, exit7 and trap");
    cluster.kubectl(&["delete", "pod", "--all"]);
}

#[test]
fn container_pods_come_to_the_right_end() {
    let cluster = run(&container_rows());
    cluster.kubectl(&["delete", "pod", "--all"]);
}

/// A pod that goes on.
fn lasting(name: &str, containers: Value) -> Value {
    let all = Row {
        name: name.to_owned().leak(),
        containers,
        spec: json!({"restartPolicy": "Always"}),
        ..row("", json!({}), DONE, &[])
    };
    all.pod()
}

fn ready(cluster: &Cluster, pods: &[&str]) {
    let names: Vec<String> = pods.iter().map(|name| format!("pod/{name}")).collect();
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
    arguments.extend(names.iter().map(String::as_str));
    cluster.kubectl(&arguments);
}

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
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let mut directories = BTreeSet::new();
    for dir in ["volumes", "pods", "run/sandboxes"] {
        directories.extend(fs::read_dir(data.join(dir)).expect("a directory").flatten().map(|e| e.path()));
    }
    let mut cgroups = BTreeSet::new();
    for controller in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for dir in
            [controller.path().join("proa").join(&node), PathBuf::from("/sys/fs/cgroup/proa").join(&node)]
        {
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
    // What the first pods bring along stays: connections, compiled files, watches.
    all(pods(0, 2));
    let settled =
        Traces { processes: 0, mounts: 0, links: 2, cgroups: BTreeSet::new(), directories: BTreeSet::new() };
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
    cluster.stop(Signal::SIGTERM);
    fs::remove_file(cluster.data_dir().join("store.redb")).expect("the store");
    cluster.up();
    // Nobody knows the pod any more: it is ended, as gently as the kubelet ends such pods …
    let sandbox = cluster.data_dir().join("run/sandboxes").join(&uid);
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
