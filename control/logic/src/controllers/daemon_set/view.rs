//! What a decision about one DaemonSet reads, node by node, and what it comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSetSpec;

use super::fit::Fit;
use crate::controllers::revisions::{LABEL_REVISION, Revisions};
use crate::world::facts::{Key, Node, Pod};

/// One node, or the name of one that is gone, as one DaemonSet sees it.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub node: Option<&'a Node>,
    pub fit: Fit,
    /// Those that have a node first, of those the oldest.
    pub pods: Vec<&'a Arc<Pod>>,
}

impl<'a> Site<'a> {
    /// The pods that are not on their way out.
    pub fn staying(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().copied().filter(|p| p.meta.deleted.is_none())
    }
}

/// All that a decision about one DaemonSet reads.
pub(super) struct View<'a> {
    pub spec: &'a DaemonSetSpec,
    pub revisions: &'a Revisions,
    pub sites: BTreeMap<&'a str, Site<'a>>,
    pub now: Timestamp,
}

/// The pods to make and to delete.
#[derive(Debug, Default)]
pub(super) struct Steps<'a> {
    /// Names of nodes.
    pub create: BTreeSet<&'a str>,
    pub delete: BTreeMap<&'a Key, &'a Arc<Pod>>,
}

impl View<'_> {
    /// True for a pod of the newest template.
    pub fn is_new(&self, pod: &Pod) -> bool {
        pod.labels.get(LABEL_REVISION) == Some(&self.revisions.hash)
    }

    pub fn available_at(&self, pod: &Pod) -> Option<Timestamp> {
        pod.available_at(self.spec.min_ready_seconds.unwrap_or(0))
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        pod.meta.deleted.is_none() && self.available_at(pod).is_some_and(|at| at <= self.now)
    }
}
