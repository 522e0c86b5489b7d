//! The agent's end of a pod's worker, which is kept going: one that has panicked is followed by another,
//! which finds the pod's sandbox and containers as they are.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use proa_supervise::{Task, keep};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::event::COMPONENT;
use crate::node::host::Host;
use crate::pod::observed::Verdict;
use crate::pod::told::{Orders, Told};
use crate::pod::worker::Worker;

const TASK: Task = Task { component: COMPONENT, name: "pod-worker" };

/// The agent's end of a worker.
pub struct Handle {
    /// Takes orders.
    pub orders: Orders,
    /// Takes newer versions of the pod.
    pub pod: watch::Sender<Arc<Pod>>,
    /// Cancelled when the API server does not know the pod any more.
    pub vanished: CancellationToken,
    /// The worker, until it has nothing left to do.
    pub task: AbortOnDropHandle<()>,
}

/// Starts a worker, of a pod that the node has taken or rejects. `finished` hears the pod's uid when
/// nothing of it is left on the node.
pub fn start(
    host: Arc<Host>,
    pod: Arc<Pod>,
    rejected: Option<Verdict>,
    finished: mpsc::UnboundedSender<String>,
) -> Handle {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (sender, newer) = watch::channel(pod);
    let vanished = CancellationToken::new();
    let (orders, ordered) = mpsc::unbounded_channel();
    let lives = Lives { host, rejected, newer, vanished: vanished.clone(), ordered: Mutex::new(ordered) };
    let task = tokio::spawn(async move {
        keep(TASK, &CancellationToken::new(), || lives.live()).await;
        let _ = finished.send(uid);
    });
    Handle { orders: Orders(orders), pod: sender, vanished, task: AbortOnDropHandle::new(task) }
}

/// What each life of a worker begins with.
struct Lives {
    host: Arc<Host>,
    rejected: Option<Verdict>,
    newer: watch::Receiver<Arc<Pod>>,
    vanished: CancellationToken,
    ordered: Mutex<mpsc::UnboundedReceiver<Told>>,
}

impl Lives {
    async fn live(&self) {
        let mut ordered = self.ordered.lock().await;
        let mut newer = self.newer.clone();
        let pod = Arc::clone(&newer.borrow_and_update());
        let mut worker = Worker::new(Arc::clone(&self.host), pod);
        match &self.rejected {
            Some(verdict) => worker.reject(verdict.clone()),
            None => Box::pin(worker.adopt()).await,
        }
        Box::pin(worker.run(&mut ordered, newer, self.vanished.clone())).await;
    }
}
