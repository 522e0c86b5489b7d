//! What a decision about one Job reads.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use proa_api::names::FINALIZER_JOB_TRACKING;

use crate::world::facts::{Phase, Pod};

/// All that a decision about one Job reads.
pub(super) struct View<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    /// Its status as it was.
    pub status: JobStatus,
    pub pods: Vec<&'a Arc<Pod>>,
    pub now: Timestamp,
}

impl<'a> View<'a> {
    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(i32::MAX)
    }

    pub fn parallelism(&self) -> i32 {
        self.spec.parallelism.unwrap_or(1)
    }

    /// The pods that neither have ended nor are on their way out.
    pub fn active(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().copied().filter(|p| p.is_active())
    }

    /// The pods that are on their way out and have not ended.
    pub fn terminating(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().copied().filter(|p| p.meta.deleted.is_some() && !p.is_finished() && !p.stopped)
    }

    /// True if a pod is replaced only once it has ended, not when it is on its way out.
    pub fn replaces_ended_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    /// True if the pod has still to be counted.
    pub fn holds(&self, pod: &Pod) -> bool {
        pod.meta.has_finalizer(FINALIZER_JOB_TRACKING)
    }

    /// True if the pod counts as a failed one. One that is deleted may never say how it ended; one
    /// that was let go before is none of the attempts.
    pub fn has_failed(&self, pod: &Pod) -> bool {
        match pod.phase {
            _ if pod.meta.deleted.is_some() && !self.holds(pod) => false,
            Phase::Failed => true,
            Phase::Succeeded => false,
            _ => pod.stopped || pod.meta.deleted.is_some() && !self.replaces_ended_only(),
        }
    }

    /// When a pod that counts as failed or has succeeded ended.
    pub fn ended_at(&self, pod: &Pod) -> Timestamp {
        let at = pod.end.as_ref().map(|end| end.at).or(pod.leaving_since);
        at.unwrap_or(self.now).min(self.now)
    }

    /// The index of a pod, if it is one of the Job's.
    pub fn index(&self, pod: &Pod) -> Option<i32> {
        pod.notes.as_ref().and_then(|n| n.index).filter(|index| *index < self.completions())
    }
}
