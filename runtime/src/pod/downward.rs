//! The downward API: fields of a pod and resources of a container as text.
//!
//! Read by `env.rs` and by downward API volumes. Pure.
//! Source: <https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::quantity::Amount;

use crate::pod::observed::all_containers;

/// What fields may refer to beyond the pod's own object.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Address of the node.
    pub host_ip: IpAddr,
    /// Address of the pod.
    pub pod_ip: IpAddr,
    /// What the node can give to pods; the value of a limit that is not set.
    pub allocatable_cpu: Amount,
    /// Bytes; see `allocatable_cpu`.
    pub allocatable_memory: Amount,
    /// Bytes that the node has, for pods and for itself.
    pub memory_capacity: Amount,
    /// Bytes; see `allocatable_cpu`.
    pub allocatable_storage: Amount,
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, facts: &Facts, selector: &ObjectFieldSelector) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match selector.field_path.as_str() {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.to_string(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.to_string(),
        path => {
            let map = match path.split_once("['") {
                Some(("metadata.labels", key)) => Some((meta.labels.as_ref(), key)),
                Some(("metadata.annotations", key)) => Some((meta.annotations.as_ref(), key)),
                _ => None,
            };
            let Some((map, Some(key))) = map.map(|(map, key)| (map, key.strip_suffix("']"))) else {
                return Err(format!("unsupported fieldPath: {path}"));
            };
            text(map.and_then(|map| map.get(key)))
        }
    })
}

/// The value of a `resourceFieldRef`, for the container it names or else for `own`.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    facts: &Facts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => all_containers(pod)
            .find(|(_, c)| c.name == name)
            .map(|(_, c)| c)
            .ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or("resourceFieldRef needs a containerName here")?,
    };
    let unknown = || format!("unsupported container resource : {}", selector.resource);
    let (list, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let wanted = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unknown()),
    };
    let fallback = match (list, name) {
        ("limits", "cpu") => facts.allocatable_cpu,
        ("limits", "memory") => facts.allocatable_memory,
        ("limits", "ephemeral-storage") => facts.allocatable_storage,
        (_, "cpu" | "memory" | "ephemeral-storage") => Amount::ZERO,
        _ if name.starts_with("hugepages-") => Amount::ZERO,
        _ => return Err(unknown()),
    };
    let amount = amount(wanted, name).unwrap_or(fallback);
    let divisor = selector.divisor.as_ref().and_then(|d| Amount::parse(&d.0).ok());
    let divisor = divisor.filter(|d| *d != Amount::ZERO).unwrap_or(Amount::from_units(1));
    // CPU is divided in thousandths, everything else in whole units; both round up.
    let (value, by) = match name {
        "cpu" => (amount.millis(), divisor.millis()),
        _ => (amount.units(), divisor.units()),
    };
    let by = by.max(1);
    Ok((value / by + i64::from(value % by > 0)).to_string())
}

/// The amount of a resource in a list.
pub fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    Amount::parse(&list?.get(name)?.0).ok()
}

/// A map as lines `key="value"`, sorted, with Go's quoting.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
