//! NodeAffinity: `nodeSelector`, required and preferred node affinity.
//!
//! Rules: <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>. What a pod
//! says is read once per pod, and only compared for each node.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeAffinity;
use proa_api::placement::Term;
use proa_api::selector::Operator;

use crate::scheduler::framework::{Cycle, Event, Misfit, PreFilter};
use crate::scheduler::node_info::NodeInfo;
use crate::world::facts::{Node, Pod};

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
const REASON_ADDED: &str = "node(s) didn't match scheduler-enforced node affinity";
const CONFLICT: &str = "pod affinity terms conflict";

/// What is worked out about one pod.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What the profile adds: one of these terms must hold.
    added: Option<Vec<Term>>,
    required: Option<Vec<Term>>,
    preferred: Vec<(i64, Term)>,
}

/// True if a node meets all of a term.
pub fn is_met(term: &Term, node: &Node) -> bool {
    term.matches(&node.labels, &node.meta.key.name)
}

/// True if the pod's `nodeSelector` and required node affinity let it be on the node. PodTopologySpread
/// counts only such nodes.
pub fn matches_node(cycle: &Cycle<'_>, state: &State, node: &Node) -> bool {
    let selected = cycle.wishes.node_selector.iter().all(|(k, v)| node.labels.get(k) == Some(v));
    selected && state.required.as_ref().is_none_or(|terms| terms.iter().any(|t| is_met(t, node)))
}

/// Reads what the pod says, and which nodes it names if it names any.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    let added = cycle.profile.args.node_affinity.added_affinity.as_ref();
    let own = cycle.wishes.node_affinity.as_ref();
    state.added = added.and_then(required);
    state.required = own.and_then(required);
    if state.added.is_none() && state.required.is_none() && cycle.wishes.node_selector.is_empty() {
        return PreFilter::Skip;
    }
    let Some(terms) = &state.required else { return PreFilter::Filter };
    // Terms are alternatives: names narrow the choice only if each term has some.
    let mut all: BTreeSet<Arc<str>> = BTreeSet::new();
    for term in terms {
        let Some(names) = named(term) else { return PreFilter::Filter };
        all.extend(names);
    }
    if all.is_empty() {
        return PreFilter::Reject(Misfit::unresolvable(CONFLICT));
    }
    PreFilter::Only(all.into_iter().collect())
}

/// True if the node has the labels that the pod asks for.
pub fn filter(cycle: &Cycle<'_>, state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    let added = state.added.as_ref();
    if added.is_some_and(|terms| !terms.iter().any(|t| is_met(t, &node.node))) {
        return Err(Misfit::unresolvable(REASON_ADDED));
    }
    if matches_node(cycle, state, &node.node) { Ok(()) } else { Err(Misfit::unresolvable(REASON)) }
}

/// Reads what the pod prefers. False if it does not mind.
pub fn pre_score(cycle: &Cycle<'_>, state: &mut State) -> bool {
    let added = cycle.profile.args.node_affinity.added_affinity.as_ref();
    let own = cycle.wishes.node_affinity.as_ref();
    let terms = [added, own].into_iter().flatten();
    let preferred =
        terms.flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    state.preferred = preferred.map(|p| (i64::from(p.weight), Term::of(&p.preference))).collect();
    !state.preferred.is_empty()
}

/// The weight of the preferences that the node meets.
pub fn score(state: &State, node: &NodeInfo) -> i64 {
    let met = state.preferred.iter().filter(|(_, term)| is_met(term, &node.node));
    met.map(|(weight, _)| weight).sum()
}

/// True if a node has come or has other labels, or the pod asks for something else.
pub fn may_fit_after(_pod: &Pod, event: &Event<'_>) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeChanged { old, new } => old.labels != new.labels,
        Event::Itself { old, new } => {
            let asked =
                |p: &Pod| p.wishes.as_ref().map(|w| (w.node_selector.clone(), w.node_affinity.clone()));
            asked(old) != asked(new)
        }
        _ => false,
    }
}

fn required(affinity: &NodeAffinity) -> Option<Vec<Term>> {
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(required.node_selector_terms.iter().map(Term::of).collect())
}

/// The nodes that a term names; `None` if it names none.
fn named(term: &Term) -> Option<BTreeSet<Arc<str>>> {
    let mut lists = term.names.iter().filter(|r| r.operator == Operator::In);
    let first: BTreeSet<Arc<str>> = lists.next()?.values.iter().map(|v| v.as_str().into()).collect();
    Some(lists.fold(first, |mut names, list| {
        names.retain(|name| list.values.iter().any(|v| **v == **name));
        names
    }))
}
