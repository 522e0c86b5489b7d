//! What workloads say of the pods and claims that they have.
//!
//! Read by their controllers and by the wakes.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};

/// True for the strategy that stops all old pods first.
pub fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// True if a claim of this name may belong to one of the set's pods.
pub fn may_own(set: &StatefulSet, claim: &str) -> bool {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
    templates.filter_map(|t| t.metadata.name.as_deref()).any(|template| {
        claim
            .strip_prefix(template)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.starts_with(name))
    })
}
