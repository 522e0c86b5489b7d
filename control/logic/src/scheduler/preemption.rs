//! DefaultPreemption: whom to send away so that a more important pod fits.
//!
//! Asked by the [`Scheduler`](super::Scheduler) when a pod fits nowhere. Rules:
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>. It tries
//! on copies of nodes and never changes anything itself.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use proa_api::selector::Selector;

use super::cycle::{self, Diagnosis};
use super::explain::Reasons;
use super::framework::{Cycle, Misfit};
use super::node_info::NodeInfo;
use super::plugins::CycleState;
use crate::world::facts::{Key, Pod};

/// What preemption comes to.
#[derive(Debug)]
pub enum Preemption {
    /// These go from this node.
    Victims {
        /// The node.
        node: Arc<str>,
        /// The most important first.
        victims: Vec<Arc<Pod>>,
    },
    /// Nothing can be done, for this reason; a nomination is void.
    Nothing(String),
    /// Nothing is to be done now, for this reason; a nomination stands.
    Wait(&'static str),
}

/// A node and who would have to go.
struct Candidate<'a> {
    node: &'a NodeInfo,
    victims: Vec<Arc<Pod>>,
    violations: usize,
}

/// Decides who goes. `offset` says where among the nodes to begin.
pub fn preempt(
    cycle: &Cycle<'_>,
    state: &CycleState,
    diagnosis: &Diagnosis,
    offset: usize,
    now: Timestamp,
) -> Preemption {
    if let Some(why) = not_eligible(cycle, diagnosis) {
        return Preemption::Wait(why);
    }
    let all = cycle.snapshot.len();
    let nodes = worth_a_try(cycle, diagnosis);
    let budgets = Budgets::of(cycle);
    let enough = enough(cycle, all);
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    let mut reasons = Reasons::default();
    let mut explained = 0;
    for turn in 0..nodes.len() {
        let node = nodes[(offset + turn) % nodes.len()];
        match select_victims(cycle, state, node, &budgets, now) {
            Ok(candidate) => candidates.push(candidate),
            Err(misfit) => {
                explained += 1;
                misfit.reason.tell(cycle.pod, Some(&node.node), |text| reasons.add(text, 1));
            }
        }
        if candidates.len() >= enough && candidates.iter().any(|c| c.violations == 0) {
            break;
        }
    }
    match pick(candidates, now) {
        Some(best) => Preemption::Victims { node: best.node.name().clone(), victims: best.victims },
        None => {
            reasons.add("Preemption is not helpful for scheduling", all - explained);
            Preemption::Nothing(reasons.text(all))
        }
    }
}

fn not_eligible(cycle: &Cycle<'_>, diagnosis: &Diagnosis) -> Option<&'static str> {
    if cycle.wishes.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let name = cycle.nominated.node_of(&cycle.pod.meta.key)?;
    let node = cycle.snapshot.by_name(name)?;
    let void = diagnosis.rejected.iter().any(|r| r.node == node.index && r.misfit.unresolvable);
    let leaving = |p: &Arc<Pod>| p.priority < cycle.pod.priority && p.meta.deleted.is_some() && p.preempted;
    if !void && node.pods.iter().any(leaving) {
        return Some("not eligible due to a terminating pod on the nominated node.");
    }
    None
}

/// The nodes that could take the pod if others left them.
fn worth_a_try<'a>(cycle: &Cycle<'a>, diagnosis: &Diagnosis) -> Vec<&'a NodeInfo> {
    match &diagnosis.pod {
        Some((_, misfit)) if misfit.unresolvable => Vec::new(),
        Some(_) => cycle.snapshot.nodes().collect(),
        None => {
            let resolvable = diagnosis.rejected.iter().filter(|r| !r.misfit.unresolvable);
            resolvable.map(|r| cycle.node(r.node)).collect()
        }
    }
}

fn enough(cycle: &Cycle<'_>, all: usize) -> usize {
    let args = &cycle.profile.args.preemption;
    let number = |n: i64| usize::try_from(n).unwrap_or(0);
    (all * number(args.min_candidate_nodes_percentage) / 100)
        .max(number(args.min_candidate_nodes_absolute))
        .max(1)
}

/// The fewest and least important pods whose leaving lets the pod be on the node: all that
/// matter less go, and as many as possible are let back, the most important first, those that
/// a budget protects before the others.
fn select_victims<'a>(
    cycle: &Cycle<'_>,
    state: &CycleState,
    node: &'a NodeInfo,
    budgets: &Budgets,
    now: Timestamp,
) -> Result<Candidate<'a>, Misfit> {
    let mut lesser: Vec<Arc<Pod>> =
        node.pods.iter().filter(|p| p.priority < cycle.pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Misfit::unresolvable("No preemption victims found for incoming pod"));
    }
    lesser.sort_by_cached_key(|p| importance(p, now));
    let mut trial = Trial { cycle, state: state.clone(), node: node.clone() };
    for pod in &lesser {
        trial.remove(pod);
    }
    trial.fits()?;
    let (protected, free) = budgets.split(lesser);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (pod, violates) in
        protected.into_iter().map(|p| (p, true)).chain(free.into_iter().map(|p| (p, false)))
    {
        trial.add(&pod);
        if trial.fits().is_err() {
            trial.remove(&pod);
            violations += usize::from(violates);
            victims.push(pod);
        }
    }
    victims.sort_by_cached_key(|p| importance(p, now));
    Ok(Candidate { node, victims, violations })
}

/// A node as it would be.
struct Trial<'a> {
    cycle: &'a Cycle<'a>,
    state: CycleState,
    node: NodeInfo,
}

impl Trial<'_> {
    fn remove(&mut self, pod: &Arc<Pod>) {
        self.node.remove(&pod.meta.key);
        cycle::count_pod(self.cycle, &mut self.state, pod, &self.node, -1);
    }

    fn add(&mut self, pod: &Arc<Pod>) {
        self.node.add(pod.clone());
        cycle::count_pod(self.cycle, &mut self.state, pod, &self.node, 1);
    }

    fn fits(&self) -> Result<(), Misfit> {
        cycle::fits(self.cycle, &self.state, &self.node).map_err(|(_, misfit)| misfit)
    }
}

/// The most important first: higher priority, then longer on its node.
fn importance(pod: &Pod, now: Timestamp) -> (Reverse<i32>, Timestamp, Key) {
    (Reverse(pod.priority), pod.started.unwrap_or(now), pod.meta.key.clone())
}

/// The budgets that say how many pods may go.
struct Budgets(Vec<Budget>);

struct Budget {
    namespace: Arc<str>,
    selector: Selector,
    allowed: i32,
    object: Arc<PodDisruptionBudget>,
}

impl Budgets {
    fn of(cycle: &Cycle<'_>) -> Self {
        let budgets = cycle.seen.pod_disruption_budgets.iter();
        let budget = |(key, object): (&Key, &Arc<PodDisruptionBudget>)| {
            let selector = Selector::from_object(object.spec.as_ref().and_then(|s| s.selector.as_ref()));
            let allowed = object.status.as_ref().map_or(0, |s| s.disruptions_allowed);
            Budget { namespace: key.namespace.clone(), selector, allowed, object: object.clone() }
        };
        Budgets(budgets.map(budget).filter(|b| !b.selector.is_everything()).collect())
    }

    /// Those whose leaving, after those before them have left, a budget does not allow, and the
    /// others.
    fn split(&self, pods: Vec<Arc<Pod>>) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let mut left: Vec<i32> = self.0.iter().map(|b| b.allowed).collect();
        pods.into_iter().partition(|pod| {
            let mut violates = false;
            for (budget, left) in self.0.iter().zip(&mut left) {
                if budget.covers(pod) {
                    *left -= 1;
                    violates |= *left < 0;
                }
            }
            violates
        })
    }
}

impl Budget {
    fn covers(&self, pod: &Pod) -> bool {
        // One that the API server has already let go is counted in the budget's status.
        let counted = |name: &str| {
            let disrupted = self.object.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            disrupted.is_some_and(|pods| pods.contains_key(name))
        };
        self.namespace == pod.meta.key.namespace
            && !pod.labels.is_empty()
            && self.selector.matches(Some(&pod.labels))
            && !counted(&pod.meta.key.name)
    }
}

/// The candidate whose victims matter least.
fn pick(candidates: Vec<Candidate<'_>>, now: Timestamp) -> Option<Candidate<'_>> {
    let rank = |c: &Candidate<'_>| {
        let highest = c.victims.first().map_or(i32::MIN, |p| p.priority);
        // Adding this to each priority makes one more victim count for more, whatever its sign.
        let sum: i64 = c.victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
        let of_highest = c.victims.iter().filter(|p| p.priority == highest);
        let oldest = of_highest.map(|p| p.started.unwrap_or(now)).min();
        (c.violations, highest, sum, c.victims.len(), Reverse(oldest))
    };
    candidates.into_iter().min_by_key(rank)
}
