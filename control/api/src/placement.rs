//! Where a pod may be: what it says of nodes, and what nodes say of pods.
//!
//! Read by the scheduler and by the node, which looks again at what it is given. Rules:
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>,
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>.

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration, TopologySelectorLabelRequirement,
    TopologySelectorTerm,
};

use crate::selector::{Labels, Operator, Requirement};

/// A term of a node selector, read.
#[derive(Clone, Debug)]
pub struct Term {
    labels: Vec<Requirement>,
    /// What it says of the node's name.
    pub names: Vec<Requirement>,
    /// True for a term that says nothing, or something that no node can meet.
    never: bool,
}

impl Term {
    /// Reads a term.
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let labels: Option<Vec<_>> = expressions.iter().map(requirement).collect();
        let names: Option<Vec<_>> =
            fields.iter().map(|f| requirement(f).filter(|_| f.key == "metadata.name")).collect();
        let never = (expressions.is_empty() && fields.is_empty()) || labels.is_none() || names.is_none();
        Term { labels: labels.unwrap_or_default(), names: names.unwrap_or_default(), never }
    }

    /// Reads a term of a StorageClass's allowed topologies: each label has one of the values.
    pub fn of_topology(term: &TopologySelectorTerm) -> Self {
        let expressions = term.match_label_expressions.iter().flatten();
        let one_of = |r: &TopologySelectorLabelRequirement| Requirement {
            key: r.key.clone(),
            operator: Operator::In,
            values: r.values.clone(),
        };
        Term { labels: expressions.map(one_of).collect(), names: Vec::new(), never: false }
    }

    /// True if a node meets all of it; a term that says nothing is met by none.
    pub fn matches(&self, labels: &Labels, name: &str) -> bool {
        !self.never
            && self.labels.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
            && self.names.iter().all(|r| r.matches(Some(name)))
    }
}

/// True if a pod's `nodeSelector` and required node affinity let it be on the node.
pub fn is_wanted(spec: &PodSpec, labels: &Labels, name: &str) -> bool {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|r| &r.node_selector_terms);
    spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && terms.is_none_or(|terms| terms.iter().any(|term| Term::of(term).matches(labels, name)))
}

/// True if the toleration is for this taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => key.is_empty() || key == taint.key,
        "Equal" | "" => {
            key == taint.key
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

fn requirement(requirement: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    let values = requirement.values.clone().unwrap_or_default();
    Some(Requirement { key: requirement.key.clone(), operator, values })
}
