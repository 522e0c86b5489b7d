//! The RuntimeClass of a pod. What runs a container follows from its image; so a class whose handler
//! is one of the usual names makes no difference, and one that nobody has keeps its pod from starting.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;
use proa_api::names::RUNTIME_HANDLERS;

/// Looks for a handler of the pod's class. The error is the stock one.
pub async fn check(client: &kube::Client, pod: &Pod) -> Result<(), String> {
    let name = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(()) };
    let found = Api::<RuntimeClass>::all(client.clone()).get_opt(name).await;
    match found.map_err(|error| format!("failed to lookup RuntimeClass {name}: {error}"))? {
        Some(class) => known(&class.handler),
        // A usual name stands for itself.
        None if known(name).is_ok() => Ok(()),
        None => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
    }
}

fn known(handler: &str) -> Result<(), String> {
    if RUNTIME_HANDLERS.contains(&handler) {
        return Ok(());
    }
    let why = format!("failed to get sandbox runtime: no runtime for {handler:?} is configured");
    Err(format!("rpc error: code = Unknown desc = {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_that_isolate_more_are_not_had() {
        assert_eq!(known("spin"), Ok(()));
        for handler in ["kata", "runsc", "gvisor"] {
            assert!(known(handler).unwrap_err().ends_with("is configured"), "{handler}");
        }
    }
}
