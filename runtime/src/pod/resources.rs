//! Requests and limits in the kernel's units, and the pod's quality-of-service class.
//!
//! Pure. Sources: <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>
//! and <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/> for
//! `oom_score_adj`.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use proa_api::resources::{cpu_limit, memory_limit, requests};
use proa_sandbox::protocol::Resources;

use crate::pod::downward::amount;
use crate::pod::observed::all_containers;

/// Microseconds of one accounting period of the CPU quota.
const PERIOD_MICROS: i64 = 100_000;
/// The smallest quota the kernel takes, in microseconds.
const MIN_QUOTA_MICROS: i64 = 1000;
/// What a pod's sandbox may use beside its containers, where the pod has limits: a tenth of a CPU for
/// starting them and writing their logs.
const SANDBOX_QUOTA_MICROS: i64 = PERIOD_MICROS / 10;
/// The same, in bytes: enough that no container ends before it has reached its own limit.
const SANDBOX_BYTES: i64 = 64 << 20;

/// A quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

/// The limits of a container's cgroup.
pub fn limits(pod: &Pod, container: &Container, node_memory_bytes: i64) -> Resources {
    let resources = container.resources.as_ref();
    let limit = |name| amount(resources.and_then(|r| r.limits.as_ref()), name);
    let request = |name| amount(resources.and_then(|r| r.requests.as_ref()), name);
    // A limit without a request asks for as much, as the API server's defaults say.
    let cpu_request = request("cpu").or_else(|| limit("cpu")).map_or(0, |a| a.millis());
    let memory_request = request("memory").or_else(|| limit("memory")).map_or(0, |a| a.units());
    let quota = limit("cpu").map(|a| a.millis()).filter(|millis| *millis > 0).map(quota_micros);
    let privileged = pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000);
    Resources {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota: quota,
        memory_bytes: limit("memory").map(|a| a.units()).filter(|bytes| *bytes > 0),
        pids: None,
        oom_score_adj: match qos(pod) {
            _ if privileged => -997,
            Qos::Guaranteed => -997,
            Qos::BestEffort => 1000,
            Qos::Burstable => burstable_score(memory_request, node_memory_bytes),
        },
    }
}

/// The limits of a pod's own cgroup, which its containers and its sandbox are in together: by these
/// pods share the node with each other. As the kubelet has them (`ResourceConfigForPod`), which has no
/// sandbox in there.
pub fn pod_limits(pod: &Pod, pids: i64) -> Resources {
    let spec = pod.spec.as_ref();
    let quota = spec.and_then(cpu_limit).filter(|millis| *millis > 0).map(quota_micros);
    let memory = spec.and_then(memory_limit).filter(|bytes| *bytes > 0);
    Resources {
        cpu_shares: Some(shares(spec.map_or(0, |spec| requests(spec).cpu_millis))),
        cpu_quota: quota.map(|micros| micros.saturating_add(SANDBOX_QUOTA_MICROS)),
        memory_bytes: memory.map(|bytes| bytes.saturating_add(SANDBOX_BYTES)),
        pids: Some(pids),
        oom_score_adj: 0,
    }
}

/// The class of a pod.
pub fn qos(pod: &Pod) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    for (_, container) in all_containers(pod) {
        let resources = container.resources.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            let (request, limit) = both(&resources, name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

fn both(resources: &ResourceRequirements, name: &str) -> (Option<i64>, Option<i64>) {
    let nonzero = |list| amount(list, name).map(|a| a.millis()).filter(|millis| *millis > 0);
    (nonzero(resources.requests.as_ref()), nonzero(resources.limits.as_ref()))
}

fn quota_micros(millis: i64) -> i64 {
    millis.saturating_mul(PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS)
}

fn shares(millis: i64) -> u64 {
    u64::try_from(millis.saturating_mul(1024) / 1000).unwrap_or(0).clamp(2, 262_144)
}

/// The larger the part of the node's memory that is asked for, the lower the score.
fn burstable_score(request_bytes: i64, node_bytes: i64) -> i32 {
    let part = i128::from(request_bytes) * 1000 / i128::from(node_bytes.max(1));
    i32::try_from(1000 - part).unwrap_or(0).clamp(3, 999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(resources: Value, class: &str, shares: u64, quota: Option<i64>, memory: Option<i64>, oom: i32) {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let found = limits(&pod, &pod.spec.as_ref().unwrap().containers[0], 1 << 30);
        assert_eq!(qos(&pod).as_str(), class);
        assert_eq!(
            (found.cpu_shares, found.cpu_quota, found.memory_bytes, found.oom_score_adj),
            (Some(shares), quota, memory, oom),
            "{resources}"
        );
    }

    #[test]
    fn kernel_units() {
        check(json!({}), "BestEffort", 2, None, None, 1000);
        check(json!({"requests": {"cpu": "250m"}}), "Burstable", 256, None, None, 999);
        check(
            json!({"limits": {"cpu": "500m", "memory": "64Mi"}}),
            "Guaranteed",
            512,
            Some(50_000),
            Some(64 << 20),
            -997,
        );
        check(json!({"limits": {"cpu": "1m"}}), "Burstable", 2, Some(1000), None, 999);
        check(json!({"requests": {"memory": "512Mi"}}), "Burstable", 2, None, None, 500);
    }

    #[test]
    fn a_pod_weighs_what_its_containers_ask_for() {
        let check = |spec: Value, shares: u64, quota: Option<i64>, memory: Option<i64>| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let found = pod_limits(&pod, 7);
            let found = (found.cpu_shares, found.cpu_quota, found.memory_bytes, found.pids);
            assert_eq!(found, (Some(shares), quota, memory, Some(7)), "{spec}");
        };
        let container = |resources: Value| json!({"name": "c", "resources": resources});
        let asks = container(json!({"requests": {"cpu": "300m"}}));
        let limited = container(json!({"limits": {"cpu": "500m", "memory": "64Mi"}}));
        check(json!({"containers": [container(json!({}))]}), 2, None, None);
        check(json!({"containers": [asks, asks]}), 614, None, None);
        check(json!({"containers": [asks, limited]}), 819, None, None);
        let memory = Some((128 << 20) + SANDBOX_BYTES);
        check(json!({"containers": [limited, limited]}), 1024, Some(110_000), memory);
        let memory = Some((64 << 20) + SANDBOX_BYTES);
        check(json!({"initContainers": [limited], "containers": [limited]}), 512, Some(60_000), memory);
        check(json!({"initContainers": [asks], "containers": [limited]}), 512, None, None);
        let tiny = container(json!({"limits": {"cpu": "1m"}}));
        check(json!({"containers": [tiny]}), 2, Some(11_000), None);
    }
}
