//! What is told of the pods of a namespace whose level changes: they run on, and their like will not
//! come again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::{LevelVersion, evaluate};

/// So many pods are looked at.
pub const MAX_PODS: usize = 3000;

/// The warnings. `total` is how many pods there are, of which `pods` are the first.
pub fn warnings(namespace: &str, mode: LevelVersion, pods: &[Pod], total: usize) -> Vec<String> {
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods {
        let violations = evaluate(mode, pod);
        if !violations.is_empty() {
            found
                .entry(violations.reasons())
                .or_default()
                .push(pod.metadata.name.as_deref().unwrap_or_default());
        }
    }
    let mut warnings = Vec::new();
    if pods.len() < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {} of {total} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {:?}",
            mode.to_string()
        ));
    }
    let mut each: Vec<String> = found.into_iter().map(|(reasons, names)| told(&reasons, &names)).collect();
    each.sort();
    warnings.extend(each);
    warnings
}

fn told(reasons: &str, names: &[&str]) -> String {
    let first = names.iter().min().copied().unwrap_or_default();
    match names.len() {
        1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        many => format!("{first} (and {} other pods): {reasons}", many - 1),
    }
}
