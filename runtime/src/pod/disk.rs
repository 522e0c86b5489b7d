//! When what a pod has on the node's disk is measured, if that is limited, and what follows of it.
//!
//! Asked by the pod's worker, which lets `eviction::measure` do it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::backoff::later;
use crate::event::{Report, report};
use crate::pod::eviction;
use crate::pod::eviction::measure::{self, Measured};
use crate::pod::observed::{PodObserved, Step};
use crate::pod::plan::must_end;

/// What is watched, and when.
pub struct Disk {
    /// Nothing is watched without them.
    limits: Option<eviction::Limits>,
    due: Option<Timestamp>,
    running: bool,
}

/// What is to be done now.
pub enum Next {
    /// Nothing, until something else happens.
    Nothing,
    /// Nothing before then.
    Wait(Timestamp),
    /// Measure what the pod and these last runs of its containers have, by name and attempt.
    Measure(Vec<(String, u32)>),
}

/// What a measurement shows.
pub enum Finding {
    /// The pod keeps to its limits.
    Fine,
    /// The pod must end, for which this says why.
    Exceeds(String),
    /// Not all of it could be measured.
    Unclear(Report),
}

/// The newest runs of a pod's containers, by name and attempt.
pub fn newest_runs(seen: &PodObserved) -> Vec<(String, u32)> {
    seen.containers.iter().filter_map(|(name, c)| Some((name.clone(), c.runs.checked_sub(1)?))).collect()
}

impl Disk {
    /// Nothing measured yet.
    pub fn new(pod: &Pod) -> Self {
        Disk { limits: eviction::limits(pod), due: None, running: false }
    }

    /// Says what to do. A measurement counts as running from here on, until [`Disk::measured`].
    pub fn next(&mut self, pod: &Pod, seen: &PodObserved, now: Timestamp) -> Next {
        let ends = pod.spec.as_ref().is_none_or(|spec| must_end(pod, spec, seen));
        if self.limits.is_none() || self.running || ends || seen.sandbox != Step::Done {
            return Next::Nothing;
        }
        let due = *self.due.get_or_insert_with(|| later(now, eviction::PERIOD));
        if due > now {
            return Next::Wait(due);
        }
        self.running = true;
        Next::Measure(newest_runs(seen))
    }

    /// Takes in a measurement.
    pub fn measured(&mut self, measured: Measured, now: Timestamp) -> Finding {
        self.running = false;
        self.due = Some(later(now, measure::pause(eviction::PERIOD, measured.took)));
        let limits = self.limits.as_ref();
        if let Some(message) = limits.and_then(|limits| eviction::exceeded(limits, &measured.used)) {
            return Finding::Exceeds(message);
        }
        measured.problem.map_or(Finding::Fine, |problem| {
            let text = format!("Local storage could not be measured in full: {problem}");
            Finding::Unclear(report(None, true, "FailedMeasure", text))
        })
    }
}
