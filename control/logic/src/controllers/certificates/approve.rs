//! Approval of what nodes ask for themselves.
//!
//! A bootstrapper gets the client certificate of a node that does not exist yet: with a token
//! alone nobody takes the place of a node that is there. A node gets its own client certificate
//! again, and the certificate of its own server for addresses that are its own. Everything else
//! waits for `kubectl certificate approve`.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use proa_api::names::{GROUP_BOOTSTRAPPERS, GROUP_NODES, NAMESPACE_DEFAULT};
use serde_json::json;

use crate::controllers::facts::{Key, Node};
use crate::controllers::namespace::now_json;
use crate::controllers::observed::Observed;
use crate::controllers::plan::{Change, Guard, Plan, Reference, Verb};
use crate::kinds::Part;
use crate::kinds::certificate_signing_request::request::Request;
use crate::kinds::certificate_signing_request::signers::{self, NODE_CLIENT, NODE_SERVING};
use crate::kinds::certificate_signing_request::{APPROVED, DENIED, has};

/// Decides whether a request is approved.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(csr) = seen.certificate_signing_requests.get(key) else { return plan };
    if has(csr, APPROVED) || has(csr, DENIED) {
        return plan;
    }
    let Some(message) = reason_to_approve(seen, csr) else { return plan };
    plan.act(Verb::Patch {
        target: Reference::to(&**csr),
        part: Part::Approval,
        guard: Guard::unchanged(csr.metadata.resource_version.as_deref().unwrap_or_default()),
        change: Change::Conditions(vec![json!({
            "type": APPROVED, "status": "True", "reason": "AutoApproved", "message": message,
            "lastUpdateTime": now_json(now), "lastTransitionTime": now_json(now),
        })]),
    });
    plan
}

/// The text of the approval; `None` if it is for people to decide.
fn reason_to_approve(seen: &Observed, csr: &CertificateSigningRequest) -> Option<&'static str> {
    let spec = &csr.spec;
    let request = Request::read(&spec.request.0).ok()?;
    let usages = spec.usages.as_deref().unwrap_or_default();
    signers::check(&spec.signer_name, &request, usages)?.ok()?;
    let name = signers::node_of(&request)?;
    let is_in = |group: &str| spec.groups.iter().flatten().any(|g| g == group);
    let is_itself = spec.username.as_deref() == Some(&request.common_name) && is_in(GROUP_NODES);
    match spec.signer_name.as_str() {
        NODE_CLIENT if is_itself => {
            Some("Auto approving self kubelet client certificate after SubjectAccessReview.")
        }
        NODE_CLIENT if is_in(GROUP_BOOTSTRAPPERS) && !seen.nodes.contains_key(name) => {
            Some("Auto approving kubelet client certificate after SubjectAccessReview.")
        }
        NODE_SERVING if is_itself => {
            let node = seen.nodes.get(name)?;
            let own = owns_names(node, &request) && request.ips.iter().all(|ip| owns(seen, node, *ip));
            own.then_some("Auto approving kubelet serving certificate for the node's own addresses.")
        }
        _ => None,
    }
}

/// True if all DNS names are the node's.
fn owns_names(node: &Node, request: &Request) -> bool {
    let is_name = |type_: &str| ["Hostname", "InternalDNS", "ExternalDNS"].contains(&type_);
    request.dns_names.iter().all(|name| {
        let own = node.addresses.iter().any(|a| is_name(&a.type_) && a.address == *name);
        // A host may call itself what it likes; what others are called is not for it to take.
        own && *name != "localhost" && !name.starts_with("kubernetes")
    })
}

/// True if the address is the node's and can be nobody else's: a node writes its addresses
/// itself, so that alone is not enough.
fn owns(seen: &Observed, node: &Node, ip: IpAddr) -> bool {
    let is = |text: &str| text.parse::<IpAddr>() == Ok(ip);
    let shows = |node: &Node| {
        node.addresses.iter().any(|a| (a.type_ == "InternalIP" || a.type_ == "ExternalIP") && is(&a.address))
    };
    let others = || seen.nodes.values().filter(|other| other.meta.key.name != node.meta.key.name);
    let of_service = || {
        let specs = seen.services.iter().filter_map(|(_, service)| service.spec.as_ref());
        specs.into_iter().any(|spec| spec.cluster_ips.iter().flatten().any(|text| is(text)))
    };
    let of_api = || {
        let endpoints = seen.endpoints.get(&Key::new(NAMESPACE_DEFAULT, "kubernetes"));
        let subsets = endpoints.and_then(|e| e.subsets.as_deref()).unwrap_or_default();
        subsets.iter().flat_map(|s| s.addresses.iter().flatten()).any(|address| is(&address.ip))
    };
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    !special && shows(node) && !others().any(|other| shows(other)) && !of_service() && !of_api()
}
