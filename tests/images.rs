//! Images from a real registry (Debian's docker-registry, on loopback) and from archives.

mod cluster;

use std::fs;
use std::process::{Child, Stdio};

use cluster::{Cluster, wait_for};

/// A registry in the cluster's network namespace, ended with the test.
struct Registry(Child);

impl Registry {
    const ADDRESS: &'static str = "127.0.0.1:5000";

    fn start(cluster: &Cluster) -> Registry {
        let dir = cluster.scratch().join("registry");
        fs::create_dir_all(&dir).expect("a directory");
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{}'}}\n",
            dir.display(),
            Self::ADDRESS
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

    // What is not there is not there, and says so.
    cluster.apply(&pod("missing", &remote("nothing:1"), "IfNotPresent"));
    cluster.wait("the missing image to be reported", || {
        cluster.kubectl(&["get", "pod", "missing"]).contains("ImagePull")
    });
    let events = cluster.kubectl(&["get", "events"]);
    assert!(events.contains("not found"), "{events}");
    cluster.kubectl(&["delete", "pod", "--all", "--grace-period=1"]);
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
