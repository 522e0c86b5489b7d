//! What is wrong with requests and limits.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;

use crate::syntax::{self, NOT_NEGATIVE, report};

/// Names of a pod's claims that an error lists.
const CLAIMS_SHOWN: usize = 16;
const HUGE_PAGES: &str = "hugepages-";

/// What is wrong with a container's resources.
pub fn requirements(resources: Option<&ResourceRequirements>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(resources) = resources else { return };
    let (limits_path, requests_path) = (path.field("limits"), path.field("requests"));
    amounts(resources.limits.as_ref(), &limits_path, errors);
    amounts(resources.requests.as_ref(), &requests_path, errors);
    for (name, request) in resources.requests.iter().flatten() {
        let Ok(asked) = Amount::parse(&request.0) else { continue };
        let overcommit = is_native(name) && !name.starts_with(HUGE_PAGES);
        match resources.limits.as_ref().and_then(|limits| limits.get(name)) {
            Some(limit) => {
                let Ok(most) = Amount::parse(&limit.0) else { continue };
                let text = if asked != most && !overcommit {
                    format!("must be equal to {name} limit of {}", limit.0)
                } else if asked > most {
                    format!("must be less than or equal to {name} limit of {}", limit.0)
                } else {
                    continue;
                };
                errors.invalid(&requests_path, request.0.as_str(), text);
            }
            None if !overcommit => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
    let names = || resources.limits.iter().chain(&resources.requests).flat_map(|amounts| amounts.keys());
    let huge = names().any(|name| name.starts_with(HUGE_PAGES));
    if huge && !names().any(|name| name == "cpu" || name == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// What is wrong with the claims of a container: each is one of its pod's.
pub fn claims(
    resources: Option<&ResourceRequirements>,
    known: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let list = path.field("claims");
    let mut seen = BTreeSet::new();
    for (i, claim) in resources.into_iter().flat_map(|r| r.claims.iter().flatten()).enumerate() {
        let at = list.index(i);
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let request = claim.request.as_deref().filter(|request| !request.is_empty());
        if let Some(request) = request {
            report(syntax::label(request), &at.field("request"), request, errors);
        }
        if !seen.insert((name, request)) {
            errors.duplicate(&at, request.map_or(name.to_owned(), |request| format!("{name}/{request}")));
        }
        if !known.contains(name) {
            let names: Vec<&str> = known.iter().copied().take(CLAIMS_SHOWN).collect();
            let which = if names.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", names.join(", "))
            };
            // The stock server has the two blanks, too.
            let text = format!(" must be one of the names in pod.spec.resourceClaims{which}");
            errors.not_found_among(&at, name, text);
        }
    }
}

fn amounts(amounts: Option<&BTreeMap<String, Quantity>>, path: &Path<'_>, errors: &mut FieldErrors) {
    for (name, quantity) in amounts.into_iter().flatten() {
        let at = path.key(name);
        resource_name(name, &at, errors);
        let Ok(amount) = Amount::parse(&quantity.0) else { continue };
        if amount.is_negative() {
            errors.invalid(&at, quantity.0.as_str(), NOT_NEGATIVE);
        }
        let whole = !is_native(name) || name.starts_with(HUGE_PAGES);
        if whole && amount != Amount::from_units(amount.units()) {
            errors.invalid(&at, quantity.0.as_str(), "must be an integer");
        }
    }
}

/// True for the resources that Kubernetes itself defines.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split_once('/').is_some_and(|(domain, _)| domain.ends_with("kubernetes.io"))
}

/// What is wrong with the name of a resource of a container.
pub fn resource_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let faults = syntax::qualified_name(name);
    if !faults.is_empty() {
        report(faults, path, name, errors);
        return;
    }
    if name.contains('/') {
        // The quota of an extended resource is named `requests.<name>`, which must fit as well.
        let quota = format!("requests.{name}");
        if !is_native(name) && (name.starts_with("requests.") || !syntax::qualified_name(&quota).is_empty()) {
            errors.invalid(path, name, "doesn't follow extended resource name standard");
        }
        return;
    }
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with(HUGE_PAGES);
    if !standard {
        if !["storage", "pods", "services", "secrets", "configmaps"].contains(&name) {
            errors.invalid(path, name, "must be a standard resource type or fully qualified");
        }
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}
