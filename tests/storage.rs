//! Claims, volumes and what becomes of the data in them, with a real kubectl, for containers and
//! for Wasm components.

mod cluster;

use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::Cluster;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A claim of the default class.
const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: \
                     [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n";

/// A pod that runs a shell script once, with the claim `data` at `/data`. `more` goes over its spec.
fn shell(name: &str, script: &str, more: Value) -> Value {
    let container = json!({
        "name": "c", "image": "hello-container:1", "command": ["/bin/busybox", "sh", "-c"], "args": [script],
        "volumeMounts": [{"name": "v", "mountPath": "/data"}],
    });
    pod(name, container, more)
}

/// The same with the component of `runtime/wasm/tests/guests`.
fn component(name: &str, args: &[&str], more: Value) -> Value {
    let mounts = json!([{"name": "v", "mountPath": "/data"}]);
    pod(name, json!({"name": "c", "image": "command:1", "args": args, "volumeMounts": mounts}), more)
}

fn pod(name: &str, container: Value, more: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    });
    for (key, value) in more.as_object().expect("an object") {
        pod["spec"][key] = value.clone();
    }
    pod
}

const SLEEP: &str = "trap exit TERM; while true; do /bin/busybox sleep 0.1; done";

/// Runs a pod to its end, gives what it said, and deletes it.
fn run(cluster: &Cluster, pod: &Value) -> (String, String) {
    cluster.apply(&pod.to_string());
    let name = pod["metadata"]["name"].as_str().expect("a name");
    cluster.wait(&format!("the end of {name}"), || {
        ["Succeeded", "Failed"].map(Value::from).contains(&cluster.get("pod", name)["status"]["phase"])
    });
    let phase = cluster.get("pod", name)["status"]["phase"].as_str().expect("a phase").to_owned();
    let log = cluster.kubectl(&["logs", name]);
    cluster.kubectl(&["delete", "pod", name]);
    (phase, log)
}

fn succeeds(cluster: &Cluster, pod: &Value) -> String {
    let (phase, log) = run(cluster, pod);
    assert_eq!(phase, "Succeeded", "{log}");
    log
}

fn phase(cluster: &Cluster, resource: &str, name: &str) -> String {
    cluster.get(resource, name)["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

fn volume_of(cluster: &Cluster, claim: &str) -> String {
    cluster.wait(&format!("claim {claim} to be bound"), || phase(cluster, "pvc", claim) == "Bound");
    cluster.get("pvc", claim)["spec"]["volumeName"].as_str().expect("a volume").to_owned()
}

fn directory(cluster: &Cluster, volume: &str) -> PathBuf {
    cluster.data_dir().join("volumes-local").join(volume)
}

fn is_gone(cluster: &Cluster, resource: &str, name: &str) -> bool {
    cluster.get(resource, name).is_null()
}

fn pack_guests(cluster: &Cluster) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2", "--bins", "--examples"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/wasm/tests/guests"))
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .status();
    assert!(built.expect("cargo").success(), "the guests do not build");
    let file = target.join("wasm32-wasip2/release/command.wasm");
    cluster.proa(&["image", "pack", file.to_str().expect("UTF-8"), "-t", "command:1"]);
}

/// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-persistent-volume-storage/>.
#[test]
fn data_outlives_the_pods_that_wrote_it() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    pack_guests(&cluster);
    assert!(cluster.kubectl(&["get", "sc"]).contains("local-path (default)   proa.dev/local-path   Delete"));

    // Nothing happens before somebody needs it.
    cluster.apply(CLAIM);
    cluster.wait_for_event(
        "data",
        "WaitForFirstConsumer",
        "waiting for first consumer to be created before binding",
    );
    let claim = cluster.get("pvc", "data");
    assert_eq!(
        (&claim["spec"]["storageClassName"], &claim["status"]["phase"]),
        (&json!("local-path"), &json!("Pending"))
    );

    assert_eq!(succeeds(&cluster, &shell("one", "echo one >> /data/log; cat /data/log", json!({}))), "one\n");
    let volume = volume_of(&cluster, "data");
    cluster.wait_for_event("data", "ProvisioningSucceeded", &volume);
    assert_eq!(
        succeeds(&cluster, &shell("two", "echo two >> /data/log; cat /data/log", json!({}))),
        "one\ntwo\n"
    );
    // A component reads what a container wrote, and the other way round.
    assert_eq!(succeeds(&cluster, &component("three", &["read", "/data/log"], json!({}))), "one\ntwo\n");
    succeeds(&cluster, &component("four", &["write", "/data/wasm", "three"], json!({})));
    assert_eq!(succeeds(&cluster, &shell("five", "cat /data/wasm", json!({}))), "three");

    // A part of it, only to be read, for a user who is nobody but has the group.
    let mut part = shell("part", "cat /data/inner; echo more > /data/inner", json!({}));
    succeeds(&cluster, &shell("six", "mkdir /data/sub; echo in > /data/sub/inner", json!({})));
    part["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "sub".into();
    assert_eq!(succeeds(&cluster, &part), "in\n");
    part["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    let (ended, log) = run(&cluster, &part);
    assert!(ended == "Failed" && log.starts_with("more\n"), "{ended}: {log}");
    let of_group = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000}});
    let script =
        "/bin/busybox stat -c %g:%a /data/log; echo mine > /data/mine; /bin/busybox stat -c %u:%g /data/mine";
    assert_eq!(succeeds(&cluster, &shell("group", script, of_group)), "2000:664\n1000:2000\n");

    // Its capacity is nominal: more is granted, less is not.
    let ask = |size: &str| {
        let patch = format!("{{\"spec\":{{\"resources\":{{\"requests\":{{\"storage\":\"{size}\"}}}}}}}}");
        cluster.kubectl_output(&["patch", "pvc", "data", "-p", &patch])
    };
    assert!(ask("3Gi").status.success());
    cluster.wait("3Gi", || cluster.get("pvc", "data")["status"]["capacity"]["storage"] == "3Gi");
    assert_eq!(cluster.get("pv", &volume)["spec"]["capacity"]["storage"], "3Gi");
    let refused = String::from_utf8_lossy(&ask("2Gi").stderr).into_owned();
    assert!(refused.contains("field can not be less than status.capacity"), "{refused}");
    let table = cluster.kubectl(&["get", "pv", &volume]);
    assert!(
        table.contains("3Gi        RWO            Delete           Bound    default/data   local-path"),
        "{table}"
    );
    assert!(cluster.kubectl(&["describe", "pvc", "data"]).contains(&volume));

    // With the claim everything goes.
    let dir = directory(&cluster, &volume);
    assert!(dir.join("log").exists());
    cluster.kubectl(&["delete", "pvc", "data"]);
    cluster.wait("the volume to go", || is_gone(&cluster, "pv", &volume));
    assert!(!dir.exists());
}

/// <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>.
#[test]
fn a_claim_in_use_waits_for_its_pods() {
    let mut cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(CLAIM);
    let user = |name: &str| shell(name, &format!("echo here > /data/file; {SLEEP}"), json!({}));
    cluster.apply(&user("first").to_string());
    cluster.wait("the pod", || phase(&cluster, "pod", "first") == "Running");
    let volume = volume_of(&cluster, "data");
    let file = directory(&cluster, &volume).join("file");
    cluster.wait("its file", || file.exists());

    cluster.kubectl(&["delete", "pvc", "data", "--wait=false"]);
    assert!(cluster.kubectl(&["get", "pvc", "data"]).contains("Terminating"));
    cluster.kubectl(&["delete", "pv", &volume, "--wait=false"]);
    cluster.apply(&user("second").to_string());
    cluster.wait_for_event("second", "FailedScheduling", "persistentvolumeclaim \"data\" is being deleted");
    // The node comes back to the same.
    cluster.stop(Signal::SIGTERM);
    cluster.up();
    assert_eq!(cluster.kubectl(&["exec", "first", "--", "/bin/busybox", "cat", "/data/file"]), "here\n");
    assert_eq!(phase(&cluster, "pvc", "data"), "Bound");
    assert!(file.exists());

    cluster.kubectl(&["delete", "pod", "second", "first"]);
    cluster.wait("the claim to go", || is_gone(&cluster, "pvc", "data"));
    cluster.wait("the volume to go", || is_gone(&cluster, "pv", &volume));
    assert!(!file.exists());
    // What has its name now is another one.
    cluster.apply(CLAIM);
    cluster.apply(&user("third").to_string());
    cluster.wait("the pod", || phase(&cluster, "pod", "third") == "Running");
    assert_ne!(volume_of(&cluster, "data"), volume);
}

fn stateful_set(name: &str, policy: &str) -> String {
    let script = format!("echo $HOSTNAME >> /data/starts; {SLEEP}");
    let container = json!({
        "name": "c", "image": "hello-container:1", "command": ["/bin/busybox", "sh", "-c"], "args": [script],
        "volumeMounts": [{"name": "www", "mountPath": "/data"}],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": 2, "selector": {"matchLabels": {"app": name}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy, "whenScaled": policy},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "www"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
            }],
        },
    })
    .to_string()
}

/// <https://kubernetes.io/docs/tutorials/stateful-application/basic-stateful-set/>.
#[test]
fn a_stateful_set_keeps_the_data_of_its_pods() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let rolled = || {
        cluster.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]);
    };
    let starts = |name: &str, count: usize| {
        cluster.wait(&format!("start {count} of {name}"), || {
            let cat = ["exec", name, "--", "/bin/busybox", "cat", "/data/starts"];
            let output = cluster.kubectl_output(&cat);
            String::from_utf8_lossy(&output.stdout) == format!("{name}\n").repeat(count)
        });
    };
    let scale = |to: &str| {
        cluster.kubectl(&["scale", "sts/web", &format!("--replicas={to}")]);
    };
    let claims = || {
        let claims = cluster.list("pvc", "app=web");
        claims
            .iter()
            .map(|c| c["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    cluster.apply(&stateful_set("web", "Retain"));
    rolled();
    starts("web-0", 1);
    starts("web-1", 1);
    assert_eq!(claims(), ["www-web-0", "www-web-1"]);
    cluster.wait_for_event(
        "web",
        "SuccessfulCreate",
        "create Claim www-web-0 Pod web-0 in StatefulSet web success",
    );
    scale("1");
    cluster.wait("one pod", || is_gone(&cluster, "pod", "web-1"));
    scale("2");
    rolled();
    starts("web-1", 2);
    // Neither does the set take its claims along.
    cluster.kubectl(&["delete", "sts", "web"]);
    cluster.wait("no pods", || cluster.list("pod", "app=web").is_empty());
    assert_eq!(claims().len(), 2);
    cluster.apply(&stateful_set("web", "Retain"));
    rolled();
    starts("web-0", 2);
    starts("web-1", 3);

    // Until it is told to.
    cluster.apply(&stateful_set("web", "Delete"));
    cluster.wait("the set to own its claims", || {
        let owned = |c: &Value| c["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet";
        cluster.list("pvc", "app=web").iter().all(owned)
    });
    let volume = volume_of(&cluster, "www-web-1");
    scale("1");
    cluster.wait("one claim", || claims() == ["www-web-0"]);
    cluster.wait("its volume to go", || is_gone(&cluster, "pv", &volume));
    assert!(!directory(&cluster, &volume).exists());
    starts("web-0", 2);
    scale("2");
    rolled();
    starts("web-1", 1);
    cluster.kubectl(&["delete", "sts", "web"]);
    cluster.wait("no claims", || claims().is_empty());
    cluster.wait("no volumes", || cluster.list("pv", "").is_empty());
    let left = std::fs::read_dir(cluster.data_dir().join("volumes-local")).expect("a directory").count();
    assert_eq!(left, 0);
}

#[test]
fn volumes_made_by_hand_and_those_of_a_pod() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let host = cluster.scratch().join("host");
    std::fs::create_dir(&host).expect("a directory");
    let volume = |name: &str, size: &str, source: Value| {
        let mut spec = json!({
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        });
        for (key, value) in source.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}).to_string(),
        );
    };
    let claim = |name: &str, more: &str| {
        cluster.apply(
            &CLAIM
                .replace("name: data", &format!("name: {name}"))
                .replace("spec: {", &format!("spec: {{{more}, ")),
        );
    };
    volume("large", "10Gi", json!({"hostPath": {"path": "/nowhere"}}));
    volume("small", "2Gi", json!({"hostPath": {"path": host}}));
    cluster
        .wait("free volumes", || ["large", "small"].iter().all(|v| phase(&cluster, "pv", v) == "Available"));
    claim("data", "storageClassName: manual");
    assert_eq!(volume_of(&cluster, "data"), "small");
    succeeds(&cluster, &shell("writes", "echo kept > /data/file", json!({})));
    cluster.kubectl(&["delete", "pvc", "data"]);
    cluster.wait("the volume to be released", || phase(&cluster, "pv", "small") == "Released");
    assert_eq!(std::fs::read_to_string(host.join("file")).expect("the file"), "kept\n");
    // It is not given to anybody else before somebody has looked after it.
    claim("data", "storageClassName: manual, volumeName: small");
    cluster.wait_for_event("data", "FailedBinding", "already bound to a different claim");
    cluster.kubectl(&["patch", "pv", "small", "--type=merge", "-p", r#"{"spec":{"claimRef":null}}"#]);
    assert_eq!(volume_of(&cluster, "data"), "small");
    assert_eq!(succeeds(&cluster, &shell("reads", "cat /data/file", json!({}))), "kept\n");

    // What nobody here can mount says so.
    volume("share", "1Gi", json!({"nfs": {"server": "nfs.example", "path": "/"}}));
    claim("shared", "volumeName: share, storageClassName: manual");
    assert_eq!(volume_of(&cluster, "shared"), "share");
    let of = |claim: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]});
    cluster.apply(&shell("mounts-share", SLEEP, of("shared")).to_string());
    cluster.wait_for_event("mounts-share", "FailedMount", "spec.nfs is not supported by this node");
    cluster.apply(&shell("no-claim", SLEEP, of("absent")).to_string());
    cluster.wait_for_event("no-claim", "FailedScheduling", "persistentvolumeclaim \"absent\" not found");
    claim("nothing", "storageClassName: ''");
    cluster.wait_for_event(
        "nothing",
        "FailedBinding",
        "no persistent volumes available for this claim and no storage class is set",
    );
    let many = CLAIM.replace("ReadWriteOnce", "ReadWriteMany").replace("name: data", "name: many");
    cluster.apply(&many);
    cluster.apply(&shell("wants-many", SLEEP, of("many")).to_string());
    cluster.wait_for_event("many", "ProvisioningFailed", "spec.accessModes: ReadWriteMany is not supported");

    // A claim that comes and goes with its pod.
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let scratch = json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]});
    cluster.apply(&shell("brings", &format!("echo x > /data/x; {SLEEP}"), scratch).to_string());
    cluster.wait("the pod", || phase(&cluster, "pod", "brings") == "Running");
    let own = volume_of(&cluster, "brings-v");
    cluster.kubectl(&["delete", "pod", "brings", "mounts-share", "no-claim", "wants-many"]);
    cluster.wait("its claim to go", || is_gone(&cluster, "pvc", "brings-v"));
    cluster.wait("its volume to go", || is_gone(&cluster, "pv", &own));
    assert!(!directory(&cluster, &own).exists());
}

/// A directory that `subPath` makes has the volume's mode and group.
/// <https://kubernetes.io/docs/concepts/storage/volumes/#using-subpath>.
#[test]
fn who_may_write_to_a_volume_may_write_to_a_part_of_it() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(CLAIM);
    let script =
        "cd /data; /bin/busybox stat -c %u:%g:%a . ..; echo mine > file; /bin/busybox stat -c %u:%g file";
    let user = json!({"runAsUser": 1001, "runAsGroup": 1001, "fsGroup": 2001});
    let check = |name: &str, volume: Value, context: &Value, expected: &str| {
        let mut pod = shell(name, script, json!({"securityContext": context}));
        pod["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "a/b".into();
        if !volume.is_null() {
            pod["spec"]["volumes"][0] = volume;
        }
        let log = succeeds(&cluster, &pod);
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!([lines[0], lines[2]].join(" "), expected, "{name}: {log}");
    };
    let scratch = |medium: &str| json!({"name": "v", "emptyDir": {"medium": medium}});
    check("claim", Value::Null, &user, "0:2001:2777 1001:2001");
    check("disk", scratch(""), &user, "0:2001:2777 1001:2001");
    check("memory", scratch("Memory"), &user, "0:2001:2777 1001:2001");
    check("no-group", scratch(""), &json!({"runAsUser": 1001, "runAsGroup": 1001}), "0:0:777 1001:1001");
}

/// A token is for one user or one group where the pod names one, and for everyone in it otherwise.
/// <https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/1205-bound-service-account-tokens#file-permission>.
#[test]
fn tokens_are_readable_for_whom_the_pod_runs_as() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let script = "/bin/busybox stat -L -c %u:%g:%a /data/token; test -s /data/token && /bin/busybox head -c 3 /data/token";
    let check = |name: &str, context: Value, expected: &str| {
        let projected = json!({"sources": [{"serviceAccountToken": {"path": "token"}}]});
        let more = json!({"securityContext": context, "volumes": [{"name": "v", "projected": projected}]});
        assert_eq!(succeeds(&cluster, &shell(name, script, more)), format!("{expected}\neyJ"), "{name}");
    };
    check("nobody-named", json!({}), "0:0:644");
    check("user", json!({"runAsUser": 1001, "runAsGroup": 1001}), "1001:0:600");
    check("group", json!({"runAsGroup": 1001, "fsGroup": 2001}), "0:2001:640");
    check("both", json!({"runAsUser": 1001, "runAsGroup": 1001, "fsGroup": 2001}), "1001:2001:640");
}

/// A directory in memory is no larger than its own limit, or than its pod's or the node's memory.
/// <https://kubernetes.io/docs/concepts/storage/volumes/#emptydir>.
#[test]
fn a_directory_in_memory_is_as_large_as_the_pod_may_be() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let kilobytes = |name: &str, source: Value, limits: Value| {
        let mut pod = shell(name, "/bin/busybox df -k /data | /bin/busybox tail -n 1", json!({}));
        pod["spec"]["containers"][0]["resources"] = json!({"limits": limits});
        pod["spec"]["volumes"][0] = json!({"name": "v", "emptyDir": source});
        let log = succeeds(&cluster, &pod);
        log.split_whitespace().nth(1).and_then(|n| n.parse::<i64>().ok()).unwrap_or_else(|| panic!("{log}"))
    };
    let (plain, small) = (json!({"medium": "Memory"}), json!({"medium": "Memory", "sizeLimit": "1Mi"}));
    assert_eq!(kilobytes("own", small.clone(), json!({})), 1 << 10);
    assert_eq!(kilobytes("pod", plain.clone(), json!({"memory": "32Mi"})), 32 << 10);
    assert_eq!(kilobytes("smaller", small, json!({"memory": "32Mi"})), 1 << 10);
    let of_node = cluster.get("node", cluster.node_name())["status"]["allocatable"]["memory"].clone();
    let of_node = of_node.as_str().and_then(|text| text.strip_suffix("Ki")).expect("kilobytes");
    assert_eq!(kilobytes("node", plain, json!({})).to_string(), of_node);
}

/// <https://kubernetes.io/docs/concepts/storage/ephemeral-storage/#resource-emphemeralstorage-consumption>.
#[test]
fn a_pod_that_fills_the_disk_over_its_limits_is_evicted() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let write = |file: &str, kilobytes: u32| {
        format!("/bin/busybox dd if=/dev/zero of={file} bs=1024 count={kilobytes}; {SLEEP}")
    };
    let limited = |name: &str, script: &str, volume: Value, limit: Value| {
        let mut pod = shell(name, script, json!({"terminationGracePeriodSeconds": 600}));
        pod["spec"]["volumes"][0] = json!({"name": "v", "emptyDir": volume});
        if !limit.is_null() {
            pod["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": limit}});
        }
        pod
    };
    let evicted = |pod: &Value, message: &str| {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        cluster.wait(&format!("the end of {name}"), || phase(&cluster, "pod", name) == "Failed");
        let found = cluster.get("pod", name);
        assert_eq!(
            (&found["status"]["reason"], &found["status"]["message"]),
            (&json!("Evicted"), &json!(message))
        );
        cluster.wait_for_event(name, "Evicted", message);
        let uid = found["metadata"]["uid"].as_str().expect("a uid");
        let dir = cluster.data_dir().join("volumes").join(uid);
        cluster.wait(&format!("the files of {name} to go"), || !dir.exists());
        let ended =
            || cluster.get("pod", name)["status"]["containerStatuses"][0]["state"]["terminated"].is_object();
        cluster.wait(&format!("the container of {name} to show its end"), ended);
    };
    let none = Value::Null;
    let quiet = limited("quiet", &write("/data/file", 512), json!({"sizeLimit": "1Mi"}), "2Mi".into());
    let volume = limited("volume", &write("/data/file", 1025), json!({"sizeLimit": "1Mi"}), none.clone());
    let both = limited("both", &write("/data/file", 1025), json!({}), "1Mi".into());
    let layer = {
        let mut pod = limited("layer", &write("/file", 1025), json!({}), "1Mi".into());
        let mut other = pod["spec"]["containers"][0].clone();
        other["name"] = "other".into();
        other["args"] = json!([SLEEP]);
        pod["spec"]["containers"].as_array_mut().expect("a list").push(other);
        pod
    };
    let logs = limited(
        "logs",
        &format!("/bin/busybox yes | /bin/busybox head -n 100000; {SLEEP}"),
        json!({}),
        "1Mi".into(),
    );
    let hosts = limited("hosts", &write("/etc/hosts", 1025), json!({}), "1Mi".into());
    for pod in [&quiet, &volume, &both, &layer, &logs, &hosts] {
        cluster.apply(&pod.to_string());
    }
    evicted(&volume, "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    evicted(&both, of_pod);
    evicted(&logs, of_pod);
    evicted(&hosts, of_pod);
    evicted(&layer, "Container c exceeded its local ephemeral storage limit \"1Mi\". ");
    // Others were looked at in the same time.
    assert_eq!(phase(&cluster, "pod", "quiet"), "Running");
}

/// However deep a container nests directories, its pod goes and the node stays.
#[test]
fn deep_directories_go_with_their_pod() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(CLAIM);
    let mut pod = shell("deep", SLEEP, json!({}));
    pod["spec"]["volumes"].as_array_mut().expect("a list").push(json!({"name": "own", "emptyDir": {}}));
    cluster.apply(&pod.to_string());
    cluster.wait("the pod", || phase(&cluster, "pod", "deep") == "Running");
    let uid = cluster.get("pod", "deep")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let of_pod = cluster.data_dir().join("volumes").join(uid);
    let of_claim = directory(&cluster, &volume_of(&cluster, "data"));
    nest(&of_pod.join("volumes/own"), 18_000);
    nest(&of_claim, 18_000);
    cluster.kubectl(&["delete", "pod", "deep"]);
    cluster.wait("the pod's directories to go", || !of_pod.exists());
    cluster.kubectl(&["delete", "pvc", "data"]);
    cluster.wait("the claim's directories to go", || !of_claim.exists());
    cluster.wait("the volume to go", || cluster.list("pv", "").is_empty());
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

/// Makes directories in one another, as deep as no path can say.
fn nest(dir: &Path, depth: usize) {
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = open(dir, flags, Mode::empty()).expect("a directory");
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::S_IRWXU).expect("a directory");
        at = openat(&at, "d", flags, Mode::empty()).expect("a directory");
    }
}
