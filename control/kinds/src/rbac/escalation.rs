//! Nobody grants what they do not have: whether rules cover other rules, and what is missing.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>
//! Read by the API server when roles and bindings are written.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::User;
use super::rule::{self, ALL, list};

/// More than any role has that people write.
const MOST_PARTS: usize = 20_000;

/// All that can be done; who has it may aggregate whatever there is.
pub fn full_authority() -> Vec<PolicyRule> {
    let all = || vec![ALL.to_owned()];
    vec![
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..Default::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..Default::default() },
    ]
}

/// A sentence with what `granted` has and `held` has not; `None` if all is covered.
pub fn refusal(user: User<'_>, held: &[&PolicyRule], granted: &[PolicyRule]) -> Option<String> {
    // What one rule covers as a whole need not be taken apart.
    let whole = |rule: &PolicyRule| rule.resources.is_some() != rule.non_resource_urls.is_some();
    let is_covered = |rule: &&PolicyRule| whole(rule) && held.iter().any(|held| covers(held, rule));
    let granted: Vec<&PolicyRule> = granted.iter().filter(|rule| !is_covered(rule)).collect();
    if granted.iter().map(|rule| size(rule)).fold(0_usize, usize::saturating_add) > MOST_PARTS {
        return Some(format!(
            "the rules grant more than {MOST_PARTS} single permissions, which are too many to compare"
        ));
    }
    let missing = missing(held, &granted);
    if missing.is_empty() {
        return None;
    }
    let lines: BTreeSet<String> = compact(missing).iter().map(describe).collect();
    let lines = lines.into_iter().collect::<Vec<_>>().join("\n");
    Some(format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{lines}",
        user.name,
        quoted(user.groups)
    ))
}

/// The parts of `granted` that no rule of `held` covers. Each has one verb and one resource or
/// path.
fn missing(held: &[&PolicyRule], granted: &[&PolicyRule]) -> Vec<PolicyRule> {
    let parts = granted.iter().flat_map(|rule| parts(rule));
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// How many parts a rule has.
fn size(rule: &PolicyRule) -> usize {
    let resources = list(&rule.api_groups).len().saturating_mul(list(&rule.resources).len());
    let resources = resources.saturating_mul(list(&rule.resource_names).len().max(1));
    let paths = list(&rule.non_resource_urls).len();
    rule.verbs.len().saturating_mul(resources.saturating_add(paths))
}

/// A rule as rules of one verb each, about one resource and at most one name, or one path.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    let one = |text: &String| Some(vec![text.clone()]);
    let names = list(&rule.resource_names);
    let names: Vec<Option<&String>> =
        if names.is_empty() { vec![None] } else { names.iter().map(Some).collect() };
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                for name in &names {
                    parts.push(PolicyRule {
                        verbs: verbs.clone(),
                        api_groups: one(group),
                        resources: one(resource),
                        resource_names: name.and_then(one),
                        non_resource_urls: None,
                    });
                }
            }
        }
        for path in list(&rule.non_resource_urls) {
            let non_resource_urls = one(path);
            parts.push(PolicyRule { verbs: verbs.clone(), non_resource_urls, ..Default::default() });
        }
    }
    parts
}

fn covers(held: &PolicyRule, part: &PolicyRule) -> bool {
    let all_of = |held: &[String], wanted: &[String]| {
        held.iter().any(|h| h == ALL) || wanted.iter().all(|w| held.contains(w))
    };
    if !all_of(&held.verbs, &part.verbs) {
        return false;
    }
    if let Some(paths) = &part.non_resource_urls {
        let patterns = list(&held.non_resource_urls);
        return paths.iter().all(|path| patterns.iter().any(|pattern| rule::path_fits(pattern, path)));
    }
    let (held_names, names) = (list(&held.resource_names), list(&part.resource_names));
    all_of(list(&held.api_groups), list(&part.api_groups))
        && list(&part.resources).iter().all(|resource| covers_resource(list(&held.resources), resource))
        && (held_names.is_empty() || !names.is_empty() && names.iter().all(|n| held_names.contains(n)))
}

fn covers_resource(held: &[String], wanted: &str) -> bool {
    let any_part = wanted.split_once('/').map(|(_, part)| format!("*/{part}"));
    held.iter().any(|h| h == ALL || h == wanted || Some(h) == any_part.as_ref())
}

/// Puts the verbs of parts about the same thing together.
fn compact(parts: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut together: BTreeMap<(String, String, Option<String>), PolicyRule> = BTreeMap::new();
    let mut compact = Vec::new();
    for part in parts {
        let first = |list: &Option<Vec<String>>| list.as_deref().and_then(|l| l.first().cloned());
        let (Some(group), Some(resource)) = (first(&part.api_groups), first(&part.resources)) else {
            compact.push(part);
            continue;
        };
        match together.entry((group, resource, first(&part.resource_names))) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(part);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let verbs = &mut entry.get_mut().verbs;
                verbs.extend(part.verbs.into_iter().filter(|verb| !verbs.contains(verb)).collect::<Vec<_>>());
            }
        }
    }
    compact.extend(together.into_values());
    compact
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
fn describe(rule: &PolicyRule) -> String {
    let lists = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", rule.verbs.as_slice()),
    ];
    let lists = lists.iter().filter(|(_, list)| !list.is_empty());
    let lists: Vec<String> = lists.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", lists.join(", "))
}

/// `["a" "b"]`.
fn quoted(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "))
}
