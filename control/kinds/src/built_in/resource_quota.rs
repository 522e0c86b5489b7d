//! ResourceQuota: how much of what a namespace may hold.
//!
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>. What counts how much is in
//! `admission/quota`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;
use serde_json::Value;

use crate::Kind;
use crate::columns::{age, column, name};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, NOT_NEGATIVE, report};

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");

/// What objects count: their names in quotas that are older than `count/…`.
const COUNTS: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// What pods count beside themselves.
const COMPUTE: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const STORAGE: [&str; 4] =
    ["ephemeral-storage", "requests.ephemeral-storage", "limits.ephemeral-storage", "requests.storage"];
const SCOPES: [&str; 6] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
];
/// Scopes that no pod is in both of.
const OPPOSITES: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// The rules of ResourceQuotas.
pub struct ResourceQuotas;

/// The row of ResourceQuotas.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["quota".into()],
        columns: vec![
            name(),
            column("Request", "string", "Used and allowed requests and counts.", |o, _| {
                amounts(o, false).into()
            }),
            column("Limit", "string", "Used and allowed limits.", |o, _| amounts(o, true).into()),
            age(),
        ],
        ..row::<ResourceQuotas>()
    }
}

/// `pods: 1/2, requests.cpu: 0/1`: of the limits, or of all else.
fn amounts(object: &Value, limits: bool) -> String {
    let hard = object.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten();
    let mut texts: Vec<String> = hard
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = object["status"]["used"][name].as_str().unwrap_or("0");
            format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"))
        })
        .collect();
    texts.sort();
    texts.join(", ")
}

impl TypedRules for ResourceQuotas {
    type Object = ResourceQuota;
    const HAS_STATUS: bool = true;

    fn default(quota: &mut ResourceQuota) {
        quota.spec.get_or_insert_default();
        quota.status.get_or_insert_default();
    }

    fn validate(quota: &ResourceQuota, errors: &mut FieldErrors) {
        let Some(spec) = &quota.spec else { return };
        quantities(spec.hard.as_ref(), &SPEC.field("hard"), errors);
        scopes(spec, errors);
        scope_selector(spec, errors);
    }

    fn validate_update(old: &ResourceQuota, new: &ResourceQuota, errors: &mut FieldErrors) {
        let scopes = |quota: &ResourceQuota| {
            let mut list = quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default();
            list.sort();
            list
        };
        if scopes(old) != scopes(new) {
            errors.invalid(&SPEC.field("scopes"), scopes(new), IMMUTABLE);
        }
    }

    fn validate_status_update(_old: &ResourceQuota, new: &ResourceQuota, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        quantities(status.hard.as_ref(), &STATUS.field("hard"), errors);
        quantities(status.used.as_ref(), &STATUS.field("used"), errors);
    }
}

fn quantities(map: Option<&BTreeMap<String, Quantity>>, path: &Path<'_>, errors: &mut FieldErrors) {
    for (name, quantity) in map.into_iter().flatten() {
        let at = path.key(name);
        report(syntax::qualified_name(name), &at, name, errors);
        if !name.contains('/') && !is_standard(name) {
            errors.invalid(&at, name.as_str(), "must be a standard resource type or fully qualified");
            errors.invalid(&at, name.as_str(), "must be a standard resource for quota");
        }
        let Ok(amount) = Amount::parse(&quantity.0) else { continue };
        if amount.is_negative() {
            errors.invalid(&at, quantity.0.as_str(), NOT_NEGATIVE);
        }
        let whole = COUNTS.contains(&name.as_str()) || name.starts_with("count/");
        if whole && amount != Amount::from_units(amount.units()) {
            errors.invalid(&at, quantity.0.as_str(), "must be an integer");
        }
    }
}

fn is_standard(name: &str) -> bool {
    COUNTS.contains(&name)
        || COMPUTE.contains(&name)
        || STORAGE.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// True if a scope has a meaning for a resource: all are about pods.
fn fits(scope: &str, resource: &str) -> bool {
    !is_standard(resource) || resource == "pods" || scope != "BestEffort" && COMPUTE.contains(&resource)
}

/// True if each scope has a meaning for each resource of the quota.
fn all_fit<'a>(scopes: impl Iterator<Item = &'a String>, spec: &ResourceQuotaSpec) -> bool {
    let distinct: BTreeSet<&str> =
        scopes.map(String::as_str).filter(|scope| SCOPES.contains(scope)).collect();
    let fits_all = |scope: &&str| spec.hard.iter().flatten().all(|(resource, _)| fits(scope, resource));
    distinct.iter().all(fits_all)
}

fn scopes(spec: &ResourceQuotaSpec, errors: &mut FieldErrors) {
    let Some(scopes) = &spec.scopes else { return };
    let path = SPEC.field("scopes");
    let all = || scopes.to_vec();
    // Each of these shows all scopes, so one time is enough.
    if scopes.iter().any(|scope| !SCOPES.contains(&scope.as_str())) {
        errors.invalid(&path, all(), "unsupported scope");
    }
    if !all_fit(scopes.iter(), spec) {
        errors.invalid(&path, all(), "unsupported scope applied to resource");
    }
    let has = |scope: &str| scopes.iter().any(|one| one == scope);
    if OPPOSITES.iter().any(|pair| pair.iter().all(|scope| has(scope))) {
        errors.invalid(&path, all(), "conflicting scopes");
    }
}

fn scope_selector(spec: &ResourceQuotaSpec, errors: &mut FieldErrors) {
    let Some(selector) = &spec.scope_selector else { return };
    let root = SPEC.field("scopeSelector");
    let path = root.field("matchExpressions");
    let whole = || serde_json::to_value(selector).unwrap_or_default();
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    for requirement in requirements {
        if !SCOPES.contains(&requirement.scope_name.as_str()) {
            errors.invalid(&path.field("scopeName"), requirement.scope_name.as_str(), "unsupported scope");
        }
        scope_requirement(requirement, &path, errors);
    }
    if !all_fit(requirements.iter().map(|requirement| &requirement.scope_name), spec) {
        errors.invalid(&path, whole(), "unsupported scope applied to resource");
    }
    let has = |scope: &str| requirements.iter().any(|one| one.scope_name == scope);
    if OPPOSITES.iter().any(|pair| pair.iter().all(|scope| has(scope))) {
        errors.invalid(&path, whole(), "conflicting scopes");
    }
}

fn scope_requirement(
    requirement: &ScopedResourceSelectorRequirement,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (operator, scope) = (requirement.operator.as_str(), requirement.scope_name.as_str());
    if SCOPES.contains(&scope) && scope != "PriorityClass" && operator != "Exists" {
        let text = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                    ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                    ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&path.field("operator"), operator, text);
    }
    let values = requirement.values.clone().unwrap_or_default();
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &path.field("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
            &path.field("values"),
            values,
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.field("operator"), other, "not a valid selector operator"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const BASE: &str = "{apiVersion: v1, kind: ResourceQuota, \
                        spec: {hard: {pods: 2, requests.cpu: 0.5, count/deployments.apps: 3}}}";
    const SCOPED: &str =
        "{apiVersion: v1, kind: ResourceQuota, spec: {hard: {pods: 2}, scopes: [BestEffort]}}";

    #[test]
    fn rules() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: ResourceQuota
            metadata:
              name: x
              namespace: default
            spec:
              hard:
                count/deployments.apps: '3'
                pods: '2'
                requests.cpu: 500m
            status: {}
        "#]],
        );
        refusals(
            BASE,
            &[
                "{spec: {hard: {pods: 1.5, services: -1, count/pods: 0.5}}}",
                "{spec: {hard: {bogus: 1}}}",
                "{spec: {hard: {gold.storageclass.storage.k8s.io/requests.storage: 1Gi, requests.nvidia.com/gpu: 4}}}",
                "{spec: {scopes: [BestEffort]}}",
                "{spec: {scopes: [Terminating, NotTerminating, Sometimes]}}",
                "{spec: {scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [a]}]}}}",
                "{spec: {scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}, \
                 {scopeName: Terminating, operator: In, values: [a]}, {scopeName: x, operator: Like}, \
                 {scopeName: PriorityClass, operator: Exists, values: [a]}]}}}",
            ],
            expect![[r#"
                spec.hard[count/pods]: Invalid value: "500m": must be an integer
                spec.hard[pods]: Invalid value: "1500m": must be an integer
                spec.hard[services]: Invalid value: "-1": must be greater than or equal to 0
                spec.hard[bogus]: Invalid value: "bogus": must be a standard resource type or fully qualified
                spec.hard[bogus]: Invalid value: "bogus": must be a standard resource for quota
                accepted: {"spec":{"hard":{"gold.storageclass.storage.k8s.io/requests.storage":"1Gi","requests.nvidia.com/gpu":4}}}
                spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource
                spec.scopes: Invalid value: ["Terminating","NotTerminating","Sometimes"]: unsupported scope
                spec.scopes: Invalid value: ["Terminating","NotTerminating","Sometimes"]: conflicting scopes
                accepted: {"spec":{"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["a"]}]}}}
                spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector
                spec.scopeSelector.matchExpressions.operator: Invalid value: "In": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity
                spec.scopeSelector.matchExpressions.scopeName: Invalid value: "x": unsupported scope
                spec.scopeSelector.matchExpressions.operator: Invalid value: "Like": not a valid selector operator
                spec.scopeSelector.matchExpressions.values: Invalid value: ["a"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector
            "#]],
        );
        refusals(
            SCOPED,
            &["{}", "{spec: {hard: {cpu: 1}}}", "{spec: {hard: {services: 1}}}"],
            expect![[r#"
            accepted: {}
            spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource
            spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource
        "#]],
        );
        update_refusals(
            SCOPED,
            &["{spec: {hard: {pods: 7}}}", "{spec: {scopes: null}}"],
            expect![[r#"
            accepted: {"spec":{"hard":{"pods":7}}}
            spec.scopes: Invalid value: []: field is immutable
        "#]],
        );
    }
}
