//! Garbage collector: deletes what nobody owns any more, and carries out the three ways of
//! deleting an owner.
//!
//! Rules: <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>. Each decision
//! is about one object and reads only its owners and its dependents.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proa_api::names;
use serde_json::json;

use crate::world::facts::{Key, Meta};
use crate::world::graph::{OwnerState, waits_for_dependents};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Verb};
use proa_kinds::Part;

/// Decides about the object whose uid is the name of the key.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(object) = seen.graph.get(&key.name) else { return plan };
    if object.deleted.is_some() {
        if object.has_finalizer(names::FINALIZER_ORPHAN) {
            orphan_dependents(seen, object, &mut plan);
        } else if object.has_finalizer(names::FINALIZER_FOREGROUND) {
            if !has_blocking_dependents(seen, object) {
                plan.act(without_finalizer(object, names::FINALIZER_FOREGROUND));
            } else if in_cycle(seen, object) {
                unblock(object, &mut plan);
            }
        }
    } else if !object.owners.is_empty() {
        collect(seen, object, &mut plan);
    }
    plan
}

/// Lets go of every dependent, and then of the object.
fn orphan_dependents(seen: &Observed, object: &Meta, plan: &mut Plan) {
    for dependent in seen.graph.dependents(&object.uid) {
        plan.act(keep_owners(dependent, |owner| *owner.uid != *object.uid));
    }
    plan.act_then(without_finalizer(object, names::FINALIZER_ORPHAN));
}

/// True while a dependent that asks its owner to wait is still there.
fn has_blocking_dependents(seen: &Observed, object: &Meta) -> bool {
    seen.graph.dependents(&object.uid).any(|d| blocks(d, &object.uid))
}

fn blocks(dependent: &Meta, owner_uid: &str) -> bool {
    dependent.owners.iter().any(|o| o.uid == owner_uid && o.block_owner_deletion == Some(true))
}

/// True if the object waits, over its dependents, for itself.
fn in_cycle(seen: &Observed, object: &Meta) -> bool {
    let mut visited = std::collections::BTreeSet::new();
    let mut next = vec![object.uid.clone()];
    while let Some(uid) = next.pop() {
        for dependent in seen.graph.dependents(&uid) {
            if !blocks(dependent, &uid) || !waits_for_dependents(dependent) {
                continue;
            }
            if dependent.uid == object.uid {
                return true;
            }
            if visited.insert(dependent.uid.clone()) {
                next.push(dependent.uid.clone());
            }
        }
    }
    false
}

/// Stops the object from holding its owners up, which breaks a cycle.
fn unblock(object: &Meta, plan: &mut Plan) {
    let mut owners = object.owners.to_vec();
    if owners.iter().all(|o| o.block_owner_deletion != Some(true)) {
        return;
    }
    for owner in &mut owners {
        owner.block_owner_deletion = Some(false);
    }
    plan.act(patch_metadata(object, json!({ "ownerReferences": owners })));
}

/// True for an owner that is, or can only be, in a namespace which the object is not in.
/// <https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents>
fn is_elsewhere(seen: &Observed, object: &Meta, owner: &OwnerReference) -> bool {
    let namespace = &object.key.namespace;
    if let Some(found) = seen.graph.get(&owner.uid) {
        return !found.key.namespace.is_empty() && found.key.namespace != *namespace;
    }
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    namespace.is_empty() && seen.kinds.stored_of(group, &owner.kind).is_some_and(|kind| kind.namespaced)
}

/// Deletes an object whose owners are all gone or going; lets go of those that are gone if
/// another is still there.
fn collect(seen: &Observed, object: &Meta, plan: &mut Plan) {
    let outside = object.key.namespace.is_empty();
    let state = |owner: &OwnerReference| match outside && is_elsewhere(seen, object, owner) {
        // Nobody finds it there, and so nobody misses it.
        true => OwnerState::Unknown,
        false => seen.graph.owner_state(&object.key.namespace, owner),
    };
    let states: Vec<OwnerState> = object.owners.iter().map(state).collect();
    for owner in object.owners.iter().filter(|owner| is_elsewhere(seen, object, owner)) {
        plan.problems.push(Problem {
            about: object.reference(),
            warning: true,
            reason: "OwnerRefInvalidNamespace",
            message: format!(
                "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
                owner.api_version,
                owner.kind,
                object.key.namespace,
                owner.name,
                owner.uid,
                object.key.namespace,
            ),
        });
    }
    if states.contains(&OwnerState::Unknown) {
        return;
    }
    let absent = object.owners.iter().zip(&states).filter(|(_, s)| **s == OwnerState::Absent);
    let absent: Vec<Reference> = absent.map(|(o, _)| owner_reference(object, o)).collect();
    let waiting = states.contains(&OwnerState::WaitsForDependents);
    if states.contains(&OwnerState::Solid) {
        if waiting || !absent.is_empty() {
            plan.act(keep_owners(object, |owner| state(owner) == OwnerState::Solid));
        }
        return;
    }
    let has_dependents = seen.graph.dependents(&object.uid).next().is_some();
    let propagation = if object.has_finalizer(names::FINALIZER_ORPHAN) {
        "Orphan"
    } else if object.has_finalizer(names::FINALIZER_FOREGROUND) || (waiting && has_dependents) {
        "Foreground"
    } else {
        "Background"
    };
    // The owner that waits is there, and being deleted: only those that are gone are in doubt.
    plan.act(Verb::Delete {
        target: object.reference(),
        resource_version: Some(object.resource_version.to_string()),
        propagation: Some(propagation),
        grace_period_seconds: None,
        unless: absent,
    });
}

/// An owner whose kind lives in no namespace is looked for there by the executor as well.
fn owner_reference(object: &Meta, owner: &OwnerReference) -> Reference {
    Reference {
        api_version: owner.api_version.as_str().into(),
        kind: owner.kind.as_str().into(),
        namespace: object.key.namespace.clone(),
        name: owner.name.as_str().into(),
        uid: owner.uid.as_str().into(),
    }
}

fn keep_owners(object: &Meta, keep: impl Fn(&OwnerReference) -> bool) -> Verb {
    let owners: Vec<&OwnerReference> = object.owners.iter().filter(|o| keep(o)).collect();
    patch_metadata(object, json!({ "ownerReferences": owners }))
}

fn without_finalizer(object: &Meta, name: &str) -> Verb {
    let rest: Vec<&String> = object.finalizers.iter().filter(|f| *f != name).collect();
    patch_metadata(object, json!({ "finalizers": rest }))
}

fn patch_metadata(object: &Meta, metadata: serde_json::Value) -> Verb {
    Verb::Patch {
        target: object.reference(),
        part: Part::Main,
        guard: Guard::unchanged(&object.resource_version),
        change: Change::Merge(json!({ "metadata": metadata })),
    }
}
