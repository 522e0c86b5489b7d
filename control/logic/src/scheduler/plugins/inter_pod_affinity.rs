//! InterPodAffinity: keeps pods near those that they want near, and away from those that they or
//! the others do not want near.
//!
//! Rules:
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>.
//! Pods are counted once per cycle and per sort of pods, not per node: see [`Tally`].

use std::collections::BTreeMap;
use std::sync::Arc;

use proa_api::selector::Labels;

use crate::scheduler::domains::Domains;
use crate::scheduler::framework::{Cycle, Event, MAX_SCORE, Misfit, PreFilter};
use crate::scheduler::members::Members;
use crate::scheduler::node_info::{NodeIndex, NodeInfo};
use crate::scheduler::snapshot::Snapshot;
use crate::world::facts::{Pod, PodTerms, Term};
use crate::world::observed::Observed;

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const OTHERS_ANTI_AFFINITY: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// What is worked out about one pod.
#[derive(Clone, Debug, Default)]
pub struct State {
    filter: Filter,
    score: Score,
}

/// Counts the pods that the filter asks about.
pub fn pre_filter(cycle: &Cycle<'_>, state: &mut State) -> PreFilter {
    match Filter::new(cycle) {
        Some(filter) => {
            state.filter = filter;
            PreFilter::Filter
        }
        None => PreFilter::Skip,
    }
}

/// True if the pods around the node let the pod be there.
pub fn filter(state: &State, node: &NodeInfo) -> Result<(), Misfit> {
    state.filter.check(node.index)
}

/// Counts another pod in (`amount` 1) or out (-1).
pub fn change(cycle: &Cycle<'_>, state: &mut State, other: &Pod, node: &NodeInfo, amount: i64) {
    state.filter.change(cycle, other, node.index, amount);
}

/// Adds up what is preferred. False if no node is better than another.
pub fn pre_score(cycle: &Cycle<'_>, state: &mut State) -> bool {
    let args = &cycle.profile.args.inter_pod_affinity;
    let score =
        Score::new(cycle, args.hard_pod_affinity_weight, args.ignore_preferred_terms_of_existing_pods);
    let found = score.is_some();
    state.score = score.unwrap_or_default();
    found
}

/// The weight of the preferences that the node meets; to be normalized.
pub fn score(state: &State, node: &NodeInfo) -> i64 {
    state.score.of(node.index)
}

/// True if nodes have come or changed their labels, or pods that matter have come or gone.
pub fn may_fit_after(pod: &Pod, event: &Event<'_>) -> bool {
    // The labels of namespaces are not known here: what a term says of them may hold.
    let selected =
        |terms: &[Term], other: &Pod| terms.iter().any(|t| t.selector.matches(Some(&other.labels)));
    let matters = |other: &Pod| {
        selected(required(pod), other)
            || selected(anti_required(pod), other)
            || selected(anti_required(other), pod)
    };
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeChanged { old, new } => old.labels != new.labels,
        Event::PodPlaced(other) => selected(required(pod), other),
        Event::PodGone(other) => matters(other),
        Event::PodChanged { old, new } => old.labels != new.labels && (matters(old) || matters(new)),
        Event::Itself { old, new } => old.labels != new.labels,
        Event::Other { kind, .. } => *kind == "Namespace",
    }
}

/// How many pods, or how much weight, each domain of a label has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tally {
    label: Box<str>,
    domains: Arc<Domains>,
    counts: Vec<i64>,
}

impl Tally {
    fn new(snapshot: &Snapshot, label: &str) -> Self {
        let domains = snapshot.domains(label);
        Tally { label: label.into(), counts: vec![0; domains.count()], domains }
    }

    fn add(&mut self, node: NodeIndex, amount: i64) {
        if let Some(domain) = self.domains.of(node) {
            self.counts[domain] += amount;
        }
    }

    fn add_all(&mut self, members: &Members, weight: i64) {
        let counts = &mut self.counts;
        members.each_domain(&self.label, &self.domains, |domain, count| {
            counts[domain] += i64::from(count.pods) * weight;
        });
    }

    /// The count of the node's domain; `None` without the label.
    fn at(&self, node: NodeIndex) -> Option<i64> {
        self.domains.of(node).map(|domain| self.counts[domain])
    }

    fn is_zero(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

/// The pods that count for the filter, by domain. One pod's cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// By label: pods there whose own anti-affinity this pod would break.
    others: BTreeMap<Box<str>, Tally>,
    /// For each required term: pods that match all of them.
    near: Vec<Tally>,
    /// For each required anti-affinity term: pods that match it.
    far: Vec<Tally>,
    /// True if the pod would itself match all its required terms.
    matches_itself: bool,
}

fn namespace_labels<'a>(seen: &'a Observed, namespace: &str) -> Option<&'a Labels> {
    seen.namespaces.get(namespace)?.metadata.labels.as_ref()
}

fn means(term: &Term, seen: &Observed, namespace: &str, labels: &Labels) -> bool {
    term.matches(namespace, namespace_labels(seen, namespace), labels)
}

fn required(pod: &Pod) -> &[Term] {
    pod.terms.as_ref().map_or(&[], |t| &t.required)
}

fn anti_required(pod: &Pod) -> &[Term] {
    pod.terms.as_ref().map_or(&[], |t| &t.anti_required)
}

impl Filter {
    /// Counts the pods; `None` if nothing can stand in the pod's way.
    pub fn new(cycle: &Cycle<'_>) -> Option<Self> {
        let (pod, snapshot, seen) = (cycle.pod, cycle.snapshot, cycle.seen);
        let tallies = |terms: &[Term]| -> Vec<Tally> {
            terms.iter().map(|t| Tally::new(snapshot, &t.topology_key)).collect()
        };
        let mut filter = Filter {
            others: BTreeMap::new(),
            near: tallies(required(pod)),
            far: tallies(anti_required(pod)),
            matches_itself: matches_all(pod, &pod.meta.key.namespace, &pod.labels, seen),
        };
        for (group, members) in snapshot.term_groups() {
            for term in &group.terms.anti_required {
                if means(term, seen, &pod.meta.key.namespace, &pod.labels) {
                    filter.other(snapshot, &term.topology_key).add_all(members, 1);
                }
            }
        }
        if !filter.near.is_empty() || !filter.far.is_empty() {
            for (group, members) in snapshot.label_groups() {
                filter.count(pod, &group.namespace, &group.labels, seen, |tally| tally.add_all(members, 1));
            }
        }
        (!filter.others.is_empty() || !filter.near.is_empty() || !filter.far.is_empty()).then_some(filter)
    }

    /// Counts a pod in on a node (`amount` 1) or out (-1), to see what preemption would do.
    pub fn change(&mut self, cycle: &Cycle<'_>, other: &Pod, node: NodeIndex, amount: i64) {
        let (pod, seen) = (cycle.pod, cycle.seen);
        for term in anti_required(other) {
            if means(term, seen, &pod.meta.key.namespace, &pod.labels) {
                self.other(cycle.snapshot, &term.topology_key).add(node, amount);
            }
        }
        self.count(pod, &other.meta.key.namespace, &other.labels, seen, |tally| tally.add(node, amount));
    }

    fn other(&mut self, snapshot: &Snapshot, label: &str) -> &mut Tally {
        self.others.entry(label.into()).or_insert_with(|| Tally::new(snapshot, label))
    }

    /// Calls `add` for each tally that pods with these labels count in.
    fn count(
        &mut self,
        pod: &Pod,
        namespace: &str,
        labels: &Labels,
        seen: &Observed,
        mut add: impl FnMut(&mut Tally),
    ) {
        if matches_all(pod, namespace, labels, seen) {
            self.near.iter_mut().for_each(&mut add);
        }
        for (term, tally) in anti_required(pod).iter().zip(&mut self.far) {
            if means(term, seen, namespace, labels) {
                add(tally);
            }
        }
    }

    /// Why the pod cannot be on a node.
    pub fn check(&self, node: NodeIndex) -> Result<(), Misfit> {
        if !self.is_near(node) {
            return Err(Misfit::unresolvable(AFFINITY));
        }
        if self.far.iter().any(|tally| tally.at(node).is_some_and(|count| count > 0)) {
            return Err(Misfit::unschedulable(ANTI_AFFINITY));
        }
        if self.others.values().any(|tally| tally.at(node).is_some_and(|count| count > 0)) {
            return Err(Misfit::unschedulable(OTHERS_ANTI_AFFINITY));
        }
        Ok(())
    }

    fn is_near(&self, node: NodeIndex) -> bool {
        let mut there = true;
        for tally in &self.near {
            match tally.at(node) {
                None => return false,
                Some(count) => there &= count > 0,
            }
        }
        // The first of a series that wants to be together may go anywhere.
        there || (self.matches_itself && self.near.iter().all(Tally::is_zero))
    }
}

/// True if a pod with these labels matches all required affinity terms of `pod`, and there are some.
fn matches_all(pod: &Pod, namespace: &str, labels: &Labels, seen: &Observed) -> bool {
    let terms = required(pod);
    !terms.is_empty() && terms.iter().all(|term| means(term, seen, namespace, labels))
}

/// The weights that count for the score, by label. One pod's cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    tallies: BTreeMap<Box<str>, Tally>,
}

impl Score {
    /// Adds the weights up; `None` if no node is better than another.
    ///
    /// `hard_weight` is what counts for each required affinity of a pod that is there and means this
    /// one. With `only_own` the preferences of pods that are there do not matter to a pod that has
    /// none itself.
    pub fn new(cycle: &Cycle<'_>, hard_weight: i64, only_own: bool) -> Option<Self> {
        let (pod, snapshot, seen) = (cycle.pod, cycle.snapshot, cycle.seen);
        let none = PodTerms::default();
        let own = pod.terms.as_deref().unwrap_or(&none);
        let has_own = !own.preferred.is_empty() || !own.anti_preferred.is_empty();
        let mut score = Score::default();
        if only_own && !has_own {
            return None;
        }
        if has_own {
            for (group, members) in snapshot.label_groups() {
                let near = own.preferred.iter().map(|(weight, term)| (i64::from(*weight), term));
                let far = own.anti_preferred.iter().map(|(weight, term)| (-i64::from(*weight), term));
                for (weight, term) in near.chain(far) {
                    if means(term, seen, &group.namespace, &group.labels) {
                        score.tally(snapshot, term).add_all(members, weight);
                    }
                }
            }
        }
        for (group, members) in snapshot.term_groups() {
            let hard = group.terms.required.iter().map(|term| (hard_weight, term));
            let near = group.terms.preferred.iter().map(|(weight, term)| (i64::from(*weight), term));
            let far = group.terms.anti_preferred.iter().map(|(weight, term)| (-i64::from(*weight), term));
            for (weight, term) in hard.chain(near).chain(far) {
                if weight != 0 && means(term, seen, &pod.meta.key.namespace, &pod.labels) {
                    score.tally(snapshot, term).add_all(members, weight);
                }
            }
        }
        (!score.tallies.is_empty()).then_some(score)
    }

    fn tally(&mut self, snapshot: &Snapshot, term: &Term) -> &mut Tally {
        let label = &term.topology_key;
        self.tallies.entry(label.clone()).or_insert_with(|| Tally::new(snapshot, label))
    }

    /// The weight of a node.
    pub fn of(&self, node: NodeIndex) -> i64 {
        self.tallies.values().filter_map(|tally| tally.at(node)).sum()
    }
}

/// Brings weights to 0..=[`MAX_SCORE`] between the lowest and the highest.
pub fn normalize(scores: &mut [i64]) {
    let lowest = scores.iter().copied().min().unwrap_or(0);
    let range = scores.iter().copied().max().unwrap_or(0) - lowest;
    for score in scores {
        let part = i128::from(*score - lowest) * i128::from(MAX_SCORE);
        *score = if range == 0 { 0 } else { i64::try_from(part / i128::from(range)).unwrap_or(0) };
    }
}
