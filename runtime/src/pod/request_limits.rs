//! What requests to a Wasm HTTP component may take, from its pod's annotations.
//!
//! Pure. An annotation is for all HTTP components of a pod, and with `.CONTAINER` after its name for
//! that container alone, which then comes first.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use proa_api::names::{ANNOTATION_INSTANCE_MEMORY, ANNOTATION_REQUEST_TIMEOUT};
use proa_api::quantity::Amount;
use proa_sandbox::protocol::{RequestLimits, WasmShape};

use crate::backoff::parse_go_duration;
use crate::pod::observed::all_containers;

/// How long a request may take whose pod does not say it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// The least memory that an instance can be given: a page of WebAssembly.
const LEAST_MEMORY: i64 = 64 << 10;

/// The limits of one container. `node_address` is where the node's health checks come from.
pub fn request_limits(
    pod: &Pod,
    container: &str,
    shape: WasmShape,
    node_address: IpAddr,
) -> Result<RequestLimits, String> {
    refuse_lost(pod, container, shape == WasmShape::Http)?;
    let timeout = match of(pod, container, ANNOTATION_REQUEST_TIMEOUT) {
        Some((name, text)) => {
            let wrong = format!("metadata.annotations[{name}]: {text:?} is not a duration such as 30s or 5m");
            parse_go_duration(text).ok_or(wrong)?
        }
        None => DEFAULT_TIMEOUT,
    };
    let memory = of(pod, container, ANNOTATION_INSTANCE_MEMORY).map(|(name, text)| {
        let bytes = Amount::parse(text).ok().map(Amount::units).filter(|bytes| *bytes >= LEAST_MEMORY);
        bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(|| {
            format!("metadata.annotations[{name}]: {text:?} is not an amount of memory of 64Ki or more")
        })
    });
    Ok(RequestLimits {
        // Zero is no limit, which is not what a fraction of a millisecond asks for.
        timeout_ms: u64::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
        instance_memory_bytes: memory.transpose()?,
        node_address: Some(node_address),
    })
}

/// The annotation of this name that counts for a container, with its whole name.
fn of<'a>(pod: &'a Pod, container: &str, name: &str) -> Option<(&'a str, &'a str)> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let own = annotations.get_key_value(&format!("{name}.{container}"));
    own.or_else(|| annotations.get_key_value(name)).map(|(name, text)| (name.as_str(), text.as_str()))
}

/// Refuses what names a container that is not there or, as this one may, serves no requests: it would
/// be silently lost.
pub fn refuse_lost(pod: &Pod, container: &str, serves_requests: bool) -> Result<(), String> {
    let names = pod.metadata.annotations.iter().flatten().map(|(name, _)| name);
    for name in names {
        let named = [ANNOTATION_REQUEST_TIMEOUT, ANNOTATION_INSTANCE_MEMORY]
            .iter()
            .find_map(|known| name.strip_prefix(known)?.strip_prefix('.'));
        let Some(named) = named else { continue };
        if !all_containers(pod).any(|(_, c)| c.name == named) {
            return Err(format!("metadata.annotations[{name}]: the pod has no container {named}"));
        }
        if named == container && !serves_requests {
            return Err(format!("metadata.annotations[{name}]: container {named} serves no requests"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn limits(annotations: Value, container: &str, shape: WasmShape) -> Result<RequestLimits, String> {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let pod = serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec}));
        request_limits(&pod.expect("a pod"), container, shape, [10, 42, 0, 1].into())
    }

    #[test]
    fn annotations_set_limits() {
        let check = |annotations: Value, container: &str, timeout_ms, memory| {
            let limits = limits(annotations, container, WasmShape::Http).expect("limits");
            assert_eq!((limits.timeout_ms, limits.instance_memory_bytes), (timeout_ms, memory));
            assert_eq!(limits.node_address, Some([10, 42, 0, 1].into()));
        };
        check(json!({}), "a", 300_000, None);
        check(json!({"proa.dev/request-timeout": "1m30s"}), "a", 90_000, None);
        check(json!({"proa.dev/request-timeout": "0s"}), "a", 0, None);
        let own = json!({"proa.dev/request-timeout": "2s", "proa.dev/request-timeout.b": "500ms",
            "proa.dev/instance-memory.b": "32Mi"});
        check(own.clone(), "a", 2000, None);
        check(own, "b", 500, Some(32 << 20));
        check(json!({"proa.dev/request-timeout": "1us"}), "a", 1, None);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let check = |annotations: Value, shape, want: &str| {
            assert_eq!(limits(annotations, "a", shape).expect_err("a refusal"), want);
        };
        check(
            json!({"proa.dev/request-timeout": "30"}),
            WasmShape::Http,
            "metadata.annotations[proa.dev/request-timeout]: \"30\" is not a duration such as 30s or 5m",
        );
        check(
            json!({"proa.dev/request-timeout.a": "-1s"}),
            WasmShape::Http,
            "metadata.annotations[proa.dev/request-timeout.a]: \"-1s\" is not a duration such as 30s or 5m",
        );
        for text in ["lots", "1k", "-1Mi"] {
            let want = format!(
                "metadata.annotations[proa.dev/instance-memory]: {text:?} is not an amount of memory of 64Ki or more"
            );
            check(json!({"proa.dev/instance-memory": text}), WasmShape::Http, &want);
        }
        check(
            json!({"proa.dev/request-timeout.c": "1s"}),
            WasmShape::Http,
            "metadata.annotations[proa.dev/request-timeout.c]: the pod has no container c",
        );
        check(
            json!({"proa.dev/request-timeout.a": "1s"}),
            WasmShape::Command,
            "metadata.annotations[proa.dev/request-timeout.a]: container a serves no requests",
        );
    }
}
