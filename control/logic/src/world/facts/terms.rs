//! What a pod says of the pods beside it: inter-pod affinity and topology spread constraints, with
//! their selectors parsed once.
//!
//! Made with the pod's fact by [`super::pod`]; read by the scheduler's plugins InterPodAffinity and
//! PodTopologySpread. Affinity stays in memory while the pod is bound, because it binds later pods
//! too; constraints on spreading matter only until then.

use k8s_openapi::api::core::v1 as core;
use proa_api::selector::{Labels, Selector};

/// The inter-pod affinity of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodTerms {
    /// Pods that must be near.
    pub required: Box<[Term]>,
    /// Pods that should be near, with weights of 1–100.
    pub preferred: Box<[(i32, Term)]>,
    /// Pods that must not be near.
    pub anti_required: Box<[Term]>,
    /// Pods that should not be near, with weights of 1–100.
    pub anti_preferred: Box<[(i32, Term)]>,
}

/// Some pods, and what being near them means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Nodes with the same value of this label are one place.
    pub topology_key: Box<str>,
    /// Which pods.
    pub selector: Selector,
    /// The namespaces they are in, beside those that the next selector names.
    pub namespaces: Box<[Box<str>]>,
    /// The labels of namespaces they are in.
    pub namespace_selector: Selector,
}

/// A constraint on how pods spread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spread {
    /// By how many pods domains may differ.
    pub max_skew: i64,
    /// Nodes with the same value of this label are one domain.
    pub topology_key: Box<str>,
    /// True for `DoNotSchedule`.
    pub required: bool,
    /// Which pods of the namespace count.
    pub selector: Selector,
    /// With fewer domains than this, the emptiest counts as having no pod.
    pub min_domains: Option<i64>,
    /// True if nodes that the pod's node affinity or selector rules out do not count.
    pub honors_affinity: bool,
    /// True if nodes with taints that the pod does not tolerate do not count.
    pub honors_taints: bool,
}

impl PodTerms {
    /// What a pod's spec says; `None` if it says nothing.
    pub fn of(spec: &core::PodSpec, namespace: &str) -> Option<Self> {
        let affinity = spec.affinity.as_ref()?;
        let term = |term: &core::PodAffinityTerm| Term::of(term, namespace);
        let terms = |terms: &Option<Vec<core::PodAffinityTerm>>| terms.iter().flatten().map(term).collect();
        let weighed = |terms: &Option<Vec<core::WeightedPodAffinityTerm>>| {
            terms.iter().flatten().map(|t| (t.weight, term(&t.pod_affinity_term))).collect()
        };
        let mut all = PodTerms::default();
        if let Some(with) = &affinity.pod_affinity {
            all.required = terms(&with.required_during_scheduling_ignored_during_execution);
            all.preferred = weighed(&with.preferred_during_scheduling_ignored_during_execution);
        }
        if let Some(apart) = &affinity.pod_anti_affinity {
            all.anti_required = terms(&apart.required_during_scheduling_ignored_during_execution);
            all.anti_preferred = weighed(&apart.preferred_during_scheduling_ignored_during_execution);
        }
        (all != PodTerms::default()).then_some(all)
    }
}

impl Term {
    fn of(term: &core::PodAffinityTerm, namespace: &str) -> Self {
        let listed = term.namespaces.as_deref().unwrap_or_default();
        let mut namespaces: Vec<Box<str>> = listed.iter().map(|n| n.as_str().into()).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.into());
        }
        Term {
            topology_key: term.topology_key.as_str().into(),
            selector: Selector::from_object(term.label_selector.as_ref()),
            namespaces: namespaces.into(),
            namespace_selector: Selector::from_object(term.namespace_selector.as_ref()),
        }
    }

    /// True if it means pods with these labels in this namespace, which has these labels.
    pub fn matches(&self, namespace: &str, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        let here = self.namespaces.iter().any(|n| **n == *namespace);
        (here || self.namespace_selector.matches(namespace_labels)) && self.selector.matches(Some(labels))
    }
}

impl Spread {
    /// The constraint in a pod's spec.
    pub fn of(constraint: &core::TopologySpreadConstraint) -> Self {
        Spread {
            max_skew: constraint.max_skew.into(),
            topology_key: constraint.topology_key.as_str().into(),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            selector: Selector::from_object(constraint.label_selector.as_ref()),
            min_domains: constraint.min_domains.map(i64::from),
            honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}
