//! What objects count against ResourceQuotas, and whether a quota has room for a write.
//!
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>. [`Claim`] says what one object
//! counts, [`settle`] what a write makes of a quota, [`Count`] what a quota holds in all. The
//! registry settles within the write itself, so two writes never take the same room; it counts
//! anew only where a quota does not know yet.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuota, ResourceQuotaStatus,
    ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::quantity::Written;
use serde_json::Value;

use super::amounts::{Amounts, List, amounts, of, total};
use crate::built_in::pod::defaults::qos_class;

/// Where the class of a claim stood before the field did.
const ANNOTATION_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Resources that every container has to say something of where a quota limits them.
const MUST_SAY: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What one object counts.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    usage: Amounts,
    pod: Option<PodFacts>,
}

/// What quotas ask of a pod beside its amounts.
#[derive(Clone, Debug, Default)]
struct PodFacts {
    terminating: bool,
    best_effort: bool,
    priority_class: String,
    cross_namespace: bool,
    /// By resource, the containers that say nothing of it.
    missing: BTreeMap<&'static str, BTreeSet<String>>,
    /// True if it should have gone long ago: it is not counted any more.
    overdue: bool,
}

/// True for kinds that no quota counts: of Events there are many, and they end by themselves.
pub fn is_ignored(group: &str, plural: &str) -> bool {
    plural == "events" && matches!(group, "" | "events.k8s.io")
}

/// True for kinds whose objects may count something else after a change.
pub fn may_change(group: &str, plural: &str) -> bool {
    group.is_empty() && ["pods", "services", "persistentvolumeclaims"].contains(&plural)
}

impl Claim {
    /// What an object counts. One that does not decode, which is never stored, counts as one.
    pub fn of(group: &str, plural: &str, object: &Value, now: Timestamp) -> Claim {
        let mut claim = Claim::default();
        let count =
            if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
        claim.usage.insert(count, Written::count(1));
        if !group.is_empty() {
            return claim;
        }
        let decode = object.clone();
        match plural {
            "pods" => {
                let pod: Pod = serde_json::from_value(decode).unwrap_or_default();
                claim.add_pod(&pod, now);
            }
            "services" => claim.add_service(&serde_json::from_value(decode).unwrap_or_default()),
            "persistentvolumeclaims" => {
                claim.add_storage(&serde_json::from_value(decode).unwrap_or_default());
            }
            "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
                claim.usage.insert(plural.to_owned(), Written::count(1));
            }
            _ => {}
        }
        claim
    }

    fn add_pod(&mut self, pod: &Pod, now: Timestamp) {
        let spec = pod.spec.clone().unwrap_or_default();
        let overdue = overdue_at(pod).is_some_and(|at| at < now);
        self.pod = Some(PodFacts {
            terminating: spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0),
            best_effort: qos_class(&spec) == "BestEffort",
            priority_class: spec.priority_class_name.clone().unwrap_or_default(),
            cross_namespace: looks_across(&spec),
            missing: missing(&spec),
            overdue,
        });
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) || overdue {
            return;
        }
        self.usage.insert("pods".to_owned(), Written::count(1));
        for (name, amount) in total(&spec, List::Requests) {
            self.usage.insert(format!("requests.{name}"), amount);
            if !name.contains('/') {
                self.usage.insert(name, amount);
            }
        }
        for (name, amount) in total(&spec, List::Limits).into_iter().filter(|(name, _)| !name.contains('/')) {
            self.usage.insert(format!("limits.{name}"), amount);
        }
    }

    fn add_service(&mut self, service: &Service) {
        let spec = service.spec.clone().unwrap_or_default();
        let all = spec.ports.as_ref().map_or(0, Vec::len);
        let said = spec.ports.iter().flatten().filter(|port| port.node_port.unwrap_or(0) != 0).count();
        let balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let node_ports = match spec.type_.as_deref() {
            Some("NodePort") => all,
            Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => said,
            Some("LoadBalancer") => all,
            _ => 0,
        };
        let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
        for (name, count) in
            [("services", 1), ("services.loadbalancers", balanced.into()), ("services.nodeports", node_ports)]
        {
            self.usage.insert(name.to_owned(), Written::count(count));
        }
    }

    fn add_storage(&mut self, object: &PersistentVolumeClaim) {
        let spec = object.spec.clone().unwrap_or_default();
        let annotated =
            object.metadata.annotations.as_ref().and_then(|map| map.get(ANNOTATION_CLASS).cloned());
        let class = annotated.or(spec.storage_class_name).filter(|class| !class.is_empty());
        let requests = amounts(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        let counted = [
            ("persistentvolumeclaims", Some(Written::count(1))),
            ("requests.storage", requests.get("storage").copied()),
        ];
        for (name, amount) in counted {
            let Some(amount) = amount else { continue };
            self.usage.insert(name.to_owned(), amount);
            if let Some(class) = &class {
                self.usage.insert(format!("{class}{OF_CLASS}{name}"), amount);
            }
        }
    }

    /// True if the quota counts such an object at all.
    fn is_counted_by(&self, quota: &ResourceQuota) -> bool {
        let spec = quota.spec.clone().unwrap_or_default();
        let exists = |scope: String| ScopedResourceSelectorRequirement {
            scope_name: scope,
            operator: "Exists".to_owned(),
            values: None,
        };
        let selected = spec.scope_selector.and_then(|selector| selector.match_expressions);
        let scopes = spec.scopes.into_iter().flatten().map(exists).chain(selected.into_iter().flatten());
        scopes.into_iter().all(|scope| self.pod.as_ref().is_some_and(|pod| pod.is_in(&scope)))
    }
}

impl PodFacts {
    fn is_in(&self, scope: &ScopedResourceSelectorRequirement) -> bool {
        let values = scope.values.as_deref().unwrap_or_default();
        let class = &self.priority_class;
        match (scope.scope_name.as_str(), scope.operator.as_str()) {
            ("Terminating", _) => self.terminating,
            ("NotTerminating", _) => !self.terminating,
            ("BestEffort", _) => self.best_effort,
            ("NotBestEffort", _) => !self.best_effort,
            ("CrossNamespacePodAffinity", _) => self.cross_namespace,
            ("PriorityClass", "Exists") => !class.is_empty(),
            ("PriorityClass", "DoesNotExist") => class.is_empty(),
            ("PriorityClass", "In") => !class.is_empty() && values.contains(class),
            ("PriorityClass", "NotIn") => class.is_empty() || !values.contains(class),
            _ => false,
        }
    }
}

/// When a pod that is on its way out should be gone: twice its grace period after it was asked,
/// since the time that it is given is in its `deletionTimestamp` already.
fn overdue_at(pod: &Pod) -> Option<Timestamp> {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds?);
    Some(pod.metadata.deletion_timestamp.as_ref()?.0 + grace)
}

fn looks_across(spec: &PodSpec) -> bool {
    let across = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|list| !list.is_empty()) || term.namespace_selector.is_some()
    };
    let Some(affinity) = &spec.affinity else { return false };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = [
        near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let preferred = [
        near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
    ];
    required.into_iter().flatten().flatten().any(across)
        || preferred.into_iter().flatten().flatten().any(|term| across(&term.pod_affinity_term))
}

fn missing(spec: &PodSpec) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut missing: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    let whole = |list| of(spec.resources.as_ref(), list);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for name in MUST_SAY {
            let (list, resource) = match name.split_once('.') {
                Some(("limits", resource)) => (List::Limits, resource),
                Some((_, resource)) => (List::Requests, resource),
                None => (List::Requests, name),
            };
            let said = of(container.resources.as_ref(), list).contains_key(resource);
            if !said && !whole(list).contains_key(resource) {
                missing.entry(name).or_default().insert(container.name.clone());
            }
        }
    }
    missing
}

/// What a write makes of a quota: `old` is what the object counted, `new` what it counts then.
/// `None` if the quota has nothing to do with it. A status is given even where it stays the same,
/// so that whoever counts the whole meanwhile notices.
///
/// # Errors
/// Why the write is refused: the text after `… is forbidden: `.
pub fn settle(
    quota: &ResourceQuota,
    old: Option<&Claim>,
    new: Option<&Claim>,
) -> Result<Option<ResourceQuotaStatus>, String> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let mut status = quota.status.clone().unwrap_or_default();
    let hard = amounts(status.hard.as_ref());
    let creates = old.is_none();
    let old = old.filter(|claim| claim.is_counted_by(quota));
    let new = new.filter(|claim| claim.is_counted_by(quota));
    if let Some(pod) = new.and_then(|claim| claim.pod.as_ref()).filter(|_| creates) {
        let silent = pod.missing.iter().filter(|(resource, _)| hard.contains_key(**resource));
        let texts: Vec<String> = silent
            .map(|(resource, of)| {
                format!("{resource} for: {}", of.iter().cloned().collect::<Vec<_>>().join(","))
            })
            .collect();
        if !texts.is_empty() {
            return Err(format!("failed quota: {name}: must specify {}", texts.join("; ")));
        }
    }
    let wanted = amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
    let mut changed = BTreeMap::new();
    for resource in wanted.keys().chain(hard.keys()) {
        let amount = |claim: Option<&Claim>| {
            claim.and_then(|claim| claim.usage.get(resource)).copied().unwrap_or(Written::count(0))
        };
        let (before, after) = (amount(old), amount(new));
        if before.amount() != after.amount() {
            changed.insert(resource.as_str(), (before, after));
        }
    }
    let overdue = old.filter(|claim| claim.pod.as_ref().is_some_and(|pod| pod.overdue));
    if changed.is_empty() && overdue.is_none() {
        return Ok(None);
    }
    let mut used = amounts(status.used.as_ref());
    check_room(name, &changed, &used, &hard)?;
    for (resource, (before, after)) in changed {
        if let Some(used) = used.get_mut(resource) {
            *used = Written::max(*used + after - before, Written::count(0));
        }
    }
    // Nobody knows whether it was still counted: the quota has to be counted anew.
    if overdue.is_some() {
        used.retain(|resource, _| !is_of_pods(resource));
    }
    status.used = (!used.is_empty()).then(|| written(used));
    Ok(Some(status))
}

fn check_room(
    name: &str,
    changed: &BTreeMap<&str, (Written, Written)>,
    used: &Amounts,
    hard: &Amounts,
) -> Result<(), String> {
    let more = changed.iter().filter(|(_, (before, after))| after.amount() > before.amount());
    let limited: Vec<(&str, Written)> = more
        .filter(|(resource, _)| hard.contains_key(**resource))
        .map(|(resource, (before, after))| (*resource, *after - *before))
        .collect();
    let unknown: Vec<&str> = limited
        .iter()
        .map(|(resource, _)| *resource)
        .filter(|resource| !used.contains_key(*resource))
        .collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let over: Vec<(&str, Written)> = limited
        .into_iter()
        .filter(|(resource, more)| (used[*resource] + *more).amount() > hard[*resource].amount())
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let list = |amount: &dyn Fn(&(&str, Written)) -> Written| {
        over.iter().map(|one| format!("{}={}", one.0, amount(one))).collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(&|one| one.1),
        list(&|one| used[one.0]),
        list(&|one| hard[one.0])
    ))
}

fn written(amounts: Amounts) -> BTreeMap<String, Quantity> {
    amounts.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect()
}

/// True if pods count the resource.
fn is_of_pods(resource: &str) -> bool {
    holder(resource) == ("pods", "")
}

/// Plural and group of the kind whose objects count a resource.
fn holder(resource: &str) -> (&str, &str) {
    if let Some(counted) = resource.strip_prefix("count/") {
        return counted.split_once('.').unwrap_or((counted, ""));
    }
    match resource {
        "services" | "services.loadbalancers" | "services.nodeports" => ("services", ""),
        "persistentvolumeclaims" | "requests.storage" => ("persistentvolumeclaims", ""),
        _ if resource.contains(OF_CLASS) => ("persistentvolumeclaims", ""),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => (resource, ""),
        _ => ("pods", ""),
    }
}

/// True if a quota knows what it holds of all that it limits.
pub fn is_known(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let status = quota.status.clone().unwrap_or_default();
    let used = status.used.unwrap_or_default();
    status.hard.unwrap_or_default() == hard && hard.keys().all(|resource| used.contains_key(resource))
}

/// Counts anew what a quota holds.
pub struct Count<'a> {
    quota: &'a ResourceQuota,
    used: Amounts,
}

impl<'a> Count<'a> {
    /// Nothing is counted yet.
    pub fn new(quota: &'a ResourceQuota) -> Self {
        let hard = amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
        Count { quota, used: hard.into_keys().map(|resource| (resource, Written::count(0))).collect() }
    }

    /// Plural and group of the kinds to show to [`Count::add`].
    pub fn kinds(&self) -> BTreeSet<(String, String)> {
        self.used
            .keys()
            .map(|r| holder(r))
            .map(|(plural, group)| (plural.to_owned(), group.to_owned()))
            .collect()
    }

    /// Counts one object.
    pub fn add(&mut self, claim: &Claim) {
        if !claim.is_counted_by(self.quota) {
            return;
        }
        for (resource, used) in &mut self.used {
            if let Some(amount) = claim.usage.get(resource) {
                *used = *used + *amount;
            }
        }
    }

    /// The status of the quota.
    pub fn status(self) -> ResourceQuotaStatus {
        let hard = self.quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        let hard = hard.filter(|hard| !hard.is_empty());
        ResourceQuotaStatus { used: hard.is_some().then(|| written(self.used)), hard }
    }
}

#[cfg(test)]
mod tests;
