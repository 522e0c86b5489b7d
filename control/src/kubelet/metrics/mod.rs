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
use http::Request;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use proa_kinds::Kind;
use proa_supervise::caught;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};

pub use history::{ContainerName, NodeUsage, Usage};

use super::Kubelets;
use crate::registry::{ListOptions, Registry};
use history::History;

/// Questions that come closer together get the same answer.
const FRESH: Duration = Duration::from_secs(1);
/// The shortest time over which the use of CPU is told.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// A node that has not answered by then does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer waits so long for a node, and not at all for one that was slower the last time.
const AWAITED: Duration = Duration::from_secs(2);
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
    nodes: BTreeMap<String, Node>,
    /// What nodes are being asked.
    asked: JoinSet<(String, Result<history::Reading, String>)>,
    last: Option<(Instant, Arc<Snapshot>)>,
}

#[derive(Default)]
struct Node {
    history: History,
    /// It is being asked.
    asked: bool,
    /// The last time it was waited for in vain. What it says is for the question after that.
    slow: bool,
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

    /// What is used now. Nodes that cannot be reached are left out, and keep nobody waiting.
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
        let is_waiting = |(name, node): (&String, &Node)| node.history.is_waiting().then(|| name.clone());
        let waiting: Vec<String> = state.nodes.iter().filter_map(is_waiting).collect();
        if !waiting.is_empty() {
            tokio::time::sleep(SHORTEST_WINDOW).await;
            self.scrape(&mut state, &waiting).await;
        }
        let now = Timestamp::now();
        let usage = state.nodes.iter().filter_map(|(name, n)| Some((name.clone(), n.history.usage(now)?)));
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

    /// Asks these nodes, those that are not being asked already.
    async fn scrape(&self, state: &mut State, nodes: &[String]) {
        for name in nodes {
            let node = state.nodes.entry(name.clone()).or_default();
            if !std::mem::replace(&mut node.asked, true) {
                let (kubelets, name) = (self.kubelets.clone(), name.clone());
                state.asked.spawn(async move {
                    let answer = caught(tokio::time::timeout(PATIENCE, ask(&kubelets, &name))).await;
                    let late = |_| Err("it does not answer".to_owned());
                    (name, answer.and_then(|answer| answer.unwrap_or_else(late)))
                });
            }
        }
        let until = tokio::time::Instant::now() + AWAITED;
        while state.nodes.values().any(|node| node.asked && !node.slow) {
            let Ok(answered) = tokio::time::timeout_at(until, state.asked.join_next()).await else { break };
            state.note(answered);
        }
        while let Some(answered) = state.asked.try_join_next() {
            state.note(Some(answered));
        }
        state.nodes.values_mut().for_each(|node| node.slow |= node.asked);
    }
}

/// A node, and what it has answered.
type Answered = Result<(String, Result<history::Reading, String>), JoinError>;

impl State {
    fn note(&mut self, answered: Option<Answered>) {
        // What panics is caught, and nobody ends them.
        let Some(Ok((name, answer))) = answered else { return };
        // It may be gone meanwhile.
        let Some(node) = self.nodes.get_mut(&name) else { return };
        (node.asked, node.slow) = (false, answer.is_err());
        match answer {
            Ok(reading) => node.history.push(reading),
            Err(error) => tracing::debug!(node = name, error, "a node's metrics cannot be had"),
        }
    }
}

async fn ask(kubelets: &Kubelets, node: &str) -> Result<history::Reading, String> {
    let request = Request::get("/metrics/resource").body(Body::empty()).map_err(|e| e.to_string())?;
    let response = kubelets.request(node, request).await.map_err(|refusal| refusal.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok(text::read(&String::from_utf8_lossy(&body), Timestamp::now()))
}

#[cfg(test)]
mod tests;
