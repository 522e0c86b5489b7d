//! What a pod asks for and must not get, and what pods share only when they ask: kernel parameters,
//! profiles that nobody enforces, mounts over `/proc`, devices, tasks without end, namespaces.

mod cluster;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};

use cluster::Cluster;
use cluster::pod::{apply, lasting, pack, path, ready, row, shell, status, with};
use serde_json::{Value, json};

/// A pod with one shell container and these fields in its spec.
fn pod(name: &'static str, script: &str, fields: Value, spec: Value) -> Value {
    row(name, shell(script, fields), cluster::pod::DONE, &[]).spec(spec).pod()
}

fn ended(cluster: &Cluster, name: &str) -> String {
    cluster.wait(&format!("{name} to end"), || !status(cluster, name)["state"]["terminated"].is_null());
    cluster.kubectl(&["logs", name])
}

/// Waits for what the container waits for, and gives its message.
fn refused(cluster: &Cluster, name: &str) -> String {
    let waiting = || status(cluster, name)["state"]["waiting"].clone();
    let message = || waiting()["message"].as_str().unwrap_or_default().to_owned();
    cluster.wait(&format!("{name} to be refused"), || !message().is_empty());
    message()
}

/// The node's own value, read in its initial namespaces.
fn host_value(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).expect("a kernel parameter")
}

#[test]
fn kernel_parameters_and_profiles_are_on_a_list() {
    let cluster = Cluster::start_with(&["--allowed-unsafe-sysctls", "net.core.somaxconn,kernel.msg*"]);
    pack(&cluster);
    let lease = host_value("fs.lease-break-time");
    let core = host_value("kernel.core_pattern");
    let sysctl =
        |name: &str, value: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": value}]}});
    let both = json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "321"},
        {"name": "kernel/msgmax", "value": "4321"}, {"name": "net.ipv4.ping_group_range", "value": "7 8"}]}});
    let tight = json!({"securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}});
    let show = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ping_group_range";
    apply(
        &cluster,
        &[
            pod("lease", "true", tight.clone(), sysctl("fs.lease-break-time", "46")),
            pod("core", "true", tight, sysctl("kernel.core_pattern", "|/bin/sh")),
            pod("ports", "true", json!({}), sysctl("kernel.sem", "1 2 3 4")),
            pod("allowed", show, json!({}), both),
            pod(
                "nobody",
                "cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
                /proc/sys/net/ipv4/ping_group_range; httpd -p 80 -h / && echo listens",
                json!({"securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}}),
                json!({}),
            ),
            pod(
                "armour",
                "true",
                json!({"securityContext": {"appArmorProfile": {"type": "Localhost",
                "localhostProfile": "nobody-has-it"}}}),
                json!({}),
            ),
            pod(
                "labels",
                "true",
                json!({}),
                json!({"securityContext": {"seLinuxOptions": {"level": "s0:c1,c2"}}}),
            ),
        ],
    );
    for (name, reason, message) in [
        ("lease", "SysctlForbidden", "forbidden sysctl: \"fs.lease-break-time\" not allowlisted"),
        ("core", "SysctlForbidden", "forbidden sysctl: \"kernel.core_pattern\" not allowlisted"),
        ("ports", "SysctlForbidden", "forbidden sysctl: \"kernel.sem\" not allowlisted"),
        ("armour", "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"),
        ("labels", "SELinux", "Cannot enforce SELinux: SELinux is not enabled on the host"),
    ] {
        cluster.wait(&format!("{name} to be rejected"), || {
            cluster.get("pod", name)["status"]["phase"] == "Failed"
        });
        let status = cluster.get("pod", name)["status"].clone();
        assert_eq!(status["reason"], reason, "{name}: {status}");
        assert_eq!(status["message"], format!("Pod was rejected: {message}"), "{name}: {status}");
    }
    assert_eq!(ended(&cluster, "allowed"), "321\n4321\n7\t8\n");
    assert_eq!(ended(&cluster, "nobody"), "0\n0\t2147483647\nlistens\n");
    assert_eq!((host_value("fs.lease-break-time"), host_value("kernel.core_pattern")), (lease, core));
    let refusal = cluster.proa_output(&["up", "--allowed-unsafe-sysctls", "kernel.core_pattern"]);
    let refusal = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(refusal.contains("are not known to be namespaced"), "{refusal}");
}

#[test]
fn nothing_is_mounted_over_proc_and_no_device_opens() {
    let cluster = Cluster::start();
    pack(&cluster);
    // An image in which another name leads to /proc.
    let root = cluster.scratch().join("box");
    symlink("/proc", root.join("elsewhere")).expect("a link");
    cluster.proa(&["image", "pack", path(&root), "-t", "linked:1", "--cmd", "sh"]);
    let mount = |at: &str| json!({"volumeMounts": [{"name": "empty", "mountPath": at}]});
    let linked = with(mount("/elsewhere"), json!({"image": "linked:1"}));
    // An image whose /dev is a directory of the node.
    let escape = cluster.scratch().join("escape");
    fs::create_dir(&escape).expect("a directory");
    fs::write(escape.join("ptmx"), "the node's").expect("a file");
    let with_link = cluster.scratch().join("with-link");
    fs::create_dir_all(with_link.join(path(&escape).trim_start_matches('/'))).expect("a directory");
    symlink(&escape, with_link.join("dev")).expect("a link");
    fs::copy("/bin/busybox", with_link.join("sh")).expect("busybox");
    cluster.proa(&["image", "pack", path(&with_link), "-t", "dev-link:1", "--entrypoint", "/sh"]);
    // A volume in which a link leads there, made before the container that mounts below it.
    let inner = json!({"volumeMounts": [{"name": "empty", "mountPath": "/v"},
        {"name": "memory", "mountPath": "/v/link"}]});
    let makes_link = json!({"initContainers": [
        with(shell("ln -s /proc /empty/link", json!({})), json!({"name": "attack"}))]});
    let device = "grep ' / / ' /proc/self/mountinfo; mknod /n c 1 3; cat /n || echo closed
        # Nothing but the filter is in the way here.
        mknod /dev/ours c 1 3 && cat /dev/ours && echo null; mknod /dev/disk b 8 0 || echo no disk";
    // A directory of the node in which more is mounted.
    let access = "awk '$5 ~ \"^/v\" { print substr($6, 1, 2) }' /proc/self/mountinfo | sort -u";
    let sys = |name, recursive: &str| {
        let mount =
            json!({"name": "sys", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": recursive});
        let volumes = json!({"volumes": [{"name": "sys", "hostPath": {"path": "/sys"}}]});
        pod(name, access, json!({"volumeMounts": [mount]}), volumes)
    };
    apply(
        &cluster,
        &[
            sys("read-only", "Disabled"),
            sys("recursive", "Enabled"),
            pod("plain", "true", mount("/proc/sys"), json!({})),
            pod("dev-link", "true", json!({"image": "dev-link:1"}), json!({})),
            pod("dots", "true", mount("/x/../proc"), json!({})),
            pod("linked", "true", linked, json!({})),
            pod("volume", "true", inner, makes_link),
            pod("device", device, json!({}), json!({})),
            pod(
                "host",
                "test -d /host/proc/1 && echo seen",
                json!({"volumeMounts": [{"name": "proc",
                "mountPath": "/host/proc", "readOnly": true}]}),
                json!({"volumes": [{"name": "proc", "hostPath": {"path": "/proc"}}]}),
            ),
        ],
    );
    for name in ["plain", "dots", "linked", "volume"] {
        let message = refused(&cluster, name);
        assert!(message.contains("cannot be mounted because it is inside /proc"), "{name}: {message}");
    }
    let message = refused(&cluster, "dev-link");
    assert!(message.contains("/dev of the image is not a directory"), "{message}");
    assert_eq!(fs::read_to_string(escape.join("ptmx")).expect("the node's file"), "the node's");
    assert_eq!(fs::read_dir(&escape).expect("a directory").count(), 1);
    let said = ended(&cluster, "device");
    for text in ["nodev", "closed", "null", "no disk"] {
        assert!(said.contains(text), "{text} in {said}");
    }
    assert_eq!(ended(&cluster, "host"), "seen\n");
    assert_eq!(
        (ended(&cluster, "read-only"), ended(&cluster, "recursive")),
        ("ro\nrw\n".into(), "ro\n".into())
    );
}

/// An image can have the program run that starts its containers, and nobody can write to that.
#[test]
fn the_nodes_own_program_cannot_be_written_to() {
    let cluster = Cluster::start();
    pack(&cluster);
    let root = cluster.scratch().join("box");
    fs::write(root.join("self"), "#!/proc/self/exe\n").expect("a script");
    fs::set_permissions(root.join("self"), fs::Permissions::from_mode(0o755)).expect("a mode");
    cluster.proa(&["image", "pack", path(&root), "-t", "self:1", "--entrypoint", "/self"]);
    let mut itself = pod("itself", "true", json!({"image": "self:1"}), json!({}));
    itself["spec"]["containers"][0].as_object_mut().expect("a container").remove("command");
    apply(&cluster, &[itself, lasting("shell", json!([shell("sleep 1000", json!({}))]))]);
    ready(&cluster, &["shell"]);
    cluster
        .wait("the image's script to end", || !status(&cluster, "itself")["state"]["terminated"].is_null());
    assert_ne!(status(&cluster, "itself")["state"]["terminated"]["exitCode"], 0);
    let run = cluster.data_dir().join("run");
    let mut tried = 0;
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if !command.contains("sandbox") || !command.contains(path(&run)) {
            continue;
        }
        match fs::File::options().write(true).open(process.path().join("exe")) {
            Err(error) if [libc::EROFS, libc::EPERM].contains(&error.raw_os_error().unwrap_or(0)) => {
                tried += 1
            }
            // What starts a container is gone soon.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => panic!("the node's own program opened for writing: {other:?}"),
        }
    }
    assert!(tried > 0);
}

#[test]
fn what_this_node_does_not_do_is_said() {
    let cluster = Cluster::start();
    pack(&cluster);
    let mut old = pod("old-seccomp", "true", json!({}), json!({}));
    old["metadata"]["annotations"] =
        json!({"seccomp.security.alpha.kubernetes.io/pod": "localhost/strict.json"});
    let mut shaped = pod("shaped", "true", json!({}), json!({}));
    shaped["metadata"]["annotations"] = json!({"kubernetes.io/egress-bandwidth": "1M"});
    let rules = json!({
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]});
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "nobodys"}, "handler": "nobodys-handler"});
    apply(
        &cluster,
        &[
            old,
            shaped,
            class,
            pod("class", "true", json!({}), json!({"runtimeClassName": "nobodys"})),
            pod("rules", "true", rules, json!({})),
            pod("users", "true", json!({}), json!({"hostUsers": false})),
            pod("resources", "true", json!({}), json!({"resources": {"limits": {"memory": "64Mi"}}})),
        ],
    );
    for (name, reason, text) in [
        (
            "class",
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no \
             runtime for \"nobodys-handler\" is configured",
        ),
        ("old-seccomp", "FailedCreatePodSandBox", "seccomp.security.alpha.kubernetes.io/pod"),
        ("shaped", "UndefinedShaper", "kubernetes.io/egress-bandwidth has no effect"),
        ("rules", "FailedCreatePodSandBox", "restartPolicyRules is not supported by this node"),
        ("users", "FailedCreatePodSandBox", "spec.hostUsers is not supported by this node"),
        ("resources", "FailedCreatePodSandBox", "spec.resources is not supported by this node"),
    ] {
        cluster.wait_for_event(name, reason, text);
    }
}

#[test]
fn a_pod_has_so_many_tasks() {
    let cluster = Cluster::start_with(&["--pod-max-pids", "64"]);
    pack(&cluster);
    let bomb = "i=0; while test $i -lt 200; do sleep 1000 & i=$((i+1)); done; echo all";
    let calm = "for i in 1 2 3; do sleep 0.1 & done; wait; echo calm";
    apply(&cluster, &[pod("bomb", bomb, json!({}), json!({})), pod("calm", calm, json!({}), json!({}))]);
    let said = ended(&cluster, "bomb");
    assert!(said.contains("can't fork") && !said.contains("all\n"), "{said}");
    assert_eq!(ended(&cluster, "calm"), "calm\n");
}

/// All pods together have what the node says it has for them, and the kernel ends them first.
#[test]
fn memory_ends_for_pods_before_their_node() {
    let cluster = Cluster::start();
    pack(&cluster);
    apply(&cluster, &[lasting("idle", json!([shell("sleep 1000", json!({}))]))]);
    ready(&cluster, &["idle"]);
    let kept = fs::read_to_string(cluster.data_dir().join("node.json")).expect("the node's names");
    let kept: Value = serde_json::from_str(&kept).expect("JSON");
    let id = kept["id"].as_str().expect("an id");
    let limits = [
        format!("/sys/fs/cgroup/memory/proa/{id}/memory.limit_in_bytes"),
        format!("/sys/fs/cgroup/proa/{id}/memory.max"),
    ];
    let limit = limits.iter().find_map(|path| fs::read_to_string(path).ok()).expect("a limit");
    let limit: u64 = limit.trim().parse().expect("a number of bytes");
    let node = cluster.get("node", cluster.node_name())["status"]["allocatable"]["memory"].clone();
    let node = node.as_str().and_then(|kib| kib.strip_suffix("Ki")).expect("KiB");
    // The kernel counts pages, the node KiB.
    assert!(limit.abs_diff(node.parse::<u64>().expect("a number") << 10) < 128 << 10, "{limit} and {node}Ki");

    let score = |pid: &str| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
    let run = cluster.data_dir().join("run");
    let sandbox = fs::read_dir("/proc").expect("processes").flatten().find(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(path(&run))
    });
    let sandbox = sandbox.expect("a sandbox").file_name().into_string().expect("a number");
    // Without the right to lower it the node has the score that it was started with.
    if score(&cluster.pid().to_string()).trim() == "-999" {
        assert_eq!(score(&sandbox).trim(), "-998");
    }
    let own = || {
        cluster.kubectl(&["exec", "idle", "--", "cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"])
    };
    assert_eq!(own(), "1000\n1000\n");

    // The agent forgoes huge pages, but not for its containers.
    let agent = fs::read_to_string(format!("/proc/{}/status", cluster.pid())).expect("it runs");
    let of_agent = agent.lines().find(|line| line.starts_with("THP_enabled"));
    let of_pod = cluster.kubectl(&["exec", "idle", "--", "grep", "THP_enabled", "/proc/1/status"]);
    assert_eq!((of_agent, &*of_pod), (Some("THP_enabled:\t0"), "THP_enabled:\t1\n"));
}

#[test]
fn namespaces_are_shared_when_a_pod_asks() {
    let cluster = Cluster::start();
    pack(&cluster);
    let two = |name: &'static str, first: &str, second: &str, spec: Value| {
        let mut pod = lasting(name, json!([shell(first, json!({})), shell(second, json!({}))]));
        for (key, value) in spec.as_object().expect("an object") {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let worker = "trap 'echo heard; exit 3' TERM; touch /empty/up; while true; do sleep 0.1; done";
    let waits = "sleep 1000";
    cluster.pack_examples();
    let mut with_wasm =
        lasting("mixed", json!([shell(waits, json!({})), {"name": "w", "image": "hello-wasm:1"}]));
    with_wasm["spec"]["shareProcessNamespace"] = json!(true);
    apply(
        &cluster,
        &[
            two("together", worker, waits, json!({"shareProcessNamespace": true, "restartPolicy": "Never"})),
            two("apart", worker, waits, json!({})),
            with_wasm,
            two("ipc", waits, waits, json!({"hostIPC": true})),
        ],
    );
    ready(&cluster, &["together", "apart", "ipc", "mixed"]);
    let exec_in = |pod: &str, container: &str, script: &str| {
        cluster.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", script])
    };
    let exec = |pod: &str, script: &str| exec_in(pod, "c1", script);
    // A Wasm process is seen, and nothing is reached through it.
    let script = "for p in /proc/[0-9]*; do if grep -q wasm $p/comm; then echo seen; \
        ls $p/root/ $p/cwd/ && echo reached; fi; done 2>&1";
    let seen = exec_in("mixed", "c0", script);
    assert!(seen.contains("seen") && !seen.contains("reached"), "{seen}");
    assert!(!exec("apart", "ps").contains("trap"));
    let seen = exec("together", "cat /proc/1/comm; ps");
    assert!(seen.starts_with("pause\n") && seen.contains("trap"), "{seen}");
    // Who is process 1 leads nowhere, even for who may trace.
    let led = exec("together", "ls /proc/1/root/ /proc/1/fd/ 2>&1; true");
    assert!(!led.contains("bin") && !led.contains("0\n"), "{led}");
    let namespace = exec("together", "readlink /proc/self/ns/pid");
    exec("together", "set -- $(ps | grep hear[d]); kill -TERM $1");
    let first = || {
        let statuses = cluster.get("pod", "together")["status"]["containerStatuses"].clone();
        statuses.as_array().into_iter().flatten().find(|s| s["name"] == "c0").cloned().unwrap_or_default()
    };
    cluster
        .wait("the first container to hear the signal", || first()["state"]["terminated"]["exitCode"] == 3);
    // The other goes on, and is ended with its pod.
    assert!(exec("together", "ps").contains("sleep 1000"));

    let of = |kind: &str| exec("ipc", &format!("readlink /proc/self/ns/{kind}"));
    let own = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string()
    };
    assert_eq!(of("ipc").trim(), own("ipc"));
    assert_ne!(exec("apart", "readlink /proc/self/ns/ipc").trim(), own("ipc"));
    cluster.kubectl(&["delete", "pod", "--all", "--timeout=60s"]);
    let left = fs::read_dir("/proc").expect("processes").flatten().find(|process| {
        fs::read_link(process.path().join("ns/pid")).is_ok_and(|own| own.as_os_str() == namespace.trim())
    });
    assert!(left.is_none(), "{left:?} is left");
}
