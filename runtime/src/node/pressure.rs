//! Makes room when the node's disk is short, and keeps unused images from filling it: first what
//! nobody needs goes, then images that no pod uses, then pods, one after the other.
//!
//! It asks the agent for its pods and tells their workers to end, and needs the API server for
//! neither: on the node of the control plane the store is short of the same disk.
//! Source: <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::event::report;
use crate::image::collect::{Collector, InUse, MIN_AGE};
use crate::image::normalize;
use crate::node::disk::{Shortage, Space};
use crate::node::host::Host;
use crate::pod::eviction::{measure, rank};
use crate::pod::observed::all_containers;
use crate::pod::plan::{is_terminal, phase_is_terminal};
use crate::pod::told::Orders;

/// Between two looks at the disk, as with the kubelet.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks for images that are not needed, as with the kubelet.
const IMAGES_PERIOD: Duration = Duration::from_secs(300);
/// Above this part of the disk unused images go …
const IMAGES_HIGH_PERCENT: u64 = 85;
/// … until no more than this is in use.
const IMAGES_LOW_PERCENT: u64 = 80;
/// What no image needs is kept for so long while there is room.
const KEEP: Duration = Duration::from_secs(3600);
/// All pods are measured in this time; who has not been by then is left out.
const MEASURING: Duration = Duration::from_secs(60);
/// The disk is not looked at again before a pod that was told to end had this time to do so.
const ENDING: Duration = Duration::from_secs(20);
const ENDING_STEP: Duration = Duration::from_millis(500);
/// The pause while somebody is at work in the store, so that no image can go: a pull that finds no room
/// gives up soon.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// After so many such pauses it is the pods' turn all the same.
const BUSY_PAUSES: u32 = 10;

/// A pod of the node, which may be told to end.
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its worker.
    pub orders: Orders,
}

/// Asks for the pods that the node has taken; answered once all of them are known.
pub type Ask = mpsc::Sender<oneshot::Sender<Vec<Candidate>>>;

/// Watches the disk until `shutdown`.
pub async fn run(host: Arc<Host>, ask: Ask, shutdown: CancellationToken) {
    let collector = Some(Collector::new(host.images.clone()));
    let was_under_pressure = false;
    let mut reclaim =
        Reclaim { host, ask, collector, collected: None, busy: 0, next_measure: None, was_under_pressure };
    loop {
        let pause = tokio::select! {
            () = shutdown.cancelled() => return,
            pause = reclaim.look() => pause,
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Reclaim {
    host: Arc<Host>,
    ask: Ask,
    /// At work elsewhere while it is `None`.
    collector: Option<Collector>,
    /// When images were last looked at.
    collected: Option<Instant>,
    /// How often in a row the disk was short and no image could go.
    busy: u32,
    /// No pod is measured before then: the last time there was none to evict.
    next_measure: Option<Instant>,
    was_under_pressure: bool,
}

impl Reclaim {
    /// Looks once, and says when to look again.
    async fn look(&mut self) -> Duration {
        let shortage = self.host.disk.shortage();
        self.tell(shortage);
        let due = self.collected.is_none_or(|at| at.elapsed() >= IMAGES_PERIOD);
        if !due && shortage.is_none() && !self.host.images.is_spoiled() {
            return PERIOD;
        }
        let Ok(candidates) = tokio::time::timeout(PERIOD, self.candidates()).await else { return PERIOD };
        let done = self.collect(in_use(&self.host, &candidates), due, shortage.is_some()).await;
        if due && done {
            self.collected = Some(Instant::now());
        }
        let shortage = self.host.disk.shortage();
        if shortage.is_some() && !done && self.busy < BUSY_PAUSES {
            self.busy += 1;
            return BUSY_PAUSE;
        }
        self.busy = 0;
        match shortage {
            Some(shortage) => self.evict(&candidates, &shortage).await,
            None => PERIOD,
        }
    }

    async fn candidates(&self) -> Vec<Candidate> {
        let (answer, answered) = oneshot::channel();
        // The agent ends with the node.
        let _ = self.ask.send(answer).await;
        match answered.await {
            Ok(candidates) => candidates,
            Err(_) => std::future::pending().await,
        }
    }

    /// Tells of changes of the condition.
    fn tell(&mut self, shortage: Option<Shortage>) {
        let under_pressure = self.host.disk.is_under_pressure();
        if std::mem::replace(&mut self.was_under_pressure, under_pressure) == under_pressure {
            return;
        }
        let name = &self.host.config.node_name;
        let reason = if under_pressure { "NodeHasDiskPressure" } else { "NodeHasNoDiskPressure" };
        let text = format!("Node {name} status is now: {reason}");
        self.host.recorder.report_node(name, report(None, false, reason, text));
        if let Some(shortage) = shortage {
            let text = format!("Attempting to reclaim {}. {}", shortage.resource.name(), shortage.amounts());
            tracing::warn!("the disk is short: {text}");
            self.host.recorder.report_node(name, report(None, true, "EvictionThresholdMet", text));
        }
    }

    /// Removes what images have and nobody needs, and where room is short, images that nobody uses. False
    /// if somebody is at work in the store, so that this is still to be done.
    async fn collect(&mut self, in_use: InUse, due: bool, short: bool) -> bool {
        let Some(mut collector) = self.collector.take() else { return false };
        let host = Arc::clone(&self.host);
        let done = tokio::task::spawn_blocking(move || {
            let now = Instant::now();
            collector.note(&in_use, now);
            let full =
                due && host.disk.space().is_some_and(|space| is_fuller_than(&space, IMAGES_HIGH_PERCENT));
            let keep = if short || full { MIN_AGE } else { KEEP };
            let mut done = collector.collect(&in_use, keep, now);
            if (short || full) && matches!(done, Ok(true)) {
                let low =
                    || host.disk.space().is_none_or(|space| !is_fuller_than(&space, IMAGES_LOW_PERCENT));
                let enough = || host.disk.shortage().is_none() && (short || low());
                done = collector.evict(&in_use, &enough, now);
            }
            let done = done.unwrap_or_else(|error| {
                tracing::warn!(%error, "images that nobody needs could not be removed");
                true
            });
            (collector, done)
        });
        // A panic loses what was remembered, and no more.
        let (collector, done) =
            done.await.unwrap_or_else(|_| (Collector::new(self.host.images.clone()), true));
        self.collector = Some(collector);
        done
    }

    /// Ends the pod that is to go first, if one is; says when to look again.
    async fn evict(&mut self, candidates: &[Candidate], shortage: &Shortage) -> Duration {
        let begun = Instant::now();
        if self.next_measure.is_some_and(|at| at > begun) {
            return PERIOD;
        }
        let measure_one = async |candidate: &Candidate| {
            let measured = tokio::time::timeout(MEASURING, candidate.orders.measure()).await;
            measured.ok().flatten()
        };
        let measured = join_all(candidates.iter().map(measure_one)).await;
        let known: Vec<_> = candidates
            .iter()
            .zip(&measured)
            .filter_map(|(c, measured)| Some((c, measured.as_ref()?)))
            .collect();
        let pods = known.iter().map(|(candidate, measured)| (&*candidate.pod, *measured));
        let Some((index, message)) = rank::victim(pods, shortage) else {
            self.next_measure = Some(Instant::now() + measure::pause(PERIOD, begun.elapsed()));
            return PERIOD;
        };
        let candidate = known[index].0;
        let name = candidate.pod.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(namespace = candidate.pod.metadata.namespace, pod = name, message, "evicting a pod");
        candidate.orders.evict(message);
        let told = Instant::now();
        while self.host.disk.shortage().is_some() && told.elapsed() < ENDING {
            tokio::time::sleep(ENDING_STEP).await;
        }
        Duration::ZERO
    }
}

fn is_fuller_than(space: &Space, percent: u64) -> bool {
    space.bytes > 0 && (space.bytes - space.free_bytes.min(space.bytes)) * 100 >= space.bytes * percent
}

/// What the pods of the node use that have not ended. Those that have just been found again are not
/// shown yet.
fn in_use(host: &Host, candidates: &[Candidate]) -> InUse {
    let mut in_use = InUse::default();
    let mut add = |pod: &Pod, status: Option<&PodStatus>| {
        if phase_is_terminal(pod) || status.is_some_and(is_terminal) {
            return;
        }
        in_use.names.extend(all_containers(pod).filter_map(|(_, c)| normalize(c.image.as_deref()?).ok()));
        let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
        let ids = lists.into_iter().flatten().flatten().flatten();
        let ids = ids.filter_map(|status| status.image_id.split_once('@'));
        in_use.manifests.extend(ids.map(|(_, digest)| digest.to_owned()));
    };
    for candidate in candidates {
        add(&candidate.pod, candidate.pod.status.as_ref());
    }
    for shown in host.pods.list() {
        add(&shown.pod, Some(&shown.status));
    }
    in_use
}
