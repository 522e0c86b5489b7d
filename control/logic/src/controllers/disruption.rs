//! Disruption: how many of the pods that a PodDisruptionBudget covers may be taken away now.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/>. The eviction API
//! spends what is computed here and notes whom it took; see `admission/eviction.rs`. It also takes
//! back the word of a pod that it is about to go, where nothing came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::owner::{controller_of, refers_to};
use proa_api::selector::Selector;
use serde_json::json;

use super::namespace::now_json;
use super::templates::resolve;
use crate::world::facts::{Key, KindName, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Verb, difference};
use proa_kinds::Part;
use proa_kinds::admission::eviction::{note_allowed, note_failure};

/// A pod that was to be deleted and is still there after this long counts again.
const PATIENCE: SignedDuration = SignedDuration::from_secs(120);

/// Decides what one PodDisruptionBudget needs.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(budget) = seen.pod_disruption_budgets.get(key) else { return plan };
    let mut problems = Vec::new();
    let pods = covered(seen, key, budget);
    if pods.is_empty() {
        problems.push(problem(budget, false, "NoPods", "No matching pods found".to_owned()));
    }
    let old = budget.status.clone().unwrap_or_default();
    let mut status = old.clone();
    match wanted(seen, budget, &pods) {
        Ok(wanted) => {
            problems.extend(wanted.unmanaged.then(|| unmanaged(budget)));
            compute(&mut status, budget, &pods, &wanted, now, &mut plan, &mut problems);
        }
        Err(why) => {
            let text = format!("Failed to calculate the number of expected pods: {why}");
            problems.push(problem(budget, true, "CalculateExpectedPodCountFailed", text));
            note_failure(&mut status, why, now);
        }
    }
    if let Some(change) = difference(&json!(old), &json!(status)) {
        plan.act(Verb::Patch {
            target: Reference::to(&**budget),
            part: Part::STATUS,
            // An eviction may have been paid meanwhile.
            guard: Guard::unchanged(budget.metadata.resource_version.as_deref().unwrap_or_default()),
            change: Change::Merge(json!({ "status": change })),
        });
        // What is noteworthy is told once, when it comes about.
        plan.problems.extend(problems);
    }
    plan
}

/// The pods that a budget selects, in any state.
fn covered<'a>(seen: &'a Observed, key: &'a Key, budget: &PodDisruptionBudget) -> Vec<&'a Arc<Pod>> {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
        return Vec::new();
    };
    let whole = Selector::from_object(Some(selector));
    let labels = selector.match_labels.clone().unwrap_or_default();
    let candidates = if labels.is_empty() {
        seen.pods.in_namespace(&key.namespace).collect()
    } else {
        seen.pods.labelled(&key.namespace, &labels)
    };
    candidates.into_iter().filter(|pod| whole.matches(Some(&pod.labels))).collect()
}

/// What a budget asks for.
struct Wanted {
    expected: i32,
    healthy: i32,
    /// True if there are pods whose controller nobody knows the size of.
    unmanaged: bool,
}

fn wanted(seen: &Observed, budget: &PodDisruptionBudget, pods: &[&Arc<Pod>]) -> Result<Wanted, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let all = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (spec.max_unavailable, spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = scale(seen, pods)?;
            let healthy = (expected - resolve(&most, expected, true)).max(0);
            Ok(Wanted { expected, healthy, unmanaged })
        }
        (None, Some(IntOrString::Int(healthy))) => Ok(Wanted { expected: all, healthy, unmanaged: false }),
        (None, Some(share)) => {
            let (expected, unmanaged) = scale(seen, pods)?;
            Ok(Wanted { expected, healthy: resolve(&share, expected, true), unmanaged })
        }
        (None, None) => Ok(Wanted { expected: 0, healthy: 0, unmanaged: false }),
    }
}

/// How many pods their controllers want, together; and whether some have none.
fn scale(seen: &Observed, pods: &[&Arc<Pod>]) -> Result<(i32, bool), String> {
    let mut scales: BTreeMap<Arc<str>, i32> = BTreeMap::new();
    let mut known: BTreeMap<&str, ()> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in pods {
        let Some(owner) = pod.meta.controller() else {
            unmanaged = true;
            continue;
        };
        if known.insert(&owner.uid, ()).is_none() {
            let (uid, replicas) = scale_of(seen, pod, owner)?;
            scales.insert(uid, replicas);
        }
    }
    Ok((scales.values().fold(0, |sum, replicas| sum.saturating_add(*replicas)), unmanaged))
}

/// The uid and size of the workload that a pod belongs to.
fn scale_of(seen: &Observed, pod: &Pod, owner: &OwnerReference) -> Result<(Arc<str>, i32), String> {
    let key = Key::new(&pod.meta.key.namespace, &owner.name);
    let is = |uid: &Option<String>| uid.as_deref() == Some(owner.uid.as_str());
    let found = |uid: &str, replicas: Option<i32>| Some((Arc::from(uid), replicas.unwrap_or(1)));
    let scale = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("apps/v1", "ReplicaSet") => {
            let set = seen.replica_sets.get(&key).filter(|set| is(&set.metadata.uid));
            set.and_then(|set| {
                match controller_of(&set.metadata).filter(|owner| refers_to::<Deployment>(owner)) {
                    Some(above) => {
                        let deployment = seen.deployments.get(&Key::new(&key.namespace, &above.name));
                        let deployment =
                            deployment.filter(|d| d.metadata.uid.as_ref() == Some(&above.uid))?;
                        found(&above.uid, deployment.spec.as_ref()?.replicas)
                    }
                    None => found(&owner.uid, set.spec.as_ref()?.replicas),
                }
            })
        }
        ("apps/v1", "StatefulSet") => {
            let set = seen.stateful_sets.get(&key).filter(|set| is(&set.metadata.uid));
            set.and_then(|set| found(&owner.uid, set.spec.as_ref()?.replicas))
        }
        ("v1", "ReplicationController") => {
            let controller = seen.replication_controllers.get(&key).filter(|c| is(&c.metadata.uid));
            controller.and_then(|c| found(&owner.uid, c.spec.as_ref()?.replicas))
        }
        (api_version, kind) => match seen.kinds.by_kind(api_version, kind) {
            Some(row) if row.scale().is_none() => {
                return Err(format!("{} does not implement the scale subresource", row.resource()));
            }
            Some(row) => {
                let size = seen.sizes.get(&(KindName::new(&row.api_version(), kind), key));
                let size = size.filter(|(meta, _)| *meta.uid == *owner.uid);
                size.and_then(|(_, size)| found(&owner.uid, i32::try_from(size.wanted).ok()))
            }
            None => None,
        },
    };
    scale.ok_or_else(|| format!("found no controllers for pod {:?}", pod.meta.key.name))
}

fn compute(
    status: &mut PodDisruptionBudgetStatus,
    budget: &PodDisruptionBudget,
    pods: &[&Arc<Pod>],
    wanted: &Wanted,
    now: Timestamp,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let noted = status.disrupted_pods.take().unwrap_or_default();
    let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.meta.deleted.is_none()) {
        let Some(at) = noted.get(&*pod.meta.key.name) else { continue };
        let until = at.0 + PATIENCE;
        if until < now {
            problems.push(not_deleted(budget, pod));
        } else {
            disrupted.insert(pod.meta.key.name.to_string(), at.clone());
            // The moment itself still counts.
            plan.look_again(until + SignedDuration::from_millis(1));
        }
    }
    let healthy = |pod: &&&Arc<Pod>| {
        pod.meta.deleted.is_none()
            && pod.ready_since.is_some()
            && !disrupted.contains_key(&*pod.meta.key.name)
    };
    let current = i32::try_from(pods.iter().filter(healthy).count()).unwrap_or(i32::MAX);
    status.current_healthy = current;
    status.desired_healthy = wanted.healthy;
    status.expected_pods = wanted.expected;
    // A budget without pods must not wave the first ones through before they are counted.
    let allowed = if wanted.expected > 0 { current - wanted.healthy } else { 0 };
    status.disruptions_allowed = allowed.max(0);
    status.disrupted_pods = (!disrupted.is_empty()).then_some(disrupted);
    status.observed_generation = budget.metadata.generation;
    note_allowed(status, now);
}

fn problem(budget: &PodDisruptionBudget, warning: bool, reason: &'static str, message: String) -> Problem {
    Problem { about: Reference::to(budget), warning, reason, message }
}

fn unmanaged(budget: &PodDisruptionBudget) -> Problem {
    let selector = Selector::from_object(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
    let text = format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a \
         result, the status of the PDB cannot be calculated correctly, which may result in undefined \
         behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an \
         integer value."
    );
    problem(budget, true, "UnmanagedPods", text)
}

fn not_deleted(budget: &PodDisruptionBudget, pod: &Pod) -> Problem {
    let key = Key::of(&budget.metadata);
    Problem {
        about: pod.meta.reference(),
        warning: true,
        reason: "NotDeleted",
        message: format!(
            "Pod was expected by PDB {}/{} to be deleted but it wasn't",
            key.namespace, key.name
        ),
    }
}

/// Decides about a pod that was said to go: if it did not for long, it is said no more.
pub fn reconcile_stale(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = seen.pods.get(key).filter(|pod| pod.is_active()) else { return plan };
    let Some(since) = pod.disrupted_since else { return plan };
    let until = since + PATIENCE;
    if now < until {
        plan.look_again(until);
        return plan;
    }
    plan.act(Verb::Patch {
        target: pod.meta.reference(),
        part: Part::STATUS,
        guard: Guard::unchanged(&pod.meta.resource_version),
        change: Change::Conditions(vec![json!({
            "type": "DisruptionTarget", "status": "False", "lastTransitionTime": now_json(now),
        })]),
    });
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::tests::{at, object, owner, seen, show, stamp};
    use super::*;
    use crate::world::facts::Object;

    fn pod(name: &str, by: Option<(&str, &str)>, ready: bool, rest: Value) -> Object {
        let mut body = rest;
        body["metadata"]["labels"] = json!({"app": "a"});
        if let Some((kind, uid)) = by {
            body["metadata"]["ownerReferences"] = json!([owner(kind, uid, true, true)]);
        }
        let status = if ready { "True" } else { "False" };
        body["status"]["phase"] = "Running".into();
        let ready = json!({"type": "Ready", "status": status, "lastTransitionTime": stamp(0)});
        match body["status"]["conditions"].as_array_mut() {
            Some(list) => list.push(ready),
            None => body["status"]["conditions"] = json!([ready]),
        }
        object("v1", "Pod", name, body)
    }

    fn set(kind: &str, name: &str, replicas: i32, by: Option<&str>) -> Object {
        let owners: Vec<Value> = by.map(|uid| owner("Deployment", uid, true, true)).into_iter().collect();
        let body = json!({
            "metadata": {"ownerReferences": owners},
            "spec": {"replicas": replicas, "selector": {}, "template": {}, "serviceName": "s"},
        });
        object("apps/v1", kind, name, body)
    }

    /// The status that a budget of this spec gets, in short.
    fn check(spec: Value, objects: Vec<Object>, expected: &str) {
        check_status(spec, json!({}), objects, expected);
    }

    fn check_status(mut spec: Value, status: Value, mut objects: Vec<Object>, expected: &str) {
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        objects.push(object(
            "policy/v1",
            "PodDisruptionBudget",
            "b",
            json!({"spec": spec, "status": status}),
        ));
        let mut seen = seen(objects);
        let plan = reconcile(&seen, &Key::new("d", "b"), at(100));
        let budget = seen.pod_disruption_budgets.get(&Key::new("d", "b")).unwrap();
        let mut after = json!(**budget);
        for action in &plan.actions {
            let Verb::Patch { change, .. } = &action.verb else { panic!("{action:?}") };
            after = change.apply(&after);
        }
        let status: PodDisruptionBudgetStatus = serde_json::from_value(after["status"].clone()).unwrap();
        let noted: Vec<&String> = status.disrupted_pods.iter().flatten().map(|(name, _)| name).collect();
        let condition = &status.conditions.as_ref().unwrap()[0];
        let reasons: Vec<&str> = plan.problems.iter().map(|problem| problem.reason).collect();
        let text = format!(
            "allowed {} healthy {}/{} of {} {} {}{noted:?} {reasons:?}",
            status.disruptions_allowed,
            status.current_healthy,
            status.desired_healthy,
            status.expected_pods,
            condition.reason,
            condition.message,
        );
        assert_eq!(text, expected);
        // What is written changes nothing more.
        after["metadata"]["resourceVersion"] = "2".into();
        let after: PodDisruptionBudget = serde_json::from_value(after).unwrap();
        seen.apply(after.into(), at(100));
        assert_eq!(show(&reconcile(&seen, &Key::new("d", "b"), at(100))), Vec::<String>::new());
    }

    #[test]
    fn budgets_count_healthy_pods() {
        let rs = |name: &str, ready: bool| pod(name, Some(("ReplicaSet", "r")), ready, json!({}));
        let three = || vec![rs("x", true), rs("y", true), rs("z", false), set("ReplicaSet", "r", 4, None)];
        check(json!({"minAvailable": 1}), three(), "allowed 1 healthy 2/1 of 3 SufficientPods [] []");
        check(json!({"minAvailable": 2}), three(), "allowed 0 healthy 2/2 of 3 InsufficientPods [] []");
        check(json!({"minAvailable": "30%"}), three(), "allowed 0 healthy 2/2 of 4 InsufficientPods [] []");
        check(json!({"minAvailable": "25%"}), three(), "allowed 1 healthy 2/1 of 4 SufficientPods [] []");
        check(json!({"maxUnavailable": 3}), three(), "allowed 1 healthy 2/1 of 4 SufficientPods [] []");
        check(json!({"maxUnavailable": "26%"}), three(), "allowed 0 healthy 2/2 of 4 InsufficientPods [] []");
        check(json!({"maxUnavailable": 9}), three(), "allowed 2 healthy 2/0 of 4 SufficientPods [] []");
        check(
            json!({"minAvailable": 0}),
            vec![],
            "allowed 0 healthy 0/0 of 0 InsufficientPods [] [\"NoPods\"]",
        );
    }

    #[test]
    fn the_size_is_that_of_the_workload_above() {
        let of =
            |kind: &'static str, uid: &'static str, name: &str| pod(name, Some((kind, uid)), true, json!({}));
        let spec = || json!({"maxUnavailable": "50%"});
        let deployment = || {
            vec![
                of("ReplicaSet", "new", "x"),
                of("ReplicaSet", "old", "y"),
                set("ReplicaSet", "new", 1, Some("dep")),
                set("ReplicaSet", "old", 1, Some("dep")),
                set("Deployment", "dep", 2, None),
            ]
        };
        check(spec(), deployment(), "allowed 1 healthy 2/1 of 2 SufficientPods [] []");
        let stateful = vec![of("StatefulSet", "s", "s-0"), set("StatefulSet", "s", 3, None)];
        check(spec(), stateful, "allowed 0 healthy 1/1 of 3 InsufficientPods [] []");
        check(
            spec(),
            vec![of("DaemonSet", "s", "x")],
            "allowed 0 healthy 0/0 of 0 SyncFailed daemonsets.apps does not implement the scale \
             subresource[] [\"CalculateExpectedPodCountFailed\"]",
        );
        check(
            spec(),
            vec![of("ReplicaSet", "gone", "x")],
            "allowed 0 healthy 0/0 of 0 SyncFailed found no controllers for pod \"x\"[] \
             [\"CalculateExpectedPodCountFailed\"]",
        );
        check(
            spec(),
            vec![pod("x", None, true, json!({}))],
            "allowed 0 healthy 1/0 of 0 InsufficientPods [] [\"UnmanagedPods\"]",
        );
    }

    #[test]
    fn pods_that_are_about_to_go_do_not_count() {
        let spec = || json!({"minAvailable": 1});
        let status = |seconds: i64| json!({"disruptedPods": {"x": stamp(seconds), "gone": stamp(seconds)}});
        let pods = || vec![pod("x", None, true, json!({})), pod("y", None, true, json!({}))];
        let text = "allowed 0 healthy 1/1 of 2 InsufficientPods [\"x\"] []";
        check_status(spec(), status(90), pods(), text);
        let text = "allowed 1 healthy 2/1 of 2 SufficientPods [] [\"NotDeleted\"]";
        check_status(spec(), status(-30), pods(), text);
        let going = json!({"metadata": {"deletionTimestamp": stamp(100), "deletionGracePeriodSeconds": 30}});
        let pods = vec![pod("x", None, true, going), pod("y", None, true, json!({}))];
        check_status(spec(), status(90), pods, "allowed 0 healthy 1/1 of 2 InsufficientPods [] []");
    }

    #[test]
    fn a_pod_that_stays_is_said_to_stay() {
        let with = |reason: &str, rest: Value| {
            let mut body = rest;
            body["status"]["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": stamp(50),
            }]);
            seen(vec![pod("x", None, true, body)])
        };
        let look = |seen: &Observed, seconds: i64| {
            let plan = reconcile_stale(seen, &Key::new("d", "x"), at(seconds));
            (show(&plan), plan.again_at)
        };
        let evicted = with("EvictionByEvictionAPI", json!({}));
        assert_eq!(look(&evicted, 100), (vec![], Some(at(170))));
        assert_eq!(look(&evicted, 170).0, ["conditions x"]);
        assert_eq!(look(&with("TerminationByKubelet", json!({})), 900), (vec![], None));
        let going = json!({"metadata": {"deletionTimestamp": stamp(100), "deletionGracePeriodSeconds": 30}});
        assert_eq!(look(&with("EvictionByEvictionAPI", going), 900), (vec![], None));
    }
}
