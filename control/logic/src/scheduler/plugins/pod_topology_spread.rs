//! PodTopologySpread: spreads pods evenly over zones, nodes or other domains.
//!
//! Rules: <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.
//! Pods that say nothing are spread by the profile's default constraints, as far as a Service or
//! their controller selects them. Pods are counted once per cycle and per sort of pods.

use std::sync::Arc;

use proa_api::placement::tolerates;
use proa_api::selector::Selector;

use super::{default_selector, node_affinity};
use crate::scheduler::domains::Domains;
use crate::scheduler::framework::{Cycle, Event, MAX_SCORE, Misfit, PreFilter};
use crate::scheduler::node_info::{NodeIndex, NodeInfo};
use crate::world::facts::{Node, Pod, Spread};

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// The score of a node that cannot be compared, until scores are normalized.
const IGNORED: i64 = -1;

/// What is worked out about one pod.
#[derive(Clone, Debug, Default)]
pub struct State {
    required: Vec<Counted>,
    preferred: Vec<Counted>,
    /// For each preferred constraint: the more domains, the more a pod counts.
    weights: Vec<f64>,
    /// True if nodes without one of the preferred constraints' labels are not compared.
    needs_all_labels: bool,
}

/// A constraint and the pods of each of its domains.
#[derive(Clone, Debug)]
struct Counted {
    spread: Spread,
    domains: Arc<Domains>,
    /// The pods of each domain; `None` if the domain does not count.
    pods: Vec<Option<i64>>,
    /// How many domains count.
    present: i64,
    /// The pods of the emptiest.
    lowest: i64,
    /// 1 if the pod itself will count.
    itself: i64,
}

impl Counted {
    fn new(cycle: &Cycle<'_>, spread: Spread) -> Self {
        let domains = cycle.snapshot.domains(&spread.topology_key);
        let itself = i64::from(spread.selector.matches(Some(&cycle.pod.labels)));
        Counted { pods: vec![None; domains.count()], domains, spread, present: 0, lowest: 0, itself }
    }

    fn add(&mut self, node: NodeIndex, amount: i64) {
        if let Some(pods) = self.domains.of(node).and_then(|domain| self.pods[domain].as_mut()) {
            *pods += amount;
        }
    }

    fn admit(&mut self, node: NodeIndex) {
        if let Some(domain) = self.domains.of(node) {
            self.pods[domain].get_or_insert(0);
        }
    }

    fn at(&self, node: NodeIndex) -> Option<i64> {
        self.domains.of(node).map(|domain| self.pods[domain].unwrap_or(0))
    }

    /// Works out what is said of all domains together.
    fn sum_up(&mut self) {
        let counts = self.pods.iter().flatten();
        self.present = i64::try_from(counts.clone().count()).unwrap_or(i64::MAX);
        // Without a domain that counts there is nothing to be uneven with.
        self.lowest = counts.min().copied().unwrap_or(i64::from(i32::MAX));
    }

    /// True if pods with these labels count. A selector that selects all counts none, as in the
    /// stock scheduler.
    fn selects(&self, labels: &proa_api::selector::Labels) -> bool {
        !self.spread.selector.is_everything() && self.spread.selector.matches(Some(labels))
    }

    /// True if the pods of every node with the label count.
    fn includes_all(&self, cycle: &Cycle<'_>) -> bool {
        let wishes = cycle.wishes;
        let anywhere = wishes.node_selector.is_empty() && wishes.node_affinity.is_none();
        (anywhere || !self.spread.honors_affinity) && !self.spread.honors_taints
    }

    /// True if the pods of this node count.
    fn includes(&self, cycle: &Cycle<'_>, affinity: &node_affinity::State, node: &Node) -> bool {
        (!self.spread.honors_affinity || node_affinity::matches_node(cycle, affinity, node))
            && (!self.spread.honors_taints || stands(cycle.pod, node))
    }
}

fn stands(pod: &Pod, node: &Node) -> bool {
    let hard = node.taints.iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    hard.into_iter().all(|taint| pod.tolerations.iter().any(|t| tolerates(t, taint)))
}

fn has_all_labels(constraints: &[Counted], node: NodeIndex) -> bool {
    constraints.iter().all(|c| c.domains.of(node).is_some())
}

/// The constraints that hold for the pod: its own, or those of the profile.
fn constraints(cycle: &Cycle<'_>, required: bool) -> Vec<Spread> {
    let own = &cycle.wishes.spread;
    if !own.is_empty() {
        return own.iter().filter(|s| s.required == required).cloned().collect();
    }
    let defaults = match &cycle.profile.args.spread.default_constraints {
        Some(constraints) => constraints.iter().map(Spread::of).collect(),
        None => system_defaults().to_vec(),
    };
    let mut defaults: Vec<Spread> = defaults.into_iter().filter(|s| s.required == required).collect();
    if defaults.is_empty() {
        return defaults;
    }
    let selector = default_selector::of(cycle.pod, cycle.seen);
    if selector.is_everything() {
        return Vec::new();
    }
    defaults.iter_mut().for_each(|s| s.selector = selector.clone());
    defaults
}

/// What `defaultingType: System` means.
fn system_defaults() -> [Spread; 2] {
    let soft = |topology_key: &str, max_skew| Spread {
        max_skew,
        topology_key: topology_key.into(),
        required: false,
        selector: Selector::nothing(),
        min_domains: None,
        honors_affinity: true,
        honors_taints: false,
    };
    [soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)]
}

/// Counts the pods for the constraints that must hold.
pub fn pre_filter(cycle: &Cycle<'_>, affinity: &node_affinity::State, state: &mut State) -> PreFilter {
    let wanted = constraints(cycle, true);
    if wanted.is_empty() {
        return PreFilter::Skip;
    }
    let mut counted: Vec<Counted> = wanted.into_iter().map(|s| Counted::new(cycle, s)).collect();
    if counted.iter().all(|c| c.domains.is_total() && c.includes_all(cycle)) {
        counted.iter_mut().for_each(|c| c.pods.fill(Some(0)));
        count_all(cycle, &mut counted);
    } else {
        count_included(cycle, affinity, &mut counted);
    }
    counted.iter_mut().for_each(Counted::sum_up);
    state.required = counted;
    PreFilter::Filter
}

/// Counts the pods of all nodes, domain by domain.
fn count_all(cycle: &Cycle<'_>, counted: &mut [Counted]) {
    for (group, members) in cycle.snapshot.label_groups_of(&cycle.pod.meta.key.namespace) {
        for constraint in counted.iter_mut().filter(|c| c.selects(&group.labels)) {
            let pods = &mut constraint.pods;
            members.each_domain(&constraint.spread.topology_key, &constraint.domains, |domain, count| {
                if let Some(pods) = &mut pods[domain] {
                    *pods += i64::from(count.pods - count.leaving);
                }
            });
        }
    }
}

/// Counts the pods of the nodes that each constraint includes, node by node.
fn count_included(cycle: &Cycle<'_>, affinity: &node_affinity::State, counted: &mut [Counted]) {
    let mut included = vec![vec![false; cycle.snapshot.slots()]; counted.len()];
    for info in cycle.snapshot.nodes() {
        if !has_all_labels(counted, info.index) {
            continue;
        }
        for (constraint, included) in counted.iter_mut().zip(&mut included) {
            if constraint.includes(cycle, affinity, &info.node) {
                constraint.admit(info.index);
                included[info.index] = true;
            }
        }
    }
    for (group, members) in cycle.snapshot.label_groups_of(&cycle.pod.meta.key.namespace) {
        for (constraint, included) in counted.iter_mut().zip(&included) {
            if !constraint.selects(&group.labels) {
                continue;
            }
            for (node, count) in members.nodes().filter(|(node, _)| included[*node]) {
                constraint.add(node, i64::from(count.pods - count.leaving));
            }
        }
    }
}

/// True if the pod may be on the node without making the domains too uneven.
pub fn filter(state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    for constraint in &state.required {
        let Some(pods) = constraint.at(node.index) else { return Err(Misfit::unresolvable(REASON_LABEL)) };
        let spread = &constraint.spread;
        let too_few_domains = spread.min_domains.is_some_and(|least| constraint.present < least);
        let lowest = if too_few_domains { 0 } else { constraint.lowest };
        if pods + constraint.itself - lowest > spread.max_skew {
            return Err(Misfit::unschedulable(REASON));
        }
    }
    Ok(())
}

/// Counts another pod in (`amount` 1) or out (-1).
pub fn change(
    cycle: &Cycle<'_>,
    affinity: &node_affinity::State,
    state: &mut State,
    other: &Pod,
    node: &NodeInfo,
    amount: i64,
) {
    if other.meta.key.namespace != cycle.pod.meta.key.namespace || other.meta.deleted.is_some() {
        return;
    }
    if !has_all_labels(&state.required, node.index) {
        return;
    }
    for constraint in &mut state.required {
        if constraint.selects(&other.labels) && constraint.includes(cycle, affinity, &node.node) {
            constraint.add(node.index, amount);
            constraint.sum_up();
        }
    }
}

/// Counts the pods for the constraints that should hold. False if there are none.
pub fn pre_score(
    cycle: &Cycle<'_>,
    affinity: &node_affinity::State,
    state: &mut State,
    nodes: &[&NodeInfo],
) -> bool {
    let wanted = constraints(cycle, false);
    if wanted.is_empty() {
        return false;
    }
    let needs_all =
        !cycle.wishes.spread.is_empty() || cycle.profile.args.spread.default_constraints.is_some();
    let mut counted: Vec<Counted> = wanted.into_iter().map(|s| Counted::new(cycle, s)).collect();
    for node in nodes {
        if needs_all && !has_all_labels(&counted, node.index) {
            continue;
        }
        counted.iter_mut().for_each(|constraint| constraint.admit(node.index));
    }
    if counted.iter().all(|c| c.includes_all(cycle) && (!needs_all || c.domains.is_total())) {
        count_all(cycle, &mut counted);
    } else {
        count_compared(cycle, affinity, needs_all, &mut counted);
    }
    counted.iter_mut().for_each(Counted::sum_up);
    // Two more than there are, so that one domain has a weight too.
    state.weights =
        counted.iter().map(|c| f64::from(i32::try_from(c.present + 2).unwrap_or(i32::MAX)).ln()).collect();
    state.preferred = counted;
    state.needs_all_labels = needs_all;
    true
}

/// Counts the pods of the nodes that are compared, node by node.
fn count_compared(
    cycle: &Cycle<'_>,
    affinity: &node_affinity::State,
    needs_all: bool,
    counted: &mut [Counted],
) {
    for (group, members) in cycle.snapshot.label_groups_of(&cycle.pod.meta.key.namespace) {
        let selects: Vec<bool> = counted.iter().map(|c| c.selects(&group.labels)).collect();
        if !selects.contains(&true) {
            continue;
        }
        for (node, count) in members.nodes() {
            if needs_all && !has_all_labels(counted, node) {
                continue;
            }
            let info = cycle.node(node);
            for (constraint, _) in counted.iter_mut().zip(&selects).filter(|(_, selects)| **selects) {
                if constraint.includes(cycle, affinity, &info.node) {
                    constraint.add(node, i64::from(count.pods - count.leaving));
                }
            }
        }
    }
}

/// How many pods like it there are around the node: to be normalized, the fewer the better.
#[expect(clippy::cast_possible_truncation, reason = "scores are far below what an i64 holds")]
#[expect(clippy::cast_precision_loss, reason = "there are far fewer pods than an f64 counts exactly")]
pub fn score(state: &State, node: &NodeInfo) -> i64 {
    if state.needs_all_labels && !has_all_labels(&state.preferred, node.index) {
        return IGNORED;
    }
    let mut score = 0.0;
    for (constraint, weight) in state.preferred.iter().zip(&state.weights) {
        if let Some(pods) = constraint.at(node.index) {
            score += pods as f64 * weight + (constraint.spread.max_skew - 1) as f64;
        }
    }
    score.round() as i64
}

/// Brings scores to 0..=[`MAX_SCORE`], the lowest first; nodes that cannot be compared last.
pub fn normalize(scores: &mut [i64]) {
    let compared = scores.iter().copied().filter(|score| *score != IGNORED);
    let lowest = compared.clone().min().unwrap_or(0);
    let highest = compared.max().unwrap_or(0);
    for score in scores {
        *score = match *score {
            IGNORED => 0,
            _ if highest == 0 => MAX_SCORE,
            score => MAX_SCORE * (highest + lowest - score) / highest,
        };
    }
}

/// True if domains have come, or pods that count have come or gone.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    let Some(wishes) = &pod.wishes else { return true };
    let own = |other: &Pod| {
        let same_namespace = other.meta.key.namespace == pod.meta.key.namespace;
        // The profile's defaults are not known here.
        let counts = |s: &Spread| s.selector.matches(Some(&other.labels));
        same_namespace && (wishes.spread.is_empty() || wishes.spread.iter().any(counts))
    };
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeChanged { old, new } => old.labels != new.labels || old.taints != new.taints,
        Event::PodPlaced(other) | Event::PodGone(other) => own(other),
        Event::PodChanged { old, new } => {
            (old.labels != new.labels || old.meta.deleted != new.meta.deleted) && (own(old) || own(new))
        }
        Event::Itself { old, new } => old.labels != new.labels || old.tolerations != new.tolerations,
        Event::Other { .. } => false,
    }
}
