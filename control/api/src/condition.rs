//! Conditions: one entry per type, whose `lastTransitionTime` moves only when the status does.
//!
//! Every kind has a condition type of its own in the API; [`Condition`] is what they share.

use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::{NamespaceCondition, NodeCondition, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The part that all condition types share.
pub trait Condition: Clone {
    /// What the condition is about; unique in its list.
    fn type_(&self) -> &str;
    /// `True`, `False` or `Unknown`.
    fn status(&self) -> &str;
    /// Why, in one word.
    fn reason(&self) -> Option<&str>;
    /// When `status` last changed.
    fn last_transition_time(&mut self) -> &mut Option<Time>;
}

macro_rules! conditions {
    ($($ty:ty),*) => {$(
        impl Condition for $ty {
            fn type_(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn reason(&self) -> Option<&str> { self.reason.as_deref() }
            fn last_transition_time(&mut self) -> &mut Option<Time> { &mut self.last_transition_time }
        }
    )*};
}
conditions!(
    DeploymentCondition,
    HorizontalPodAutoscalerCondition,
    JobCondition,
    NamespaceCondition,
    NodeCondition,
    PodCondition,
    ReplicaSetCondition
);

/// The condition of this type, if there is one.
pub fn find<'a, C: Condition>(conditions: Option<&'a Vec<C>>, type_: &str) -> Option<&'a C> {
    conditions?.iter().find(|c| c.type_() == type_)
}

/// True if the condition of this type has status `True`.
pub fn is_true<C: Condition>(conditions: Option<&Vec<C>>, type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status() == "True")
}

/// Puts `new` in the place of the condition of its type. The transition time of the old one is
/// kept while the status stays the same, so that setting a condition twice changes nothing.
pub fn set<C: Condition>(conditions: &mut Option<Vec<C>>, mut new: C) {
    let list = conditions.get_or_insert_with(Vec::new);
    match list.iter_mut().find(|c| c.type_() == new.type_()) {
        Some(old) => {
            if old.status() == new.status() {
                *new.last_transition_time() = old.last_transition_time().clone();
            }
            *old = new;
        }
        None => list.push(new),
    }
}

/// The same, but leaves the condition as it is while status and reason stay. Its text may name
/// something that is new each time, and would make every look at the object a change of it.
pub fn set_if_turned<C: Condition>(conditions: &mut Option<Vec<C>>, new: C) {
    let turned = find(conditions.as_ref(), new.type_())
        .is_none_or(|old| old.status() != new.status() || old.reason() != new.reason());
    if turned {
        set(conditions, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_text_alone_is_no_turn() {
        let condition = |status: &str, reason: &str, message: &str| ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: None,
        };
        let mut list = None;
        for (status, reason, message, kept) in [
            ("True", "FailedCreate", "a", "a"),
            ("True", "FailedCreate", "b", "a"),
            ("True", "FailedDelete", "c", "c"),
            ("False", "FailedDelete", "d", "d"),
        ] {
            set_if_turned(&mut list, condition(status, reason, message));
            assert_eq!(list, Some(vec![condition(status, reason, kept)]));
        }
    }
}
