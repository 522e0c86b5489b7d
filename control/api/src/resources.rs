//! Resources: what pods ask for and nodes offer, as integers that can be added.
//!
//! Rules: <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/> and,
//! for init containers,
//! <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers>.

use std::collections::BTreeMap;

use crate::quantity::Amount;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts of the resources that the scheduler counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local disk.
    pub ephemeral_bytes: i64,
    /// Pods.
    pub pods: i64,
    /// Everything else by name, such as `example.com/gpu`.
    pub extended: BTreeMap<String, i64>,
}

/// What a pod counts for when nodes are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weighed {
    /// Thousandths of a CPU.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
}

/// A container that asks for no CPU counts as this much when nodes are compared, as in the stock
/// scheduler: else all such pods would crowd on one node.
const UNSTATED_CPU_MILLIS: i64 = 100;
/// The same for memory.
const UNSTATED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The address; `0.0.0.0` is all of them.
    pub ip: Box<str>,
}

impl HostPort {
    /// True if both cannot be on one node.
    pub fn conflicts_with(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == "0.0.0.0" || &*other.ip == "0.0.0.0")
    }
}

impl Resources {
    /// The amounts in a list of quantities. What cannot be parsed, which validation keeps out,
    /// counts as nothing.
    pub fn of(list: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in list {
            let amount = Amount::parse(&quantity.0).unwrap_or_default();
            match name.as_str() {
                "cpu" => resources.cpu_millis = amount.millis(),
                "memory" => resources.memory_bytes = amount.units(),
                "ephemeral-storage" => resources.ephemeral_bytes = amount.units(),
                "pods" => resources.pods = amount.units(),
                _ => {
                    resources.extended.insert(name.clone(), amount.units());
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
        self.extended.retain(|_, amount| *amount != 0);
    }

    fn raise_to(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Resources, with: fn(i64, i64) -> i64) {
        self.cpu_millis = with(self.cpu_millis, other.cpu_millis);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// What a pod asks of its node: the sum of its containers, or what its hungriest init container
/// needs beside the sidecars started before it, plus the overhead. The pod's own `resources`
/// take the place of the sum where they are given.
pub fn requests(spec: &PodSpec) -> Resources {
    total(spec, of_container, spec.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// Bytes of memory that a pod's containers may have together, if each of them has a limit, or the
/// pod itself.
pub fn memory_limit(spec: &PodSpec) -> Option<i64> {
    limit(spec, "memory", |resources| resources.memory_bytes)
}

/// Thousandths of a CPU that they may have together, likewise.
pub fn cpu_limit(spec: &PodSpec) -> Option<i64> {
    limit(spec, "cpu", |resources| resources.cpu_millis)
}

fn limit(spec: &PodSpec, name: &str, of: fn(&Resources) -> i64) -> Option<i64> {
    let of_pod = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limits = |container: &Container| {
        let list = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        list.map(Resources::of).unwrap_or_default()
    };
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let limited = of_pod.is_some_and(|list| list.contains_key(name));
    (limited || all.all(|container| of(&limits(container)) > 0)).then(|| of(&total(spec, limits, of_pod)))
}

/// What a pod asks of its node, where each container that asks for no CPU or memory counts as asking for something.
pub fn weighed(spec: &PodSpec) -> Weighed {
    let counted = |container: &Container| {
        let mut needs = of_container(container);
        let states = |name: &str| {
            let resources = container.resources.as_ref();
            let has = |list: &Option<BTreeMap<String, Quantity>>| {
                list.as_ref().is_some_and(|l| l.contains_key(name))
            };
            resources.is_some_and(|r| has(&r.requests) || has(&r.limits))
        };
        if !states("cpu") {
            needs.cpu_millis = UNSTATED_CPU_MILLIS;
        }
        if !states("memory") {
            needs.memory_bytes = UNSTATED_MEMORY_BYTES;
        }
        needs
    };
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let total = total(spec, counted, of_pod);
    Weighed { cpu_millis: total.cpu_millis, memory_bytes: total.memory_bytes }
}

fn total(
    spec: &PodSpec,
    of_container: impl Fn(&Container) -> Resources,
    of_pod: Option<&BTreeMap<String, Quantity>>,
) -> Resources {
    let mut sidecars = Resources::default();
    let mut initial = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of_container(container);
        if is_sidecar(container) {
            sidecars.add(&needs);
            initial.raise_to(&sidecars);
        } else {
            needs.add(&sidecars);
            initial.raise_to(&needs);
        }
    }
    let mut total = sidecars;
    for container in &spec.containers {
        total.add(&of_container(container));
    }
    total.raise_to(&initial);
    if let Some(pod_level) = of_pod {
        let own = Resources::of(pod_level);
        if pod_level.contains_key("cpu") {
            total.cpu_millis = own.cpu_millis;
        }
        if pod_level.contains_key("memory") {
            total.memory_bytes = own.memory_bytes;
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::of(overhead));
    }
    total.pods = 1;
    total
}

/// True for an init container that goes on beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn of_container(container: &Container) -> Resources {
    let Some(resources) = &container.resources else { return Resources::default() };
    // Limits stand in for absent requests, as defaulting does; this holds for pods from elsewhere.
    let mut list = resources.limits.clone().unwrap_or_default();
    list.extend(resources.requests.clone().unwrap_or_default());
    Resources::of(&list)
}

/// The node's ports that a pod takes.
pub fn host_ports(spec: &PodSpec) -> Box<[HostPort]> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let on_host = spec.host_network == Some(true);
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0).or(on_host.then_some(p.container_port))?;
            let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            Some(HostPort { port, protocol: p.protocol.as_deref().unwrap_or("TCP").into(), ip: ip.into() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value, cpu_millis: i64) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(requests(&spec).cpu_millis, cpu_millis, "{spec:?}");
    }

    #[test]
    fn init_containers_count_only_where_they_need_more() {
        let c = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let side = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        check(json!({"containers": [c("100m"), c("1")]}), 1100);
        check(json!({"containers": [c("100m")], "initContainers": [c("2")]}), 2000);
        check(json!({"containers": [c("100m")], "initContainers": [side("1"), c("50m")]}), 1100);
        check(json!({"containers": [c("100m")], "initContainers": [side("1"), c("500m")]}), 1500);
        check(json!({"containers": [c("100m")], "overhead": {"cpu": "10m"}}), 110);
        check(json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "3"}}}]}), 3000);
        check(json!({"containers": [c("100m")], "resources": {"requests": {"cpu": "5"}}}), 5000);
    }

    #[test]
    fn memory_is_limited_if_every_container_is() {
        let c = |limit: &str| json!({"name": "c", "resources": {"limits": {"memory": limit}}});
        let check = |spec: serde_json::Value, expected: Option<i64>| {
            let parsed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(memory_limit(&parsed), expected, "{spec}");
        };
        check(json!({"containers": [c("1Ki"), c("2Ki")]}), Some(3 << 10));
        check(json!({"containers": [c("1Ki"), {"name": "d"}]}), None);
        check(json!({"containers": [c("1Ki")], "initContainers": [c("2Ki")]}), Some(2 << 10));
        check(json!({"containers": [c("1Ki")], "initContainers": [{"name": "d"}]}), None);
        check(
            json!({"containers": [{"name": "d"}], "resources": {"limits": {"memory": "5Ki"}}}),
            Some(5 << 10),
        );
    }

    #[test]
    fn containers_that_state_nothing_count_for_something() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [
            {"name": "a"},
            {"name": "b", "resources": {"requests": {"cpu": "1", "memory": "0"}}},
        ]}))
        .unwrap();
        let expected = Weighed { cpu_millis: 1100, memory_bytes: UNSTATED_MEMORY_BYTES };
        assert_eq!(weighed(&spec), expected);
        assert_eq!(requests(&spec).cpu_millis, 1000);
    }
}
