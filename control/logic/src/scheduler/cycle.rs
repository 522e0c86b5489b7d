//! Scheduling cycle: filters the nodes, scores those that are left and picks the best.
//!
//! Called by the [`Scheduler`](super::Scheduler) for one pod at a time. It looks at the nodes
//! from where the last cycle stopped, and stops itself when it has found enough of them, as in
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/scheduler-perf-tuning/>.

use std::sync::Arc;

use super::framework::{Cycle, Misfit, PreBind, PreFilter, Reason, Rejected};
use super::node_info::{NodeIndex, NodeInfo};
use super::plugin::Plugin;
use super::plugins::{self, CycleState};
use crate::world::facts::Pod;

/// No fewer nodes than these are looked for.
const MIN_FEASIBLE: usize = 100;
/// No smaller share of the nodes than this is looked for.
const MIN_PERCENTAGE: usize = 5;

/// Where a pod goes, or why it goes nowhere.
#[derive(Debug)]
pub enum Choice {
    /// To this node.
    Node(NodeIndex),
    /// Nowhere.
    Nowhere(Diagnosis),
}

/// Why a pod fits nowhere.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// What each node that was looked at lacks.
    pub rejected: Vec<Rejected>,
    /// The plugins that named the nodes to look at, if some did.
    pub narrowed_by: Vec<Plugin>,
    /// What keeps the pod off all nodes, before any was looked at.
    pub pod: Option<(Plugin, Misfit)>,
}

impl Diagnosis {
    /// The plugins that stand in the way.
    pub fn plugins(&self) -> impl Iterator<Item = Plugin> {
        let nodes = self.rejected.iter().map(|r| r.plugin);
        nodes.chain(self.narrowed_by.iter().copied()).chain(self.pod.iter().map(|(p, _)| *p))
    }
}

/// What cycles hand on to each other: where to start, and memory to work in.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    start: usize,
    scores: Vec<i64>,
    totals: Vec<i64>,
}

/// The nodes that are to be looked at.
enum Range {
    All,
    Only(Vec<NodeIndex>),
}

impl Range {
    fn has(&self, node: NodeIndex) -> bool {
        match self {
            Range::All => true,
            Range::Only(nodes) => nodes.contains(&node),
        }
    }
}

impl Rotation {
    /// Where those who look at some of the nodes begin.
    pub fn offset(&self) -> usize {
        self.start
    }
}

/// Picks a node.
pub fn choose(cycle: &Cycle<'_>, state: &mut CycleState, rotation: &mut Rotation) -> Choice {
    let mut diagnosis = Diagnosis::default();
    let Some(range) = pre_filter(cycle, state, &mut diagnosis) else { return Choice::Nowhere(diagnosis) };
    if let Some(node) = nominated_node(cycle).filter(|node| range.has(node.index))
        && fits(cycle, state, node).is_ok()
    {
        return Choice::Node(node.index);
    }
    let feasible = match range {
        Range::Only(nodes) => {
            let mut feasible = Vec::new();
            for index in nodes {
                sort_out(cycle, state, cycle.node(index), &mut feasible, &mut diagnosis);
            }
            feasible
        }
        Range::All => {
            let all = cycle.snapshot.len();
            let enough = enough(all, cycle.profile.percentage_of_nodes_to_score);
            let mut feasible = Vec::with_capacity(enough);
            let mut looked_at = 0;
            while looked_at < all && feasible.len() < enough {
                let node = cycle.snapshot.nth((rotation.start + looked_at) % all);
                sort_out(cycle, state, node, &mut feasible, &mut diagnosis);
                looked_at += 1;
            }
            rotation.start = (rotation.start + looked_at) % all.max(1);
            feasible
        }
    };
    match feasible.as_slice() {
        [] => Choice::Nowhere(diagnosis),
        [only] => Choice::Node(only.index),
        _ => Choice::Node(best(cycle, state, &feasible, rotation)),
    }
}

/// What has to be done before the pod is bound to the node that was chosen.
pub fn pre_bind(cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> PreBind {
    let mut all = PreBind::Ready;
    for plugin in cycle.profile.filter.iter().filter(|p| !state.skips_filter(**p)) {
        let Some(pre_bind) = plugins::of(*plugin).pre_bind else { continue };
        all = match (all, pre_bind(cycle, &state.kept, node)) {
            (_, PreBind::Refuse) => return PreBind::Refuse,
            (PreBind::Wait(mut plan), PreBind::Wait(more)) => {
                plan.actions.extend(more.actions);
                PreBind::Wait(plan)
            }
            (PreBind::Ready, other) => other,
            (all, _) => all,
        };
    }
    all
}

/// The same for a pod that has waited: what the plugins knew then may be old.
pub fn pre_bind_again(cycle: &Cycle<'_>, node: &NodeInfo) -> PreBind {
    let mut state = CycleState::default();
    for plugin in &cycle.profile.pre_filter {
        let points = plugins::of(*plugin);
        if points.pre_bind.is_none() {
            continue;
        }
        match points.pre_filter.map(|pre_filter| pre_filter(cycle, &mut state.kept)) {
            Some(PreFilter::Skip) => state.skip_filter(*plugin),
            Some(PreFilter::Reject(_)) => return PreBind::Refuse,
            Some(PreFilter::Filter | PreFilter::Only(_)) | None => {}
        }
        let rejects = |state: &CycleState| {
            points.filter.is_some_and(|filter| filter(cycle, &state.kept, node).is_err())
        };
        if !state.skips_filter(*plugin) && rejects(&state) {
            return PreBind::Refuse;
        }
    }
    pre_bind(cycle, &state, node)
}

/// True if all filters let the pod be on the node, also when those are there for whom room is
/// being made on it, as far as they matter no less; else who does not, and why.
pub fn fits(cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> Result<(), (Plugin, Misfit)> {
    if let Some(nominated) = cycle.nominated.on(node.name()) {
        let (own, priority) = (&cycle.pod.meta.key, cycle.pod.priority);
        let before: Vec<_> =
            nominated.values().filter(|p| p.priority >= priority && p.meta.key != *own).collect();
        if !before.is_empty() {
            let (mut state, mut node) = (state.clone(), node.clone());
            for pod in before {
                node.add(pod.clone());
                count_pod(cycle, &mut state, pod, &node, 1);
            }
            filter(cycle, &state, &node)?;
        }
    }
    filter(cycle, state, node)
}

/// True if all filters let the pod be on the node; else who does not, and why.
fn filter(cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> Result<(), (Plugin, Misfit)> {
    for plugin in cycle.profile.filter.iter().filter(|p| !state.skips_filter(**p)) {
        let Some(filter) = plugins::of(*plugin).filter else { continue };
        filter(cycle, &state.kept, node).map_err(|misfit| (*plugin, misfit))?;
    }
    Ok(())
}

/// Lets the plugins count a pod in on a node (`amount` 1) or out (-1).
pub fn count_pod(cycle: &Cycle<'_>, state: &mut CycleState, pod: &Pod, node: &NodeInfo, amount: i64) {
    for plugin in &cycle.profile.pre_filter {
        if !state.skips_filter(*plugin)
            && let Some(count_pod) = plugins::of(*plugin).count_pod
        {
            count_pod(cycle, &mut state.kept, pod, node, amount);
        }
    }
}

/// The node where room has been made for the pod.
fn nominated_node<'a>(cycle: &Cycle<'a>) -> Option<&'a NodeInfo> {
    let name = cycle.nominated.node_of(&cycle.pod.meta.key)?;
    cycle.snapshot.by_name(name)
}

/// Lets the plugins look at the pod. `None` if it fits nowhere.
fn pre_filter(cycle: &Cycle<'_>, state: &mut CycleState, diagnosis: &mut Diagnosis) -> Option<Range> {
    let mut only: Option<Vec<Arc<str>>> = None;
    for plugin in &cycle.profile.pre_filter {
        let Some(pre_filter) = plugins::of(*plugin).pre_filter else { continue };
        match pre_filter(cycle, &mut state.kept) {
            PreFilter::Filter => {}
            PreFilter::Skip => state.skip_filter(*plugin),
            PreFilter::Reject(misfit) => {
                diagnosis.pod = Some((*plugin, misfit));
                return None;
            }
            PreFilter::Only(names) => {
                diagnosis.narrowed_by.push(*plugin);
                match &mut only {
                    None => only = Some(names),
                    Some(both) => both.retain(|name| names.contains(name)),
                }
                if only.as_ref().is_some_and(Vec::is_empty) {
                    diagnosis.pod = Some((*plugin, nowhere_together(&diagnosis.narrowed_by)));
                    return None;
                }
            }
        }
    }
    Some(match only {
        None => Range::All,
        Some(names) => {
            let there = names.iter().filter_map(|name| cycle.snapshot.by_name(name));
            Range::Only(there.map(|n| n.index).collect())
        }
    })
}

fn nowhere_together(plugins: &[Plugin]) -> Misfit {
    let names: Vec<&str> = plugins.iter().map(|p| p.name()).collect();
    let text = match names.as_slice() {
        [one] => format!("node(s) didn't satisfy plugin {one}"),
        all => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", all.join(" ")),
    };
    Misfit { unresolvable: true, reason: Reason::Named(text.into()) }
}

fn sort_out<'a>(
    cycle: &Cycle<'a>,
    state: &CycleState,
    node: &'a NodeInfo,
    feasible: &mut Vec<&'a NodeInfo>,
    diagnosis: &mut Diagnosis,
) {
    match fits(cycle, state, node) {
        Ok(()) => feasible.push(node),
        Err((plugin, misfit)) => diagnosis.rejected.push(Rejected { node: node.index, plugin, misfit }),
    }
}

/// So many nodes that fit are enough to choose from.
fn enough(all: usize, percentage: Option<i64>) -> usize {
    let percentage = match percentage.and_then(|p| usize::try_from(p).ok()).filter(|p| *p > 0) {
        Some(percentage) => percentage,
        None => 50usize.saturating_sub(all / 125).max(MIN_PERCENTAGE),
    };
    if all < MIN_FEASIBLE || percentage >= 100 {
        return all;
    }
    (all * percentage / 100).max(MIN_FEASIBLE)
}

/// The node with the highest score; of equal ones the first that was looked at.
fn best(
    cycle: &Cycle<'_>,
    state: &mut CycleState,
    nodes: &[&NodeInfo],
    rotation: &mut Rotation,
) -> NodeIndex {
    for plugin in &cycle.profile.pre_score {
        if plugins::of(*plugin).pre_score.is_some_and(|pre_score| !pre_score(cycle, &mut state.kept, nodes)) {
            state.skip_score(*plugin);
        }
    }
    let (scores, totals) = (&mut rotation.scores, &mut rotation.totals);
    totals.clear();
    totals.resize(nodes.len(), 0);
    for (plugin, weight) in cycle.profile.score.iter().filter(|(p, _)| !state.skips_score(*p)) {
        let points = plugins::of(*plugin);
        let Some(score) = points.score else { continue };
        scores.clear();
        scores.extend(nodes.iter().map(|node| score(cycle, &state.kept, node)));
        if let Some(normalize) = points.normalize {
            normalize(scores);
        }
        for (total, score) in totals.iter_mut().zip(scores.iter()) {
            *total += weight * score;
        }
    }
    let mut best = 0;
    for (place, total) in totals.iter().enumerate() {
        if *total > totals[best] {
            best = place;
        }
    }
    nodes[best].index
}
