//! Requests and limits in the kernel's units, and the pod's quality-of-service class.
//!
//! Pure. Sources: <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>
//! and <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/> for
//! `oom_score_adj`.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use proa_sandbox::protocol::Resources;

use crate::pod::downward::amount;
use crate::pod::observed::all_containers;

/// Microseconds of one accounting period of the CPU quota.
const PERIOD_MICROS: i64 = 100_000;
/// The smallest quota the kernel takes, in microseconds.
const MIN_QUOTA_MICROS: i64 = 1000;

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
    let quota = limit("cpu")
        .map(|a| a.millis())
        .filter(|millis| *millis > 0)
        .map(|millis| millis.saturating_mul(PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS));
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
}
