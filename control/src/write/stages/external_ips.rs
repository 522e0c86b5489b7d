//! External addresses of Services, where they are forbidden: what the stock server's plugin
//! `DenyServiceExternalIPs` does.
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#denyserviceexternalips>

use std::collections::BTreeSet;

use proa_api::Refusal;
use proa_kinds::{Kind, Part};
use serde_json::Value;

use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// The stock server's words.
const WHY: &str = "Use of external IPs is denied by admission control.";

/// Keeps Services from external addresses.
pub struct DenyServiceExternalIPs;

impl Stage for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "Service")
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        match &attempt.operation {
            Operation::Create | Operation::Update(Part::Main) => deny(attempt.kind, attempt.old, new).into(),
            _ => Verdict::PASSED,
        }
    }
}

/// Refuses a Service that names an external address which it did not have before. What is there
/// already may stay and be taken away.
fn deny(kind: &Kind, old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    let had: BTreeSet<&str> = old.into_iter().flat_map(addresses).collect();
    if addresses(new).all(|address| had.contains(address)) {
        return Ok(());
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    Err(Refusal::forbidden(kind.resource(), name, WHY))
}

fn addresses(service: &Value) -> impl Iterator<Item = &str> {
    let all = service["spec"]["externalIPs"].as_array().into_iter().flatten();
    all.map(|address| address.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proa_kinds::built_in;
    use serde_json::json;

    use super::*;

    #[test]
    fn new_addresses_are_denied_and_old_ones_may_stay() {
        let kinds = built_in::table();
        let kind = kinds.by_kind("v1", "Service").unwrap();
        let service = |addresses: Option<&[&str]>| {
            let spec = addresses.map_or(json!({}), |a| json!({ "externalIPs": a }));
            json!({ "metadata": { "name": "s" }, "spec": spec })
        };
        for (old, new, allowed) in [
            (None, service(None), true),
            (None, service(Some(&[])), true),
            (None, service(Some(&["192.0.2.1"])), false),
            (Some(service(None)), service(Some(&["192.0.2.1"])), false),
            (Some(service(Some(&["192.0.2.1"]))), service(Some(&["192.0.2.1"])), true),
            (Some(service(Some(&["192.0.2.1", "192.0.2.2"]))), service(Some(&["192.0.2.2"])), true),
            (Some(service(Some(&["192.0.2.1"]))), service(Some(&["192.0.2.1", "192.0.2.2"])), false),
        ] {
            let refused = deny(kind, old.as_ref(), &new).err().map(|refusal| refusal.to_string());
            let words = "services \"s\" is forbidden: Use of external IPs is denied by admission control.";
            assert_eq!(refused.as_deref(), (!allowed).then_some(words), "{old:?} {new}");
        }
    }
}
