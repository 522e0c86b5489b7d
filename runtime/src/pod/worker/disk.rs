//! Watches what a pod has on the node's disk, if that is limited.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Told, Worker};
use crate::backoff::later;
use crate::pod::eviction;
use crate::pod::eviction::measure::{Measured, measure};
use crate::pod::observed::{Outcome, Step, report};
use crate::pod::plan::must_end;

/// The pause between two measurements of the disk is so many times as long as one takes, at least.
const MEASURE_SHARE: u32 = 20;

/// What is watched, and when.
pub(super) struct Disk {
    /// Nothing is watched without them.
    limits: Option<eviction::Limits>,
    due: Option<Timestamp>,
    running: bool,
}

impl Disk {
    pub(super) fn new(pod: &Pod) -> Self {
        Disk { limits: eviction::limits(pod), due: None, running: false }
    }
}

impl Worker {
    /// Measures what the pod has on the disk from time to time, if that is limited; returns when to
    /// look again.
    pub(super) fn keep_disk(&mut self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.pod.spec.as_ref().is_none_or(|spec| must_end(&self.pod, spec, &self.seen));
        if self.disk.limits.is_none() || self.disk.running || ends || self.seen.sandbox != Step::Done {
            return None;
        }
        let due = *self.disk.due.get_or_insert_with(|| later(now, eviction::PERIOD));
        if due > now {
            return Some(due);
        }
        self.disk.running = true;
        let runs = self.seen.containers.iter();
        let runs: Vec<_> =
            runs.filter_map(|(name, c)| Some((name.clone(), c.runs.checked_sub(1)?))).collect();
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        self.spawn(async move |tell| tell(Told::Measured(measure(&host.paths, &pod, &runs).await)));
        None
    }

    pub(super) fn disk_measured(&mut self, measured: Measured) {
        self.disk.running = false;
        let pause = eviction::PERIOD.max(measured.took * MEASURE_SHARE);
        self.disk.due = Some(later(Timestamp::now(), pause));
        let limits = self.disk.limits.as_ref();
        if let Some(message) = limits.and_then(|limits| eviction::exceeded(limits, &measured.used)) {
            self.apply(Outcome::Exceeds(message));
        } else if let Some(problem) = measured.problem {
            let text = format!("Local storage could not be measured in full: {problem}");
            self.report(vec![report(None, true, "FailedMeasure", text)]);
        }
    }
}
