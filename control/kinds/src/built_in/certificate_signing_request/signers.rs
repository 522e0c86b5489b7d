//! The signers of `kubernetes.io`: what each of them signs.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers>.
//! Read by the controllers that approve and sign, and by admission.

use proa_api::names::{GROUP_NODES, NODE_USER_PREFIX};

use super::request::Request;

/// Client certificates for whoever an administrator says.
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The client certificates of nodes.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The certificates of nodes' own servers.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Members may do everything, so nobody becomes one by asking.
pub const GROUP_MASTERS: &str = "system:masters";

/// What is wrong with a request to one of the signers here, in the words of the stock controller.
/// `None` for signers that are somebody else.
pub fn check(signer: &str, request: &Request, usages: &[String]) -> Option<Result<(), String>> {
    match signer {
        API_CLIENT => Some(check_api_client(request, usages)),
        NODE_CLIENT => Some(check_node_client(request, usages)),
        NODE_SERVING => Some(check_node_serving(request, usages)),
        _ => None,
    }
}

/// The node that a request is about, if its subject is a node's.
pub fn node_of(request: &Request) -> Option<&str> {
    request.common_name.strip_prefix(NODE_USER_PREFIX).filter(|name| !name.is_empty())
}

fn check_api_client(request: &Request, usages: &[String]) -> Result<(), String> {
    if request.organizations.iter().any(|group| group == GROUP_MASTERS) {
        return Err(format!("use of {API_CLIENT} signer with {GROUP_MASTERS} group is not allowed"));
    }
    check_usages(usages, &["client auth"], &["digital signature", "key encipherment"])
}

fn check_node_client(request: &Request, usages: &[String]) -> Result<(), String> {
    check_subject(request)?;
    for (names, kind) in [(!request.dns_names.is_empty(), "DNS"), (!request.emails.is_empty(), "Email")] {
        if names {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
    }
    for (names, kind) in [(!request.ips.is_empty(), "IP"), (!request.uris.is_empty(), "URI")] {
        if names {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
    }
    check_usages(usages, &["client auth", "digital signature"], &["key encipherment"])
}

fn check_node_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    check_subject(request)?;
    if request.dns_names.is_empty() && request.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for (names, kind) in [(!request.emails.is_empty(), "Email"), (!request.uris.is_empty(), "URI")] {
        if names {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
    }
    check_usages(usages, &["digital signature", "server auth"], &["key encipherment"])
}

fn check_subject(request: &Request) -> Result<(), String> {
    if request.organizations != [GROUP_NODES] {
        return Err(format!("subject organization is not {GROUP_NODES}"));
    }
    match node_of(request) {
        Some(_) => Ok(()),
        None => Err(format!("subject common name does not begin with {NODE_USER_PREFIX}")),
    }
}

/// All that is required and nothing that is neither required nor allowed.
fn check_usages(usages: &[String], required: &[&str], allowed: &[&str]) -> Result<(), String> {
    let has_all = required.iter().all(|usage| usages.iter().any(|u| u == usage));
    let only = usages.iter().all(|u| required.contains(&u.as_str()) || allowed.contains(&u.as_str()));
    if has_all && only { Ok(()) } else { Err(format!("usages did not match [{}]", required.join(" "))) }
}
