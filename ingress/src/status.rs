//! The status of Ingresses: the address they are reached at, once they are routed.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use crate::index::{Index, Key, key};

/// The Ingresses of ours whose status does not show `address` yet.
pub fn wanted(index: &Index, address: IpAddr) -> Vec<(Key, IpAddr)> {
    let ours = index.ingresses.values().filter(|i| index.is_ours(i));
    ours.filter(|i| !shows(i, address)).map(|i| (key(&i.metadata), address)).collect()
}

fn shows(ingress: &Ingress, address: IpAddr) -> bool {
    let shown =
        ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let [entry] = shown.map(Vec::as_slice).unwrap_or_default() else { return false };
    entry.ip == Some(address.to_string())
}

/// Writes one status. If that fails, the next change of the index tries again.
pub async fn write(client: &Client, ((namespace, name), address): (Key, IpAddr)) {
    let entry = IngressLoadBalancerIngress { ip: Some(address.to_string()), ..Default::default() };
    let patch = serde_json::json!({ "status": { "loadBalancer": { "ingress": [entry] } } });
    let api: Api<Ingress> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        tracing::debug!(kind = "Ingress", namespace, name, %error, "status not written");
    }
}
