//! What becomes of a cluster whose disk is full, with a real disk that is small.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>

mod cluster;

use std::path::Path;
use std::process::Command;

use cluster::Cluster;
use serde_json::{Value, json};

/// A disk of its own, taken away with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> SmallDisk {
        let disk = SmallDisk(tempfile::tempdir().expect("a directory"));
        let options = format!("size={size},mode=755");
        let mut mount = Command::new("/bin/mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(disk.path());
        assert!(mount.status().is_ok_and(|status| status.success()), "a tmpfs");
        disk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("/bin/umount").arg("-l").arg(self.path()).status();
    }
}

fn shell(name: &str, script: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "hello-container:1",
            "command": ["/bin/busybox", "sh", "-c"], "args": [script],
            "volumeMounts": [{"name": "v", "mountPath": "/data"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}]}})
}

#[test]
fn who_fills_the_disk_is_evicted_and_the_cluster_goes_on() {
    let disk = SmallDisk::new("200m");
    let thresholds = "nodefs.available<10%,nodefs.inodesFree<5%";
    let cluster = Cluster::start_in(disk.path(), &["--eviction-hard", thresholds], |_| {});
    cluster.pack_examples();
    let sleep = "trap exit TERM; while true; do /bin/busybox sleep 0.1; done";
    cluster.apply(&shell("quiet", sleep).to_string());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/quiet", "--timeout=60s"]);
    // It takes whatever becomes free.
    let fill =
        "while true; do /bin/busybox dd if=/dev/zero of=/data/$((i++)) bs=1M; /bin/busybox sleep 0.05; done";
    cluster.apply(&shell("hog", fill).to_string());
    let status = |name: &str| cluster.get("pod", name)["status"].clone();
    cluster.wait("the disk to be full", || {
        nix::sys::statvfs::statvfs(disk.path()).is_ok_and(|found| found.blocks_available() < 64)
    });
    // The store takes what it must while the disk is full.
    cluster.kubectl(&["annotate", "pod", "quiet", "while=full"]);
    cluster.wait("the end of who has filled it", || status("hog")["phase"] == "Failed");
    assert_eq!(status("hog")["reason"], "Evicted");
    let message = status("hog")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold"), "{message}");
    cluster.wait("the condition", || {
        let node = cluster.get("node", cluster.node_name());
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "DiskPressure" && c["status"] == "True")
    });
    // It is shown for some time after, and no other pod comes meanwhile.
    let mut late = shell("late", sleep);
    late["spec"]["nodeName"] = json!(cluster.node_name());
    cluster.wait("the store to take new objects", || {
        cluster.kubectl_stdin(&["apply", "-f", "-"], &late.to_string()).status.success()
    });
    cluster.wait("the late one to be rejected", || status("late")["reason"] == "Evicted");
    cluster.kubectl(&["delete", "pod", "hog", "late"]);
    assert_eq!(status("quiet")["phase"], "Running");
    assert_eq!(status("quiet")["containerStatuses"][0]["restartCount"], 0);
}
