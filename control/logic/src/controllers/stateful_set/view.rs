//! What a decision about one StatefulSet reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};

use crate::controllers::revisions::{LABEL_REVISION, Revisions};
use crate::world::facts::{Phase, Pod};
use crate::world::observed::Observed;

/// All that a decision about one StatefulSet reads.
pub(super) struct View<'a> {
    pub seen: &'a Observed,
    pub set: &'a StatefulSet,
    pub spec: &'a StatefulSetSpec,
    pub revisions: &'a Revisions,
    /// The name of the revision that pods below the partition are made from.
    pub current: &'a str,
    /// By ordinal, all pods of the set.
    pub pods: BTreeMap<i32, &'a Arc<Pod>>,
    pub now: Timestamp,
}

impl<'a> View<'a> {
    pub fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    pub fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    pub fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    /// The ordinals that there are to be.
    pub fn ordinals(&self) -> std::ops::Range<i32> {
        self.start()..self.start().saturating_add(self.wanted())
    }

    /// The first ordinal that the newest template is for.
    pub fn partition(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return self.start();
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        self.start().saturating_add(rolling.and_then(|r| r.partition).unwrap_or(0))
    }

    pub fn rolls(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    pub fn is_newest(&self, pod: &Pod) -> bool {
        pod.labels.get(LABEL_REVISION) == Some(&self.revisions.name)
    }

    pub fn available_at(&self, pod: &Pod) -> Option<Timestamp> {
        let runs = pod.phase == Phase::Running && pod.meta.deleted.is_none();
        pod.available_at(self.spec.min_ready_seconds.unwrap_or(0)).filter(|_| runs)
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        self.available_at(pod).is_some_and(|at| at <= self.now)
    }

    /// The pods that there are not to be any more, the last first.
    pub fn condemned(&self) -> Vec<&'a Arc<Pod>> {
        let ordinals = self.ordinals();
        self.pods.iter().rev().filter(|(n, _)| !ordinals.contains(*n)).map(|(_, pod)| *pod).collect()
    }
}
