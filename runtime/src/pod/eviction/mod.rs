//! Whether a pod has more on the node's disk than it may: then the node ends it, as the kubelet
//! does. Whose end helps when the disk is short is in `rank`.
//!
//! Fed by the pod's worker with what `measure` has found; the decision is pure. It is made for pods
//! that have such limits. What lies in memory is limited by the kernel.
//! Sources: <https://kubernetes.io/docs/concepts/storage/ephemeral-storage/> and, for order and
//! texts, the kubelet's eviction manager.

pub mod measure;
pub mod rank;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::quantity::{Amount, Written};
use proa_api::resources::is_sidecar;

/// `status.reason` of a pod that was ended so, and the reason of its Event.
pub const REASON: &str = "Evicted";
/// Between two looks at a pod, as with the kubelet.
pub const PERIOD: Duration = Duration::from_secs(10);
/// What the containers of such a pod have for their end.
pub const GRACE: Duration = Duration::from_secs(1);

const RESOURCE: &str = "ephemeral-storage";
/// Pods of this priority keep the cluster going, and are not ended for this.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The limits of a pod, each with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    volumes: Vec<(String, Written)>,
    pod: Option<Written>,
    containers: Vec<(String, Written)>,
}

/// Bytes on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// In each `emptyDir` that is not in memory.
    pub volumes: BTreeMap<String, u64>,
    /// By each container: its logs, and what it has written beside its volumes. Without a name,
    /// what the pod's containers have written to files that all of them have.
    pub containers: BTreeMap<String, u64>,
}

impl Used {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.volumes.values().chain(self.containers.values()).fold(0, |sum: u64, n| sum.saturating_add(*n))
    }
}

/// True for pods that keep the cluster going.
pub fn is_critical(spec: &PodSpec) -> bool {
    spec.priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

/// A pod's limits, if it has any that the node has to watch.
pub fn limits(pod: &Pod) -> Option<Limits> {
    let spec = pod.spec.as_ref()?;
    if is_critical(spec) {
        return None;
    }
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| {
        let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() != Some("Memory"))?;
        Some((volume.name.clone(), positive(source.size_limit.as_ref())?))
    });
    let containers = spec.containers.iter();
    let limits = Limits {
        volumes: volumes.collect(),
        pod: of_pod(spec),
        containers: containers.filter_map(|c| Some((c.name.clone(), of_container(c)?))).collect(),
    };
    (!limits.volumes.is_empty() || limits.pod.is_some()).then_some(limits)
}

/// The message of the first limit that is exceeded.
pub fn exceeded(limits: &Limits, used: &Used) -> Option<String> {
    let over = |limit: &Written, used: u64| {
        Amount::from_units(i64::try_from(used).unwrap_or(i64::MAX)) > limit.amount()
    };
    let of = |map: &BTreeMap<String, u64>, name: &String| map.get(name).copied().unwrap_or(0);
    if let Some((name, limit)) =
        limits.volumes.iter().find(|(name, limit)| over(limit, of(&used.volumes, name)))
    {
        return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "));
    }
    if let Some(limit) = limits.pod.filter(|limit| over(limit, used.total())) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    let mut containers = limits.containers.iter();
    let (name, limit) = containers.find(|(name, limit)| over(limit, of(&used.containers, name)))?;
    Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "))
}

/// What a pod's containers may have together; `None` if none has a limit.
fn of_pod(spec: &PodSpec) -> Option<Written> {
    let nothing = Written::count(0);
    let (mut sidecars, mut initial) = (nothing, nothing);
    for container in spec.init_containers.iter().flatten() {
        let with_sidecars = sidecars + of_container(container).unwrap_or(nothing);
        initial = initial.max(with_sidecars);
        if is_sidecar(container) {
            sidecars = with_sidecars;
        }
    }
    let main = |sum, container| sum + of_container(container).unwrap_or(nothing);
    let total = spec.containers.iter().fold(sidecars, main).max(initial);
    let overhead = positive(spec.overhead.as_ref().and_then(|list| list.get(RESOURCE)));
    (total != nothing).then(|| total + overhead.unwrap_or(nothing))
}

fn of_container(container: &Container) -> Option<Written> {
    let limits = |resources: &ResourceRequirements| positive(resources.limits.as_ref()?.get(RESOURCE));
    limits(container.resources.as_ref()?)
}

/// A limit of nothing is none.
fn positive(quantity: Option<&Quantity>) -> Option<Written> {
    Written::parse(&quantity?.0).ok().filter(|limit| limit.amount() > Amount::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(name: &str, limit: &str) -> Value {
        json!({"name": name, "resources": {"limits": {RESOURCE: limit}}})
    }

    fn check(spec: Value, volumes: &[(&str, u64)], containers: &[(&str, u64)], expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let map = |list: &[(&str, u64)]| list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let used = Used { volumes: map(volumes), containers: map(containers) };
        let found = limits(&pod).and_then(|limits| exceeded(&limits, &used));
        assert_eq!(found.as_deref(), expected, "{spec}");
    }

    #[test]
    fn whose_limit_is_exceeded() {
        const MIB: u64 = 1 << 20;
        let plain = json!([{"name": "a"}]);
        let scratch = json!({"containers": plain, "volumes": [
            {"name": "free", "emptyDir": {}}, {"name": "x", "emptyDir": {"sizeLimit": "10Mi"}},
        ]});
        check(scratch.clone(), &[("free", 99 * MIB), ("x", 10 * MIB)], &[("a", 99 * MIB)], None);
        let message = "Usage of EmptyDir volume \"x\" exceeds the limit \"10Mi\". ";
        check(scratch, &[("x", 10 * MIB + 1)], &[], Some(message));

        let two = json!({"containers": [container("a", "1Mi"), container("b", "2Mi")], "volumes": [
            {"name": "x", "emptyDir": {}},
        ]});
        check(two.clone(), &[("x", MIB)], &[("a", MIB), ("b", MIB)], None);
        let message = "Container a exceeded its local ephemeral storage limit \"1Mi\". ";
        check(two.clone(), &[], &[("a", MIB + 1)], Some(message));
        let message = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
        check(two.clone(), &[("x", MIB)], &[("a", 1), ("b", 2 * MIB)], Some(message));
        // It is looked at before the containers.
        check(two, &[], &[("a", 4 * MIB)], Some(message));

        let first = json!({"containers": [container("a", "1Mi")], "initContainers": [container("i", "2Mi")]});
        check(first.clone(), &[], &[("i", 2 * MIB)], None);
        let message = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
        check(first, &[], &[("a", MIB), ("i", 2 * MIB)], Some(message));

        let critical = json!({"containers": [container("a", "1Mi")], "priority": CRITICAL_PRIORITY});
        check(critical, &[], &[("a", 9 * MIB)], None);
    }

    #[test]
    fn only_pods_with_limits_are_watched() {
        for (spec, watched) in [
            (json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}), false),
            (json!({"containers": [container("a", "0")]}), false),
            (json!({"containers": [container("a", "1")]}), true),
            (
                json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}),
                false,
            ),
            (json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}), true),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(limits(&pod).is_some(), watched, "{pod:?}");
        }
    }
}
