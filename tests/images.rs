//! Images from a real registry (Debian's docker-registry, on loopback) and from archives.

mod cluster;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::stranger::{Answer, Body, Stranger};
use cluster::{Cluster, PROA, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A registry in the cluster's network namespace, ended with the test.
struct Registry(Child);

impl Registry {
    const ADDRESS: &'static str = "127.0.0.1:5000";
    /// The same, at the address of the bridge.
    const OFF_LOOPBACK: &'static str = "10.42.0.1:5000";

    fn start(cluster: &Cluster) -> Registry {
        let dir = cluster.scratch().join("registry");
        fs::create_dir_all(&dir).expect("a directory");
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: ':5000'}}\n",
            dir.display()
        );
        let file = cluster.scratch().join("registry.yml");
        fs::write(&file, config).expect("a file");
        let mut command = cluster.command("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry(command.spawn().expect("docker-registry is installed"));
        wait_for("the registry", || {
            cluster.http(Self::ADDRESS, "registry", "/v2/").is_ok_and(|(s, _)| s == 200)
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(name: &str, image: &str, policy: &str) -> String {
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]}})
    .to_string()
}

#[test]
fn images_are_pushed_and_pulled() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    let _registry = Registry::start(&cluster);
    let remote = |name: &str| format!("{}/{name}", Registry::ADDRESS);
    let wasm = cluster.image("hello-wasm:1");
    for name in ["hello-wasm:1", "hello-container:1"] {
        cluster.proa(&["image", "tag", name, &remote(name)]);
        cluster.proa(&["image", "push", &remote(name)]);
        cluster.proa(&["image", "rm", &remote(name)]);
        cluster.proa(&["image", "rm", name]);
    }
    assert!(!cluster.proa(&["image", "ls"]).contains("hello-"));

    // A pod that needs one brings it, verified, under the digest it was pushed with.
    cluster.apply(&pod("wasm", &remote("hello-wasm:1"), "IfNotPresent"));
    cluster.apply(&pod("container", &remote("hello-container:1"), "Always"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/wasm", "pod/container", "--timeout=60s"]);
    let pulled = cluster.image(&remote("hello-wasm:1"));
    assert_eq!(pulled["digest"], wasm["digest"]);
    let id = cluster.get("pod", "wasm")["status"]["containerStatuses"][0]["imageID"].to_string();
    assert!(id.contains(wasm["digest"].as_str().expect("a digest")), "{id}");
    let events = cluster.kubectl(&["get", "events"]);
    assert!(events.contains("Successfully pulled image"), "{events}");

    // By digest, from the command line.
    let by_digest = format!("{}@{}", remote("hello-wasm"), wasm["digest"].as_str().expect("a digest"));
    assert!(cluster.proa(&["image", "pull", &by_digest]).contains(&by_digest));

    // Without TLS only on loopback, or where the administrator says so.
    let off_loopback = format!("{}/hello-wasm:1", Registry::OFF_LOOPBACK);
    cluster.proa(&["image", "tag", &remote("hello-wasm:1"), &off_loopback]);
    for (verb, says) in [("pull", "failed to pull"), ("push", "failed to push")] {
        let error = proa_fails(&cluster, &["image", verb, &off_loopback]);
        assert!(error.contains(says) && error.contains("--insecure-registries"), "{error}");
        cluster.proa(&["image", verb, &off_loopback, "--insecure-registries", Registry::OFF_LOOPBACK]);
    }

    // What is not there is not there, and says so; and what is here only, how it would be used.
    cluster.proa(&["image", "tag", &remote("hello-wasm:1"), "only-here"]);
    cluster.apply(&pod("missing", &remote("nothing:1"), "IfNotPresent"));
    cluster.apply(&pod("only-here", "only-here", "Always"));
    cluster.apply(&pod("plain", &off_loopback, "Always"));
    for (pod, says) in [
        ("missing", "not found"),
        ("only-here", "is on the node: with imagePullPolicy IfNotPresent or Never it is used"),
        ("plain", "--insecure-registries"),
    ] {
        cluster.wait("the image to be refused", || message(&cluster, pod).contains(says));
    }
    cluster.kubectl(&["delete", "pod", "--all", "--grace-period=1"]);
}

#[test]
fn the_command_line_may_be_used_from_anywhere() {
    let cluster = Cluster::start_with(&["--insecure-registries", Registry::OFF_LOOPBACK]);
    cluster.pack_examples();
    let _registry = Registry::start(&cluster);
    // Records hold paths that mean the same elsewhere.
    let file = cluster.scratch().join("relative.wasm");
    fs::write(&file, b"\0asm\x01\0\0\0").expect("a file");
    let mut command = cluster.command(PROA);
    command.args(["image", "pack", "relative.wasm", "-t", "relative:1", "--data-dir", "data"]);
    assert!(command.output().expect("proa starts").status.success());
    let module = cluster.image("relative:1")["content"]["wasm"]["module"].clone();
    assert!(Path::new(module.as_str().expect("a path")).is_absolute(), "{module}");

    // Devices are the node's matter, and what is left out is said.
    let root = cluster.scratch().join("devices");
    fs::create_dir(&root).expect("a directory");
    let disk = nix::sys::stat::makedev(8, 0);
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::S_IRUSR);
    nix::sys::stat::mknod(&root.join("sda"), kind, mode, disk).expect("root");
    let fifo = root.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("a directory");
    // What a program may do as whom is kept.
    let program = root.join("program");
    fs::write(&program, "#!/bin/sh").expect("a file");
    std::os::unix::fs::chown(&program, Some(12), Some(34)).expect("root");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4751)).expect("a mode");
    fs::create_dir(root.join("tmp")).expect("a directory");
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("a mode");
    let root = root.to_str().expect("UTF-8");
    let output = cluster.proa_output(&["image", "pack", root, "-t", "devices:1", "--cmd", "sh"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("left out 1 device nodes of"), "{said}");
    let layer = cluster.image("devices:1")["content"]["layers"][0].clone();
    let layer = Path::new(layer.as_str().expect("a path"));
    let mut made =
        fs::read_dir(layer).expect("a directory").flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    made.sort();
    assert_eq!(made, ["fifo", "program", "tmp"]);
    let of = |name: &str| {
        let metadata = layer.join(name).metadata().expect("a file");
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!((of("program"), of("tmp")), ((0o4751, 12, 34), (0o1777, 0, 0)));

    // A reader that has seen enough is no failure.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = cluster.command(PROA);
    command.args(["image", "ls"]).env("PROA_DATA_DIR", cluster.data_dir()).stdout(writer);
    let output = command.output().expect("proa starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    // The node takes the setting as well.
    let name = format!("{}/hello-wasm:1", Registry::OFF_LOOPBACK);
    cluster.proa(&["image", "tag", "hello-wasm:1", &name]);
    cluster.proa(&["image", "push", &name, "--insecure-registries", Registry::OFF_LOOPBACK]);
    cluster.apply(&pod("plain", &name, "Always"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/plain", "--timeout=60s"]);
}

/// Why the container of a pod waits.
fn message(cluster: &Cluster, pod: &str) -> String {
    let status = &cluster.get("pod", pod)["status"]["containerStatuses"][0];
    let waiting = &status["state"]["waiting"];
    let events =
        cluster.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={pod}")]);
    format!("{} {events}", waiting["message"].as_str().unwrap_or_default())
}

fn proa_fails(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.proa_output(arguments);
    assert!(!output.status.success(), "{arguments:?} succeeds");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A manifest with this configuration and these layers, of which only digest and size matter.
fn manifest_of(config: (&str, usize), layers: &[(&str, usize)]) -> Vec<u8> {
    let describe = |kind: &str, (digest, size): (&str, usize)| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size});
    let layers: Vec<Value> = layers.iter().map(|layer| describe("layer.v1.tar+gzip", *layer)).collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    json!({"schemaVersion": 2, "mediaType": media_type, "config": describe("config.v1+json", config),
        "layers": layers})
    .to_string()
    .into_bytes()
}

/// What a command makes of its input.
fn pipe(program: &str, input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is installed");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads");
    output.stdout
}

fn digest(bytes: &[u8]) -> String {
    let sum = String::from_utf8(pipe("sha256sum", bytes)).expect("text");
    format!("sha256:{}", &sum[..64])
}

/// An image whose one layer is small to fetch, and would fill the memory: the name of its first
/// file is of 256 MiB.
fn offer_bomb(stranger: &Stranger) {
    const LENGTH: usize = 256 << 20;
    let mut tar = vec![0; 512 + LENGTH];
    tar[..13].copy_from_slice(b"././@LongLink");
    tar[124..136].copy_from_slice(format!("{LENGTH:011o}\0").as_bytes());
    tar[156] = b'L';
    tar[257..265].copy_from_slice(b"ustar  \0");
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]}})
    .to_string()
    .into_bytes();
    let layer = pipe("gzip", &tar);
    let (config_digest, layer_digest) = (digest(&config), digest(&layer));
    let manifest = manifest_of((&config_digest, config.len()), &[(&layer_digest, layer.len())]);
    stranger.manifest("bomb", Answer::ok(manifest));
    stranger.answer(&format!("/v2/bomb/blobs/{config_digest}"), Answer::ok(config));
    stranger.answer(&format!("/v2/bomb/blobs/{layer_digest}"), Answer::ok(layer));
}

/// The most memory that the node has had since this was last called, in MiB.
fn peak_mib(cluster: &Cluster) -> u64 {
    let process = Path::new("/proc").join(cluster.pid().to_string());
    let status = fs::read_to_string(process.join("status")).expect("proa runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak = line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") >> 10;
    // From proc(5): 5 sets the peak back to what is in use.
    File::options()
        .write(true)
        .open(process.join("clear_refs"))
        .and_then(|mut f| f.write_all(b"5"))
        .expect("root");
    peak
}

#[test]
fn a_registry_is_not_trusted() {
    const MANY: u64 = 128 << 20;
    let cluster = Cluster::start();
    let stranger = Stranger::start(&cluster, "127.0.0.1:5001");
    let inner = Stranger::start(&cluster, "127.0.0.1:5002");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let answer = |head: &str, body: &str| Answer { head: head.to_owned(), body: Body::Bytes(body.into()) };
    let long = |head: &str| Answer { head: head.to_owned(), body: Body::Long(MANY) };
    let error = r#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down", "detail": "hunter2"}]}"#;
    let realm = "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:5002/token\"";
    let crossing = "leads to 127.0.0.1, at a loopback address: not followed";
    offer_bomb(&stranger);
    let rows = [
        ("long-manifest", Some(long("200 OK")), "is larger than 4 MiB"),
        ("long-error", Some(long("500 Internal Server Error")), "500 Internal Server Error"),
        ("page", Some(answer("403 Forbidden", "<html>hunter2</html>")), "failed to authorize"),
        ("service", Some(answer("502 Bad Gateway", "password: hunter2")), "502 Bad Gateway"),
        ("stated", Some(answer("429 Too Many Requests", error)), "toomanyrequests: slow down"),
        ("redirect", Some(answer("302 Found\r\nLocation: http://127.0.0.1:5002/pods", "")), crossing),
        ("token", Some(answer(realm, "")), crossing),
        (
            "layers",
            Some(Answer::ok(manifest_of((&zeros, 2), &vec![(zeros.as_str(), 2); 501]))),
            "the image has more than 500 layers",
        ),
        (
            "large",
            Some(Answer::ok(manifest_of((&zeros, 2), &[(zeros.as_str(), 33 << 30)]))),
            "the image is larger than 32 GiB",
        ),
        ("bomb", None, "headers are larger than 1 MiB"),
    ];
    peak_mib(&cluster);
    let before = peak_mib(&cluster);
    for (name, manifest, _) in &rows {
        if let Some(manifest) = manifest {
            stranger.manifest(name, manifest.clone());
        }
        cluster.apply(&pod(name, &stranger.image(name), "Always"));
    }
    for (name, _, says) in &rows {
        cluster.wait(&format!("{name} to be refused"), || message(&cluster, name).contains(says));
        let message = message(&cluster, name);
        for secret in ["hunter2", "aaaa", "html"] {
            assert!(!message.contains(secret), "{name}: {message}");
        }
    }
    assert_eq!(inner.asked("/"), 0, "what only this machine reaches was asked");
    let grown = peak_mib(&cluster).saturating_sub(before);
    assert!(grown < 64, "the node used {grown} MiB for what strangers sent");

    let by_digest = stranger.image("other").replace(":1", &format!("@{zeros}"));
    stranger.answer(&format!("/v2/other/manifests/{zeros}"), Answer::ok(manifest_of((&zeros, 2), &[])));
    let error = proa_fails(&cluster, &["image", "pull", &by_digest]);
    assert!(error.contains("does not match its digest"), "{error}");
}

/// The process that pulls for this one.
fn puller(parent: u32) -> Option<Pid> {
    let wanted = format!("PPid:\t{parent}\n");
    fs::read_dir("/proc").expect("proc").flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        status.contains(&wanted).then_some(Pid::from_raw(pid))
    })
}

#[test]
fn an_image_that_breaks_its_process_is_held_back() {
    let mut cluster = Cluster::start();
    let stranger = Stranger::start(&cluster, "127.0.0.1:5001");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let blob = format!("/v2/silent/blobs/{zeros}");
    stranger.manifest("silent", Answer::ok(manifest_of((&zeros, 2), &[(&zeros, 2)])));
    stranger.answer(&blob, Answer { head: "200 OK".to_owned(), body: Body::Silence });
    let temporary = cluster.data_dir().join("images/tmp");
    let left = || fs::read_dir(&temporary).expect("a directory").count();
    // Each time ends as it would where memory is short, and holds the image back for longer.
    for time in 1..=4 {
        let mut command = cluster.command(PROA);
        command.args(["image", "pull", &stranger.image("silent")]).env("PROA_DATA_DIR", cluster.data_dir());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("proa starts");
        cluster.wait("the blob to be asked for", || stranger.asked(&blob) == time);
        let puller = puller(child.id()).expect("a process that pulls");
        let limits = fs::read_to_string(format!("/proc/{puller}/limits")).expect("it runs");
        let memory = limits.lines().find(|line| line.starts_with("Max address space")).expect("a limit");
        assert!(memory.contains(" 536870912 "), "{memory}");
        kill(puller, Signal::SIGKILL).expect("root");
        let output = child.wait_with_output().expect("proa ends");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && error.contains("512 MiB of memory, ended with signal: 9"),
            "{error}"
        );
    }
    let asked = stranger.asked(&blob);
    cluster.stop(Signal::SIGTERM);
    fs::write(temporary.join("left"), "of a blob").expect("a file");
    cluster.up();
    cluster.wait("what was left to be swept", || left() == 0);
    cluster.apply(&pod("silent", &stranger.image("silent"), "Always"));
    cluster.wait("the image to be held back", || message(&cluster, "silent").contains("not tried again for"));
    assert_eq!(stranger.asked(&blob), asked, "the image was tried again");
    // The same name is as good as ever for what it may lead to next.
    stranger.manifest("silent", Answer::ok(manifest_of((&zeros, 3), &[(&zeros, 3)])));
    cluster.apply(&pod("another", &stranger.image("silent"), "Always"));
    cluster.wait("the other to be tried", || stranger.asked(&blob) > asked);
}

#[test]
fn a_pull_that_nobody_waits_for_leaves_nothing() {
    let cluster = Cluster::start();
    let stranger = Stranger::start(&cluster, "127.0.0.1:5001");
    let zeros = format!("sha256:{}", "0".repeat(64));
    stranger.manifest("slow", Answer::ok(manifest_of((&zeros, 1 << 20), &[(&zeros, 1 << 20)])));
    let begun = Answer { head: "200 OK".to_owned(), body: Body::Begun(vec![0; 512 << 10]) };
    stranger.answer(&format!("/v2/slow/blobs/{zeros}"), begun);
    let temporary = cluster.data_dir().join("images/tmp");
    let bytes = || {
        let output = Command::new("du").args(["-s", "--bytes"]).arg(&temporary).output().expect("du runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().next().and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0)
    };
    cluster.apply(&pod("slow", &stranger.image("slow"), "Always"));
    cluster.wait("half of the blob", || bytes() > 400 << 10);
    cluster.kubectl(&["delete", "pod", "slow", "--grace-period=0", "--force"]);
    cluster.wait("its place to be cleared", || {
        fs::read_dir(&temporary).is_ok_and(|mut entries| entries.next().is_none())
    });
}

/// One namespace's slow pulls have half of the places, and those for a while only.
#[test]
fn who_pulls_slowly_holds_up_nobody_else() {
    let cluster = Cluster::start();
    let stranger = Stranger::start(&cluster, "127.0.0.1:5001");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let names: Vec<String> = (0..8).map(|number| format!("slow{number}")).collect();
    cluster.kubectl(&["create", "namespace", "slow"]);
    for name in &names {
        stranger.manifest(name, Answer::ok(manifest_of((&zeros, 1 << 20), &[(&zeros, 1 << 20)])));
        let begun = Answer { head: "200 OK".to_owned(), body: Body::Begun(vec![0; 1 << 10]) };
        stranger.answer(&format!("/v2/{name}/blobs/{zeros}"), begun);
        let slow = pod(name, &stranger.image(name), "Always");
        // The namespace's service account comes after it.
        cluster.wait(&format!("{name} to be made"), || {
            cluster.kubectl_stdin(&["apply", "-n", "slow", "-f", "-"], &slow).status.success()
        });
    }
    cluster.wait("the first to be pulled", || stranger.asked("/v2/slow") > 3);
    let begun = Instant::now();
    cluster.apply(&pod("quick", &stranger.image("quick"), "Always"));
    cluster.wait("the other's answer", || message(&cluster, "quick").contains("not found"));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let refused = || cluster.kubectl(&["get", "events", "-n", "slow"]);
    cluster.wait("a slow one to be given up", || refused().contains("sends less than 64 KiB in 30s"));
    assert!(begun.elapsed() > Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn credentials_that_are_no_good_hold_back_no_image() {
    use base64::Engine;
    let cluster = Cluster::start();
    cluster.pack_examples();
    let registry = Registry::start(&cluster);
    let name = "127.0.0.1:5000/victim:1";
    cluster.proa(&["image", "tag", "hello-container:1", name]);
    cluster.proa(&["image", "push", name]);
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let mut greedy: Value = serde_json::from_str(&pod("greedy", name, "Always")).expect("JSON");
    let mut names = Vec::new();
    for index in 0..6 {
        let host = if index == 0 { "127.0.0.1:5000".to_owned() } else { format!("r{index}.example") };
        let auth = json!({"username": "u", "password": "x".repeat(700_000)});
        let config = json!({"auths": {host: auth}}).to_string();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{index}")},
            "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encode(&config)}});
        let made = cluster.kubectl_stdin(&["create", "-f", "-"], &secret.to_string());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        names.push(json!({"name": format!("s{index}")}));
    }
    greedy["spec"]["imagePullSecrets"] = Value::Array(names);
    cluster.apply(&greedy.to_string());
    cluster.wait("the long password to be refused", || {
        message(&cluster, "greedy").contains("longer than 64 KiB")
    });
    cluster.apply(&pod("honest", name, "Always"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/honest", "--timeout=30s"]);
    drop(registry);
}

#[test]
fn an_image_in_use_is_not_removed() {
    let cluster = Cluster::start();
    cluster.pack_examples();
    cluster.apply(&pod("container", "hello-container:1", "IfNotPresent"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/container", "--timeout=60s"]);
    let output = cluster.proa_output(&["image", "rm", "hello-container:1"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("in use by a running container"), "{error}");
    cluster.kubectl(&["delete", "pod", "container", "--grace-period=1"]);
    cluster.wait("the image to be free", || {
        cluster.proa_output(&["image", "rm", "hello-container:1"]).status.success()
    });
}

/// What an image calls its volumes can be written to, in each container for itself, also where the
/// root is read-only, and a user whom the image does not know is at home in the root.
/// <https://github.com/opencontainers/image-spec/blob/main/config.md> (Volumes).
#[test]
fn volumes_of_an_image_are_writable_under_a_read_only_root() {
    let cluster = Cluster::start();
    let root = cluster.scratch().join("root");
    for dir in ["bin", "data", "etc"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    fs::write(root.join("data/seed"), "seed\n").expect("a file");
    fs::write(root.join("etc/passwd"), "web:x:33:33:Web:/srv:/bin/sh\n").expect("a file");
    std::os::unix::fs::symlink("/etc", root.join("link")).expect("a link");
    let volumes = ["--volume", "/data", "--volume", "/new/deep", "--volume", "/link", "--volume", "/taken"];
    let pack = ["image", "pack", root.to_str().expect("UTF-8"), "-t", "volumes:1"];
    cluster.proa(&[&pack[..], &volumes].concat());
    let script = "cat /data/seed; echo own > /data/own; echo deep > /new/deep/file; echo in > /link/made; \
        cat /data/own /new/deep/file /etc/made; \
        for file in /file /new/file /taken/file; do echo x > $file || echo refused; done 2> /dev/null; echo $HOME";
    let container = |name: &str, context: Value, script: &str| {
        json!({
            "name": name, "image": "volumes:1", "command": ["/bin/busybox", "sh", "-c", script],
            "securityContext": context,
            "volumeMounts": [{"name": "v", "mountPath": "/taken/", "readOnly": true}],
        })
    };
    let read_only = json!({"readOnlyRootFilesystem": true});
    let mut known = container("known", json!({"runAsUser": 33}), "echo $HOME");
    known["env"] = json!([{"name": "HOME", "value": ""}]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [container("first", read_only.clone(), script)],
            "containers": [
                container("second", read_only, "/bin/busybox ls /data"),
                known,
                container("unknown", json!({"runAsUser": 1001}), "echo $HOME"),
            ],
        },
    });
    cluster.apply(&pod.to_string());
    cluster.wait("the end of the pod", || cluster.get("pod", "p")["status"]["phase"] == "Succeeded");
    let said = |container: &str| cluster.kubectl(&["logs", "p", "-c", container]);
    assert_eq!(said("first"), "seed\nown\ndeep\nin\nrefused\nrefused\nrefused\n/\n");
    assert_eq!(said("second"), "seed\n", "what one container writes no other sees");
    assert_eq!((said("known").as_str(), said("unknown").as_str()), ("/srv\n", "/\n"));
    assert!(!Path::new("/etc/made").exists(), "a link of the image leads no further than its root");
}

/// Compiling that takes its time is told, once: the second pod of the image finds it done.
#[test]
fn a_long_compile_is_told() {
    let cluster = Cluster::start();
    let file = cluster.scratch().join("slow.wasm");
    fs::write(&file, idle_module(20_000)).expect("a module");
    cluster.proa(&["image", "pack", file.to_str().expect("UTF-8"), "-t", "slow:1"]);
    let run = |name: &str| {
        let mut pod: Value = serde_json::from_str(&pod(name, "slow:1", "IfNotPresent")).expect("JSON");
        pod["spec"]["restartPolicy"] = "Never".into();
        cluster.apply(&pod.to_string());
        cluster.wait(&format!("the end of {name}"), || {
            cluster.get("pod", name)["status"]["phase"] == "Succeeded"
        });
    };
    run("first");
    cluster.wait_for_event(
        "first",
        "Compiling",
        "Compiling image \"docker.io/library/slow:1\", which this node does once",
    );
    cluster.wait_for_event(
        "first",
        "Compiled",
        "Successfully compiled image \"docker.io/library/slow:1\" in ",
    );
    run("second");
    cluster.wait_for_event("second", "Started", "Started container c");
    let field = "involvedObject.name=second,reason=Compiling";
    assert_eq!(cluster.kubectl(&["get", "events", "--field-selector", field, "-o", "name"]), "");
}

/// A core module with so many functions that do little, the first of which is `_start`.
fn idle_module(functions: u32) -> Vec<u8> {
    let leb128 = |mut value: u32| {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    };
    let code = [&[0][..], &b"\x41\0\x1a".repeat(15), &[0x0b]].concat();
    let code = [leb128(code.len() as u32), code].concat();
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, section) in [
        (1, vec![1, 0x60, 0, 0]),
        (3, [leb128(functions), vec![0; functions as usize]].concat()),
        (7, [&[1, 6][..], b"_start", &[0, 0]].concat()),
        (10, [leb128(functions), code.repeat(functions as usize)].concat()),
    ] {
        module.push(id);
        module.extend_from_slice(&leb128(section.len() as u32));
        module.extend_from_slice(&section);
    }
    module
}
