//! What a pod's worker is told: by its own tasks, and by the node.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Sandbox;
use crate::event::Report;
use crate::pod::eviction::measure::Measured;
use crate::pod::observed::Outcome;

/// What a worker takes in, one after the other.
pub enum Told {
    /// Something has come out.
    Outcome(Outcome),
    /// The sandbox runs and has this address.
    Sandbox(Sandbox, IpAddr),
    /// A change of the status was written, or not.
    Written(Box<Result<Pod, kube::Error>>, Value),
    /// Volumes were brought up to date, or not; none if there was nothing to do.
    Refreshed(Option<Result<(), String>>),
    /// A step that changes nothing by itself was not done.
    NotDone(Report),
    /// The disk was measured for the pod's limits.
    Measured(Measured),
    /// The node wants to know what the pod has on the disk.
    Measure(oneshot::Sender<Measured>),
}

/// What the node may want of a pod's worker.
#[derive(Clone)]
pub struct Orders(pub mpsc::UnboundedSender<Told>);

impl Orders {
    /// Measures what the pod has on the node's disk; `None` if the pod has ended or is about to.
    pub async fn measure(&self) -> Option<Measured> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Told::Measure(answer)).ok()?;
        answered.await.ok()
    }

    /// Ends the pod, for which the message says why.
    pub fn evict(&self, message: String) {
        // A worker that has ended has ended its pod.
        let _ = self.0.send(Told::Outcome(Outcome::Exceeds(message)));
    }
}
