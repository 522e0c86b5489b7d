//! PodSecurity: what pods may ask for, by the labels of their namespace.
//!
//! <https://kubernetes.io/docs/concepts/security/pod-security-admission/>. Fed by the registry with
//! pods, templates and the labels of namespaces; what is to be refused and warned of is for it to do.
//! Nobody and nothing is exempt.
//!
//! - [`policy`]: levels and versions, and which of them a namespace has
//! - [`check`]: the table of checks, and what they find
//! - `subject`: the pod as they see it
//! - `baseline`, `restricted`: the checks
//! - [`namespace`]: what is told of the pods of a namespace whose level changes

pub mod check;
pub mod namespace;
pub mod policy;

mod baseline;
mod restricted;
mod subject;
#[cfg(test)]
mod tests;
mod words;

use k8s_openapi::api::core::v1::Pod;

pub use check::{Found, evaluate};
pub use policy::{Level, LevelVersion, Policy};

/// What is said of a pod, or of the pods that a template makes.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// Why it is refused.
    pub refused: Option<String>,
    /// What the client is warned of.
    pub warning: Option<String>,
    /// What is to be noted for auditors.
    pub audit: Option<String>,
}

/// What the policy says of a pod. One of a template is never refused: its pods are, when they come.
pub fn decide(policy: &Policy, pod: &Pod, is_template: bool) -> Verdict {
    let found = |mode: LevelVersion| {
        let found = evaluate(mode, pod);
        (!found.is_empty()).then(|| format!("PodSecurity {:?}: {}", mode.to_string(), found.details()))
    };
    let enforced = if is_template { None } else { found(policy.enforce) };
    let would = |mode| found(mode).map(|text| format!("would violate {text}"));
    Verdict {
        audit: would(policy.audit),
        // Who is refused is not warned as well.
        warning: would(policy.warn).filter(|_| enforced.is_none()),
        refused: enforced.map(|text| format!("violates {text}")),
    }
}

/// True if a change of a pod has to be looked at: what is insecure and stays as it was is let through.
pub fn is_significant(old: &Pod, new: &Pod) -> bool {
    let profiles = |pod: &Pod| -> Vec<(String, String)> {
        let all = pod.metadata.annotations.iter().flatten();
        let of_profiles = all.filter(|(key, _)| check::is_profile_annotation(key));
        of_profiles.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let images = |pod: &Pod| -> Vec<(String, Option<String>)> {
        let spec = pod.spec.clone().unwrap_or_default();
        let plain = spec.init_containers.into_iter().flatten().chain(spec.containers);
        let plain = plain.map(|container| (container.name, container.image));
        let others = spec.ephemeral_containers.into_iter().flatten();
        plain.chain(others.map(|container| (container.name, container.image))).collect()
    };
    profiles(old) != profiles(new) || images(old) != images(new)
}
