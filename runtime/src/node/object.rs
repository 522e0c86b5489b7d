//! The Node object: what this machine shows of itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::names::{LABEL_ARCH, LABEL_ARCH_BETA, LABEL_HOSTNAME, LABEL_OS, LABEL_OS_BETA};

use super::machine::{self, architecture};
use crate::node::host::Host;

/// Images that the status lists, the largest first, as the kubelet's default has it.
const MAX_IMAGES: usize = 50;
/// Less available memory than this is pressure.
const MEMORY_PRESSURE_BYTES: i64 = 50 << 20;

/// The object as it is registered.
pub fn node(host: &Host) -> Node {
    let name = &host.config.node_name;
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut labels = BTreeMap::from([
        label(LABEL_ARCH, architecture()),
        label(LABEL_OS, "linux"),
        label(LABEL_ARCH_BETA, architecture()),
        label(LABEL_OS_BETA, "linux"),
        label(LABEL_HOSTNAME, name),
    ]);
    labels.extend(host.config.labels.clone());
    Node {
        metadata: ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            pod_cidr: Some(host.config.pod_cidr.clone()),
            pod_cidrs: Some(vec![host.config.pod_cidr.clone()]),
            taints: Some(host.config.taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: Some(status(host)),
    }
}

/// The status as it is now; the conditions have no times yet.
pub fn status(host: &Host) -> NodeStatus {
    let machine = &host.machine;
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let resources = |memory: String| {
        let pair = |name: &str, value: String| (name.to_owned(), Quantity(value));
        BTreeMap::from([
            pair("cpu", machine.cpu.to_string()),
            pair("memory", memory),
            pair("ephemeral-storage", kibibytes(machine.storage.units())),
            pair("pods", host.config.max_pods.to_string()),
        ])
    };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", host.config.node_ip.to_string()),
            address("Hostname", host.config.node_name.clone()),
        ]),
        capacity: Some(resources(kibibytes(machine.memory.units()))),
        allocatable: Some(resources(kibibytes(machine.allocatable_memory.units()))),
        conditions: Some(conditions(host)),
        daemon_endpoints: host
            .config
            .kubelet_port
            .map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: port.into() }) }),
        node_info: Some(machine.info.clone()),
        images: Some(images(host)),
        ..NodeStatus::default()
    }
}

fn conditions(host: &Host) -> Vec<NodeCondition> {
    let memory = machine::available_memory_bytes().is_some_and(|bytes| bytes < MEMORY_PRESSURE_BYTES);
    let disk = host.disk.is_under_pressure();
    let condition = |type_: &str, status: bool, reason: &str, message: &str| NodeCondition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    };
    vec![
        match memory {
            true => condition(
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            false => condition(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        },
        match disk {
            true => condition("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure"),
            false => {
                condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
            }
        },
        condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
    ]
}

fn images(host: &Host) -> Vec<ContainerImage> {
    let mut images = host.images.sizes();
    images.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let one = |(reference, size_bytes)| ContainerImage {
        names: Some(vec![reference]),
        size_bytes: i64::try_from(size_bytes).ok(),
    };
    images.into_iter().take(MAX_IMAGES).map(one).collect()
}

/// Whole kibibytes, as the kubelet writes memory.
fn kibibytes(bytes: i64) -> String {
    format!("{}Ki", bytes / 1024)
}
