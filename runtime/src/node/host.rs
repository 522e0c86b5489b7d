//! What all pods of this node share: configuration, stores, the network, the API.
//!
//! Made once by the agent, read by every pod's worker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;
use tokio::sync::Semaphore;

use crate::event::Recorder;
use crate::image::ImageStore;
use crate::net::Network;
use crate::node::disk::{Disk, Thresholds};
use crate::node::foreign_images::ForeignImages;
use crate::node::host_names::HostNames;
use crate::node::machine::Machine;
use crate::node::paths::Paths;
use crate::node::shown_pods::ShownPods;
use crate::pod::downward::Facts;
use crate::pod::etc_files::Names;
use crate::pod::objects::Objects;
use crate::pod::sysctl::UnsafeSysctl;

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// `metadata.name` of the Node.
    pub node_name: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// How what it has outside of that is named.
    pub host_names: HostNames,
    /// The node's address, as other nodes and pods reach it.
    pub node_ip: IpAddr,
    /// Addresses of this node's pods: `spec.podCIDR`.
    pub pod_cidr: String,
    /// Address of the cluster's DNS service.
    pub cluster_dns: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Labels that the node has beside those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Taints that it is registered with.
    pub taints: Vec<Taint>,
    /// Where the node's own server listens, if it has one.
    pub kubelet_port: Option<u16>,
    /// Most pods on this node.
    pub max_pods: u32,
    /// Most tasks of a pod; -1 for no limit.
    pub pod_max_pids: i64,
    /// Kernel parameters that pods may set beside the safe ones.
    pub allowed_unsafe_sysctls: Vec<UnsafeSysctl>,
    /// Less free disk than this is pressure.
    pub eviction_hard: Thresholds,
    /// Proa's version, for `nodeInfo`.
    pub version: String,
}

/// What all pods of this node share.
pub struct Host {
    /// How the node is set up.
    pub config: NodeConfig,
    /// Where things lie.
    pub paths: Paths,
    /// The API.
    pub client: kube::Client,
    /// The disk that holds the data directory.
    pub disk: Disk,
    /// Images.
    pub images: ImageStore,
    /// Images that have nothing for this node's platform.
    pub foreign: ForeignImages,
    /// The pod network.
    pub network: Network,
    /// ConfigMaps, Secrets, Services.
    pub objects: Objects,
    /// Events.
    pub recorder: Recorder,
    /// What the node's server shows.
    pub pods: ShownPods,
    /// The machine's resources.
    pub machine: Machine,
    /// What the node knows about names.
    pub names: Names,
    /// Bounds the sandboxes that are started at a time, so that a hundred new pods become ready
    /// one after the other rather than all at the end.
    pub starts: Semaphore,
}

impl Host {
    /// The facts that fields of a pod with this address refer to.
    pub fn facts(&self, pod_ip: IpAddr) -> Facts {
        Facts {
            host_ip: self.config.node_ip,
            pod_ip,
            allocatable_cpu: self.machine.cpu,
            allocatable_memory: self.machine.allocatable_memory,
            memory_capacity: self.machine.memory,
            allocatable_storage: self.machine.storage,
        }
    }

    /// The cgroup of a pod, relative to each controller's root.
    pub fn cgroup(&self, uid: &str) -> String {
        self.config.host_names.pod_cgroup(uid)
    }
}
