//! VolumeBinding: a pod goes where its volumes are, or where they can be made.
//!
//! Rules: <https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode>. Claims
//! that are bound tie the pod to the nodes of their volumes. Claims of a class that waits for its
//! first consumer are bound here: a volume that fits is set aside for the claim, or the claim is told
//! which node it is wanted on, and its pod waits until the binder and the provisioner are done.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use proa_api::names;
use proa_api::placement::Term;
use serde_json::json;

use super::node_affinity::is_met;
use crate::scheduler::framework::{Cycle, Event, Misfit, PreBind, PreFilter, Reason};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::{Key, Node, Pod};
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use crate::world::volumes::{self, is_bound_to};
use proa_kinds::Part;

const UNBOUND_IMMEDIATE: &str = "pod has unbound immediate PersistentVolumeClaims";
const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What is worked out about one pod.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Where each bound volume can be reached from, if not from everywhere.
    bound: Vec<Vec<Term>>,
    /// True if a claim is bound to a volume that is not there.
    volume_is_gone: bool,
    /// The claims that wait for the pod to have a node.
    waiting: Vec<Waiting>,
}

/// A claim that waits for its first consumer.
#[derive(Clone, Debug)]
struct Waiting {
    claim: Arc<PersistentVolumeClaim>,
    /// The node that it has been told.
    selected: Option<String>,
    /// The volumes that would do, the smallest first, and where they can be reached from.
    volumes: Vec<(Arc<PersistentVolume>, Vec<Term>)>,
    /// Where a volume can be made: on nodes that meet one of these; `None` if none can be made.
    provisioned: Option<Vec<Term>>,
}

/// What is to become of a claim if the pod goes to a node.
enum Binding<'a> {
    /// It gets this volume.
    Volume(&'a PersistentVolume),
    /// One is made for it.
    Provision,
}

/// Looks the claims up.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    if cycle.pod.claims.is_empty() {
        return PreFilter::Skip;
    }
    let mut found = State::default();
    let mut immediate = false;
    for name in &cycle.pod.claims {
        let claim = match sound(cycle, name) {
            Ok(claim) => claim,
            Err(misfit) => return PreFilter::Reject(misfit),
        };
        if volumes::is_bound(claim) {
            match volumes::volume_of(claim, cycle.seen) {
                Some(volume) => found.bound.extend(reach(volume)),
                None => found.volume_is_gone = true,
            }
            continue;
        }
        match waits_for_consumer(claim, cycle) {
            Some(class) => found.waiting.push(waiting(claim, class, cycle)),
            None => immediate = true,
        }
    }
    if immediate {
        return PreFilter::Reject(Misfit::unresolvable(UNBOUND_IMMEDIATE));
    }
    let skip = found.bound.is_empty() && !found.volume_is_gone && found.waiting.is_empty();
    *state = found;
    if skip { PreFilter::Skip } else { PreFilter::Filter }
}

/// The claim of this name, if a pod can use it.
fn sound<'a>(cycle: &Cycle<'a>, name: &Arc<str>) -> Result<&'a Arc<PersistentVolumeClaim>, Misfit> {
    let named = |text: String| Misfit { unresolvable: true, reason: Reason::Named(text.into_boxed_str()) };
    let key = Key { namespace: cycle.pod.meta.key.namespace.clone(), name: name.clone() };
    let Some(claim) = cycle.seen.persistent_volume_claims.get(&key) else {
        return Err(named(format!("persistentvolumeclaim \"{name}\" not found")));
    };
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let text =
            format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\"");
        return Err(named(text));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(named(format!("persistentvolumeclaim \"{name}\" is being deleted")));
    }
    Ok(claim)
}

/// The claim's class, if it binds claims only once a pod needs them. A claim that names its volume
/// does not wait.
fn waits_for_consumer<'a>(claim: &PersistentVolumeClaim, cycle: &Cycle<'a>) -> Option<&'a Arc<StorageClass>> {
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).is_some_and(|n| !n.is_empty());
    if named || !volumes::waits_for_consumer(cycle.seen, claim) {
        return None;
    }
    volumes::class(cycle.seen, claim)
}

fn waiting(claim: &Arc<PersistentVolumeClaim>, class: &StorageClass, cycle: &Cycle<'_>) -> Waiting {
    let annotations = claim.metadata.annotations.as_ref();
    let mut volumes: Vec<_> = cycle.seen.persistent_volumes.iter().map(|(_, volume)| volume).collect();
    volumes.retain(|volume| would_do(volume, claim));
    // The one that was made for the claim goes first, then the smallest.
    volumes.sort_by_key(|v| (!is_bound_to(v, claim), volumes::capacity(v), v.metadata.name.clone()));
    if volumes.first().is_some_and(|v| is_bound_to(v, claim)) {
        volumes.truncate(1);
    }
    let made = !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER;
    let own = volumes.first().is_some_and(|v| is_bound_to(v, claim));
    let topologies = class.allowed_topologies.iter().flatten().map(Term::of_topology).collect();
    Waiting {
        selected: annotations.and_then(|a| a.get(names::ANNOTATION_SELECTED_NODE)).cloned(),
        volumes: volumes.into_iter().map(|v| (v.clone(), reach(v).unwrap_or_default())).collect(),
        provisioned: (made && !own).then_some(topologies),
        claim: claim.clone(),
    }
}

/// Where a volume can be reached from; `None` if from everywhere.
fn reach(volume: &PersistentVolume) -> Option<Vec<Term>> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    Some(required.node_selector_terms.iter().map(Term::of).collect())
}

/// True if a claim could be bound to the volume, wherever its pod runs.
fn would_do(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.metadata.deletion_timestamp.is_none()
        && volumes::same_mode(volume, claim)
        && volumes::capacity(volume) >= volumes::requested(claim)
        && (is_bound_to(volume, claim) || (volumes::is_free(volume) && volumes::fits(volume, claim)))
}

fn meets(terms: &[Term], node: &Node) -> bool {
    terms.is_empty() || terms.iter().any(|term| is_met(term, node))
}

/// What would become of each waiting claim; `None` if one could not be bound for this node.
fn bindings<'a>(state: &'a State, node: &Node) -> Option<Vec<(&'a Waiting, Binding<'a>)>> {
    let mut taken: Vec<&str> = Vec::new();
    let mut bindings = Vec::with_capacity(state.waiting.len());
    for waiting in &state.waiting {
        if waiting.selected.as_deref().is_some_and(|selected| *selected != *node.meta.key.name) {
            return None;
        }
        let free = |volume: &PersistentVolume| !taken.contains(&name(volume));
        let volume =
            waiting.volumes.iter().find(|(v, reach)| free(v) && meets(reach, node)).map(|(v, _)| &**v);
        let binding = match volume.filter(|_| waiting.selected.is_none()) {
            Some(volume) => Binding::Volume(volume),
            None if waiting.provisioned.as_ref().is_some_and(|terms| meets(terms, node)) => {
                Binding::Provision
            }
            None => return None,
        };
        if let Binding::Volume(volume) = binding {
            taken.push(name(volume));
        }
        bindings.push((waiting, binding));
    }
    Some(bindings)
}

fn name(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// True if all volumes can be reached from the node, or can be there.
pub fn filter(state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    let bound = state.bound.iter().all(|terms| meets(terms, &node.node));
    let unbound = state.waiting.is_empty() || bindings(state, &node.node).is_some();
    let rows = [(!bound, NODE_CONFLICT), (!unbound, BIND_CONFLICT), (state.volume_is_gone, VOLUME_GONE)];
    if rows.iter().all(|(wrong, _)| !wrong) {
        return Ok(());
    }
    let texts: Vec<&'static str> = rows.iter().filter(|(wrong, _)| *wrong).map(|(_, text)| *text).collect();
    Err(Misfit { unresolvable: true, reason: Reason::Texts(texts.into()) })
}

/// What has to be done, and waited for, before the pod can be bound to the node.
pub fn pre_bind(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> PreBind {
    if state.waiting.is_empty() {
        return PreBind::Ready;
    }
    let mut plan = Plan::default();
    let Some(bindings) = bindings(state, &node.node) else { return PreBind::Refuse };
    for (waiting, binding) in bindings {
        match binding {
            Binding::Volume(volume) if is_bound_to(volume, &waiting.claim) => {}
            Binding::Volume(volume) => plan.act_then(set_aside(volume, &waiting.claim)),
            Binding::Provision if waiting.selected.is_some() => {}
            Binding::Provision => plan.act_then(select(&waiting.claim, node.name())),
        }
    }
    if cycle.wishes.nominated.as_deref() != Some(node.name()) {
        plan.act_then(Verb::Patch {
            target: cycle.pod.meta.reference(),
            part: Part::STATUS,
            guard: Guard::NONE,
            change: Change::Merge(json!({"status": {"nominatedNodeName": &**node.name()}})),
        });
    }
    PreBind::Wait(plan)
}

fn set_aside(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Verb {
    let owner = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    };
    Verb::Patch {
        target: Reference::to(volume),
        part: Part::Main,
        guard: Guard { resource_version: volume.metadata.resource_version.clone(), ..Guard::NONE },
        change: Change::Merge(json!({
            "metadata": {"annotations": {names::ANNOTATION_BOUND_BY_CONTROLLER: "yes"}},
            "spec": {"claimRef": owner},
        })),
    }
}

fn select(claim: &PersistentVolumeClaim, node: &str) -> Verb {
    Verb::Patch {
        target: Reference::to(claim),
        part: Part::Main,
        guard: Guard { resource_version: claim.metadata.resource_version.clone(), ..Guard::NONE },
        change: Change::Merge(json!({"metadata": {"annotations": {names::ANNOTATION_SELECTED_NODE: node}}})),
    }
}

/// True if a claim, a volume or a class has changed, or a node that volumes may be on.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeChanged { old, new } => old.labels != new.labels,
        Event::Other { kind: "PersistentVolumeClaim", key } => {
            key.namespace == pod.meta.key.namespace && pod.claims.contains(&key.name)
        }
        Event::Other { kind, .. } => ["PersistentVolume", "StorageClass"].contains(kind),
        _ => false,
    }
}
