//! Whether one rule allows one thing.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/role-v1/>: a rule
//! is about resources or about paths, and all of its lists must fit. Read by the index.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::Attributes;

/// Stands for every verb, group, resource or path.
pub const ALL: &str = "*";

/// True if the rule allows it.
pub fn allows(rule: &PolicyRule, what: &Attributes<'_>) -> bool {
    match *what {
        Attributes::Path { verb, path } => has_or_all(&rule.verbs, verb) && is_path(rule, path),
        Attributes::Resource { verb, group, plural, subresource, name, .. } => {
            has_or_all(&rule.verbs, verb)
                && has_or_all(list(&rule.api_groups), group)
                && list(&rule.resources).iter().any(|resource| is_resource(resource, plural, subresource))
                && is_name(rule, name)
        }
    }
}

/// A list that may be absent.
pub fn list(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// True if the pattern of a rule fits a path: exactly, or up to a trailing `*`.
pub fn path_fits(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == ALL || entry == wanted)
}

fn is_path(rule: &PolicyRule, path: &str) -> bool {
    list(&rule.non_resource_urls).iter().any(|pattern| path_fits(pattern, path))
}

/// `pods`, `pods/log`, `*/scale` or `*`. A subresource is another resource: who may read pods may
/// not read their logs.
fn is_resource(pattern: &str, plural: &str, subresource: &str) -> bool {
    if pattern == ALL {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == plural,
        Some((resource, part)) => {
            !subresource.is_empty() && part == subresource && (resource == ALL || resource == plural)
        }
    }
}

/// A rule without names is about all; one with names is not about what has no name yet, such as
/// a list.
fn is_name(rule: &PolicyRule, name: &str) -> bool {
    let names = list(&rule.resource_names);
    names.is_empty() || names.iter().any(|n| n == name)
}
