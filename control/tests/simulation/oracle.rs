//! What the scheduler promises, checked at each of its decisions against what it can know: the
//! watch as far as it has come, and its own decisions that the watch has not shown yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proa_api::resources::Resources;
use proa_api::selector::Selector;
use proa_logic::world::facts::{Node, Pod};
use proa_logic::world::plan::{Change, Plan, Reference, Verb};
use proa_logic::world::{Key, Observed};

use super::api::Api;

/// Decisions that the watch has not shown.
#[derive(Default)]
pub struct Decided {
    /// Pods on their way to a node.
    bound: BTreeMap<Key, (Arc<Pod>, Arc<str>)>,
    /// Pods for which room is being made.
    nominated: BTreeSet<Key>,
}

impl Decided {
    /// Lets go of what the watch has shown.
    pub fn forget(&mut self, seen: &Observed) {
        let waits = |key: &Key, uid: Option<&str>| {
            let pod = seen.pods.get(key).filter(|p| p.node.is_none() && p.is_active());
            pod.is_some_and(|p| uid.is_none_or(|uid| *p.meta.uid == *uid))
        };
        self.bound.retain(|key, (pod, _)| waits(key, Some(&pod.meta.uid)));
        self.nominated.retain(|key| waits(key, None));
    }

    /// What was decided about a pod has come to nothing.
    pub fn fail(&mut self, key: &Key) {
        self.bound.remove(key);
    }

    /// Checks a decision and takes note of it.
    pub fn check(&mut self, api: &mut Api, seen: &Observed, key: &Key, plan: &Plan) {
        let mut victims = Vec::new();
        for action in &plan.actions {
            match &action.verb {
                Verb::Bind { pod, node } => {
                    let Some(pod) = seen.pods.get(key).filter(|p| *p.meta.uid == *pod.uid) else { continue };
                    self.check_bind(api, seen, pod, node);
                    self.bound.insert(key.clone(), (pod.clone(), node.as_str().into()));
                }
                Verb::Delete { target, .. } => victims.push(target),
                Verb::Patch { target, change: Change::Merge(patch), .. }
                    if patch["status"].get("nominatedNodeName").is_some() =>
                {
                    self.nominated.insert(Key::new(&target.namespace, &target.name));
                }
                _ => {}
            }
        }
        if let Some(pod) = seen.pods.get(key).filter(|_| !victims.is_empty()) {
            api.meet("a pod makes room");
            self.check_budgets(api, seen, pod, &victims);
            self.nominated.insert(key.clone());
        }
    }

    /// Pods that take room on nodes, with their nodes.
    fn placed<'a>(&'a self, seen: &'a Observed) -> impl Iterator<Item = (&'a Arc<Pod>, &'a Arc<str>)> {
        let there = seen.pods.iter().filter(|p| !p.is_finished());
        let there = there.filter_map(|p| Some((p, p.node.as_ref()?)));
        there.chain(self.bound.values().map(|(pod, node)| (pod, node)))
    }

    fn check_bind(&self, api: &mut Api, seen: &Observed, pod: &Pod, node: &str) {
        let name = &pod.meta.key.name;
        let Some(target) = seen.nodes.get(node) else { panic!("{name} is bound to {node}, which is gone") };
        assert!(!target.unschedulable || !pod.tolerations.is_empty(), "{name} is bound to a cordoned node");
        for spread in pod.wishes.iter().flat_map(|w| w.spread.iter()).filter(|s| s.required) {
            let domain = |node: &Node| node.labels.get(&*spread.topology_key).cloned();
            let mut counts: BTreeMap<String, i64> =
                seen.nodes.values().filter_map(|n| Some((domain(n)?, 0))).collect();
            let counted = self.placed(seen).filter(|(p, _)| {
                p.meta.deleted.is_none()
                    && p.meta.key.namespace == pod.meta.key.namespace
                    && spread.selector.matches(Some(&p.labels))
            });
            for (_, node) in counted {
                if let Some(domain) = seen.nodes.get(node).and_then(|n| domain(n)) {
                    *counts.entry(domain).or_default() += 1;
                }
            }
            let here = domain(target).map_or(0, |domain| counts[&domain]) + 1;
            let least = counts.values().min().copied().unwrap_or(0);
            assert!(
                here - least <= spread.max_skew,
                "{name} on {node} makes a skew of {} in {counts:?}:\n{}",
                here - least,
                api.tail(40)
            );
            api.meet("a pod is spread");
        }
    }

    /// Where room can be made without touching what a budget protects, it is made so. Only asked
    /// where nothing but resources decides: other rules are for the tables of the plugins.
    fn check_budgets(&self, api: &mut Api, seen: &Observed, pod: &Arc<Pod>, victims: &[&Reference]) {
        let key = &pod.meta.key;
        let plain = pod.terms.is_none()
            && pod.claims.is_empty()
            && pod.wishes.as_ref().is_some_and(|w| w.spread.is_empty() && w.node_selector.is_empty());
        let others = self.nominated.iter().any(|other| other != key)
            || seen
                .pods
                .unbound()
                .any(|p| p.meta.key != *key && p.wishes.as_ref().is_some_and(|w| w.nominated.is_some()));
        if !plain || others {
            return;
        }
        let covering = |p: &Pod| {
            let budgets = seen.pod_disruption_budgets.in_namespace(&p.meta.key.namespace);
            let covers = budgets.filter(|(_, b)| {
                Selector::from_object(b.spec.as_ref().and_then(|s| s.selector.as_ref()))
                    .matches(Some(&p.labels))
            });
            covers.map(|(_, b)| b.status.clone().unwrap_or_default()).collect::<Vec<_>>()
        };
        let suits = |node: &Node| {
            node.taints.is_empty() && !node.unschedulable && node.meta.deleted.is_none() && {
                let mut used = Resources::default();
                used.add(&pod.requests);
                let stay = self.placed(seen).filter(|(p, on)| {
                    **on == node.meta.key.name && !(p.priority < pod.priority && covering(p).is_empty())
                });
                stay.for_each(|(p, _)| used.add(&p.requests));
                fits(&used, &node.allocatable)
            }
        };
        if !seen.nodes.values().any(|node| suits(node)) {
            return;
        }
        api.meet("room can be made within all budgets");
        for victim in victims {
            let Some(victim) = seen.pods.get(&Key::new(&victim.namespace, &victim.name)) else { continue };
            for status in covering(victim) {
                let is_gone = status.disrupted_pods.is_some_and(|d| d.contains_key(&*victim.meta.key.name));
                assert!(
                    status.disruptions_allowed > 0 || is_gone,
                    "{} goes for {} against its budget:\n{}",
                    victim.meta.key.name,
                    key.name,
                    api.tail(40)
                );
            }
        }
    }
}

fn fits(used: &Resources, all: &Resources) -> bool {
    used.cpu_millis <= all.cpu_millis && used.memory_bytes <= all.memory_bytes && used.pods <= all.pods
}

/// Nobody is sent away for one that matters no more.
pub fn check_victim(api: &Api, preemptor: &Key, victim: &Reference) {
    let priority = |namespace: &str, name: &str| {
        let pod = api.get("v1 Pod", namespace, name)?;
        Some(pod["spec"]["priority"].as_i64().unwrap_or(0))
    };
    let highest = priority(&preemptor.namespace, &preemptor.name);
    if let (Some(one), Some(other)) = (highest, priority(&victim.namespace, &victim.name)) {
        assert!(other < one, "{victim} with {other} goes for {} with {one}", preemptor.name);
    }
}
