//! What is wrong with the rules of roles.

use k8s_openapi::api::rbac::v1::PolicyRule;
use proa_api::field::{FieldErrors, Path};

use crate::rbac::rule::list;

/// Reports what is wrong with the rules of a role.
pub fn validate(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut FieldErrors) {
    let path = Path::root("rules");
    for (i, rule) in rules.into_iter().flatten().enumerate() {
        validate_rule(rule, namespaced, &path.index(i), errors);
    }
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if rule.verbs.is_empty() {
        errors.required(&path.field("verbs"), "verbs must contain at least one value");
    }
    let (groups, resources) = (list(&rule.api_groups), list(&rule.resources));
    let urls = list(&rule.non_resource_urls);
    if !urls.is_empty() {
        let at = path.field("nonResourceURLs");
        if namespaced {
            errors.invalid(&at, urls.to_vec(), "namespaced rules cannot apply to non-resource URLs");
        }
        if !(groups.is_empty() && resources.is_empty() && list(&rule.resource_names).is_empty()) {
            let text = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&at, urls.to_vec(), text);
        }
        return;
    }
    if groups.is_empty() {
        errors.required(&path.field("apiGroups"), "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        errors.required(&path.field("resources"), "resource rules must supply at least one resource");
    }
}
