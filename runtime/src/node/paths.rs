//! Where things lie in the data directory. Nothing else builds these paths.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

/// The node's part of the data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    data: PathBuf,
}

impl Paths {
    /// The layout below this data directory.
    pub fn new(data: &Path) -> Self {
        Paths { data: data.to_owned() }
    }

    /// All directories of the node right in the data directory.
    pub fn directories(&self) -> Vec<PathBuf> {
        vec![
            self.run(),
            self.containers(),
            self.volumes(),
            self.local_volumes(),
            self.logs(),
            self.images(),
            self.wasm(),
        ]
    }

    /// What belongs to this run of the machine, in memory: `run`.
    pub fn run(&self) -> PathBuf {
        self.data.join("run")
    }

    /// Directories of all sandboxes: `run/sandboxes`.
    pub fn sandboxes(&self) -> PathBuf {
        self.run().join("sandboxes")
    }

    /// Directory of a pod's sandbox.
    pub fn sandbox(&self, uid: &str) -> PathBuf {
        self.sandboxes().join(uid)
    }

    /// Writable layers of all pods' containers: `containers`.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// Those of a pod.
    pub fn pod_containers(&self, uid: &str) -> PathBuf {
        self.containers().join(uid)
    }

    /// Where one run of a container keeps its writable layer.
    pub fn scratch(&self, uid: &str, id: &str) -> PathBuf {
        self.pod_containers(uid).join(id)
    }

    /// What one run of a container has written beside its volumes. The sandbox makes it.
    pub fn upper(&self, uid: &str, id: &str) -> PathBuf {
        self.scratch(uid, id).join("upper")
    }

    /// Volumes of all pods: `volumes`.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// All that is made for mounting into a pod.
    pub fn pod_volumes(&self, uid: &str) -> PathBuf {
        self.volumes().join(uid)
    }

    /// One volume of a pod.
    pub fn volume(&self, uid: &str, name: &str) -> PathBuf {
        self.pod_volumes(uid).join("volumes").join(name)
    }

    /// Which PersistentVolume a volume of a pod is.
    pub fn claim(&self, uid: &str, volume: &str) -> PathBuf {
        self.pod_volumes(uid).join("claims").join(volume)
    }

    /// What the local-path provisioner makes, a directory for each PersistentVolume:
    /// `volumes-local`. Nothing but the provisioner removes anything here.
    pub fn local_volumes(&self) -> PathBuf {
        self.data.join("volumes-local")
    }

    /// `hosts`, `resolv.conf` and `hostname` of a pod.
    pub fn etc(&self, uid: &str) -> PathBuf {
        self.pod_volumes(uid).join("etc")
    }

    /// Where a run of a container leaves its last words.
    pub fn termination_log(&self, uid: &str, id: &str) -> PathBuf {
        self.termination_logs(uid).join(id)
    }

    /// The last words of all runs of a pod's containers.
    pub fn termination_logs(&self, uid: &str) -> PathBuf {
        self.pod_volumes(uid).join("termination")
    }

    /// Bind mounts of parts of volumes.
    pub fn subpath(&self, uid: &str, container: &str, index: usize) -> PathBuf {
        self.pod_volumes(uid).join("subpaths").join(container).join(index.to_string())
    }

    /// Logs of all pods: `pods`.
    pub fn logs(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// Logs of a pod.
    pub fn pod_logs(&self, pod: &Pod) -> PathBuf {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let meta = &pod.metadata;
        self.logs().join(format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)))
    }

    /// Log of one run of a container. Older parts of it lie beside it.
    pub fn log(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(pod).join(container).join(format!("{attempt}.log"))
    }

    /// Which cluster's pods these are: `cluster`.
    pub fn cluster(&self) -> PathBuf {
        self.data.join("cluster")
    }

    /// How what the node has outside of this directory is named: `node.json`.
    pub fn node(&self) -> PathBuf {
        self.data.join("node.json")
    }

    /// Images: `images`. What is below is `image/layout.rs`'s.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Compiled Wasm.
    pub fn wasm(&self) -> PathBuf {
        self.data.join("wasm")
    }
}
