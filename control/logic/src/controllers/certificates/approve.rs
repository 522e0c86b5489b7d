//! Approval of what nodes ask for themselves.
//!
//! A bootstrapper gets the client certificate of a node that does not exist yet: with a token
//! alone nobody takes the place of a node that is there. A node gets its own client certificate
//! again, and the certificate of its own server for its name and for addresses that are its own.
//! Everything else waits for `kubectl certificate approve`.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Service;
use proa_api::names::{GROUP_BOOTSTRAPPERS, GROUP_NODES, NAMESPACE_DEFAULT};
use serde_json::json;

use crate::controllers::namespace::now_json;
use crate::controllers::node_ipam::Range;
use crate::world::facts::{Key, Node};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use crate::world::settings::ClusterSettings;
use proa_kinds::Part;
use proa_kinds::built_in::certificate_signing_request::request::Request;
use proa_kinds::built_in::certificate_signing_request::signers::{self, NODE_CLIENT, NODE_SERVING};
use proa_kinds::built_in::certificate_signing_request::{APPROVED, DENIED, has};

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
        part: Part::APPROVAL,
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
            let own = request.dns_names.iter().all(|dns_name| owns_name(&seen.settings, name, dns_name))
                && request.ips.iter().all(|ip| owns(seen, node, *ip));
            own.then_some("Auto approving kubelet serving certificate for the node's own addresses.")
        }
        _ => None,
    }
}

/// True if the DNS name is the node's name and can be nobody else's. What else a node says that it
/// is called is for people to believe. The name of a node is in lower case and has no wildcard.
fn owns_name(settings: &ClusterSettings, node: &str, name: &str) -> bool {
    let domain = settings.cluster_domain.to_ascii_lowercase();
    let is_below =
        |domain: &str| !domain.is_empty() && (name == domain || name.ends_with(&format!(".{domain}")));
    // Pods also find Services by less than their whole names, such as `kubernetes.default.svc`.
    let of_service =
        name.split('.').any(|label| label == "svc") || name.split('.').next() == Some("kubernetes");
    let of_api = settings.api_names.iter().any(|api| api.eq_ignore_ascii_case(name));
    name == node && !is_below("localhost") && !is_below(&domain) && !of_service && !of_api
}

/// True if the address is the node's and can be nobody else's: a node writes its addresses
/// itself, so that alone is not enough.
fn owns(seen: &Observed, node: &Node, ip: IpAddr) -> bool {
    // 127.0.0.1 is also written ::ffff:127.0.0.1.
    let ip = ip.to_canonical();
    let is = |text: &str| text.parse::<IpAddr>().is_ok_and(|parsed| parsed.to_canonical() == ip);
    let shows = |node: &Node| {
        node.addresses.iter().any(|a| (a.type_ == "InternalIP" || a.type_ == "ExternalIP") && is(&a.address))
    };
    let others = || seen.nodes.values().filter(|other| other.meta.key.name != node.meta.key.name);
    let of_service = || seen.services.iter().any(|(_, service)| service_addresses(service).any(is));
    let of_api = || {
        let endpoints = seen.endpoints.get(&Key::new(NAMESPACE_DEFAULT, "kubernetes"));
        let subsets = endpoints.and_then(|e| e.subsets.as_deref()).unwrap_or_default();
        let serving = subsets.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.ip.as_str());
        serving.chain(seen.settings.api_names.iter().map(String::as_str)).any(is)
    };
    let in_cluster = [&seen.settings.cluster_cidr, &seen.settings.service_cidr]
        .into_iter()
        .filter_map(|text| Range::parse(text))
        .any(|range| range.contains(ip));
    !is_special(ip)
        && !in_cluster
        && shows(node)
        && !others().any(|other| shows(other))
        && !of_service()
        && !of_api()
}

/// All addresses that lead to a Service.
fn service_addresses(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.as_ref();
    let given = spec.into_iter().flat_map(|s| s.cluster_ips.iter().chain(&s.external_ips).flatten());
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let balanced =
        balancer.into_iter().flat_map(|b| b.ingress.iter().flatten()).filter_map(|i| i.ip.as_ref());
    given.chain(balanced).map(String::as_str)
}

/// True for addresses that are not one machine's in the whole network.
fn is_special(ip: IpAddr) -> bool {
    let of_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || of_link
}
