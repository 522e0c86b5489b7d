//! What pods and nodes use of CPU and memory, asked from the nodes.
//!
//! Read by `metrics.k8s.io` ([`crate::http`]) and by the autoscaler's shell. Nothing is measured
//! unless somebody asks: a question scrapes every node's `/metrics/resource`, and CPU is what was
//! used since an earlier question. The first question for long waits a second for the second
//! reading that it takes. An idle cluster in which nobody asks measures nothing.
//!
//! - [`history`]: readings, and what was used between two of them
//! - [`text`]: the readings in what a node says

pub mod history;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::Kind;
use serde_json::Value;
use tokio::sync::Mutex;

pub use history::{ContainerName, NodeUsage, Usage};

use crate::kubelet::Kubelets;
use crate::registry::{ListOptions, Registry};
use history::History;

/// Questions that come closer together get the same answer.
const FRESH: Duration = Duration::from_secs(1);
/// The shortest time over which the use of CPU is told.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// A node that has not answered by then is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// No node has more to say.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// What every node uses, by its name.
pub type Snapshot = BTreeMap<String, NodeUsage>;

/// The containers of a pod with what they use: all that run, or none, because a pod is measured as
/// a whole or not at all.
pub fn of_pod<'a>(snapshot: &'a Snapshot, pod: &Value) -> Option<Vec<(&'a ContainerName, &'a Usage)>> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let usage = snapshot.get(&text("/spec/nodeName"))?;
    let first = ContainerName {
        namespace: text("/metadata/namespace"),
        pod: text("/metadata/name"),
        container: String::new(),
    };
    let own = usage.containers.range(first.clone()..);
    let own: Vec<(&ContainerName, &Usage)> =
        own.take_while(|(name, _)| name.namespace == first.namespace && name.pod == first.pod).collect();
    for list in ["containerStatuses", "initContainerStatuses"] {
        let statuses = pod["status"][list].as_array();
        let running = statuses.into_iter().flatten().filter(|status| status["state"]["running"].is_object());
        for status in running {
            own.iter().find(|(name, _)| status["name"] == name.container.as_str())?;
        }
    }
    Some(own).filter(|own| !own.is_empty())
}

/// Asks the nodes what they use.
pub struct Metrics {
    kubelets: Arc<Kubelets>,
    registry: Registry,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, History>,
    last: Option<(Instant, Arc<Snapshot>)>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Asks the nodes that `registry` knows.
    pub fn new(kubelets: Arc<Kubelets>, registry: Registry) -> Self {
        Metrics { kubelets, registry, state: Mutex::default() }
    }

    /// What is used now. Nodes that cannot be reached are left out.
    pub async fn now(&self) -> Arc<Snapshot> {
        // Whoever asks meanwhile waits here, and gets the same answer.
        let mut state = self.state.lock().await;
        if let Some((at, snapshot)) = &state.last
            && at.elapsed() < FRESH
        {
            return snapshot.clone();
        }
        let nodes = self.nodes();
        state.nodes.retain(|name, _| nodes.contains(name));
        self.scrape(&mut state, &nodes).await;
        let waiting: Vec<String> =
            state.nodes.iter().filter(|(_, h)| h.is_waiting()).map(|(name, _)| name.clone()).collect();
        if !waiting.is_empty() {
            tokio::time::sleep(SHORTEST_WINDOW).await;
            self.scrape(&mut state, &waiting).await;
        }
        let now = Timestamp::now();
        let usage = state.nodes.iter().filter_map(|(name, h)| Some((name.clone(), h.usage(now)?)));
        let snapshot: Arc<Snapshot> = Arc::new(usage.collect());
        state.last = Some((Instant::now(), snapshot.clone()));
        snapshot
    }

    fn nodes(&self) -> Vec<String> {
        let table = self.registry.kinds();
        let kind: Option<&Arc<Kind>> = table.by_plural("", "v1", "nodes");
        let list = kind.and_then(|kind| self.registry.list(kind, None, &ListOptions::default()).ok());
        list.map(|list| list.items.iter().map(|o| o.key.name.to_string()).collect()).unwrap_or_default()
    }

    async fn scrape(&self, state: &mut State, nodes: &[String]) {
        let readings = join_all(nodes.iter().map(|node| async move { (node, self.ask(node).await) })).await;
        for (node, reading) in readings {
            match reading {
                Ok(reading) => state.nodes.entry(node.clone()).or_default().push(reading),
                Err(refusal) => tracing::debug!(node, %refusal, "a node's metrics cannot be had"),
            }
        }
    }

    async fn ask(&self, node: &str) -> Result<history::Reading, Refusal> {
        let request = Request::get("/metrics/resource").body(Body::empty()).map_err(Refusal::internal)?;
        let answer = async {
            let response = self.kubelets.request(node, request).await?;
            if !response.status().is_success() {
                return Err(Refusal::internal(format!("the node answers {}", response.status())));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            body.map(|body| body.to_bytes()).map_err(Refusal::internal)
        };
        let late = |_| Refusal::internal("the node does not answer");
        let body = tokio::time::timeout(PATIENCE, answer).await.map_err(late)??;
        Ok(text::read(&String::from_utf8_lossy(&body), Timestamp::now()))
    }
}
