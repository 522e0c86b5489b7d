//! The node's loop: watches the pods that are bound to this node and gives each a worker.
//!
//! Also clears up what pods left that the API server has forgotten: sandboxes of orphans,
//! volumes, logs.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use proa_supervise::{Restart, Task, caught, keep, next_restart};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::away::away;
use crate::event::{COMPONENT, Recorder, report};
use crate::image::ImageStore;
use crate::net::Network;
use crate::node::cluster;
use crate::node::disk::Disk;
use crate::node::foreign_images::ForeignImages;
use crate::node::host::{Host, NodeConfig};
use crate::node::local_path;
use crate::node::machine::Machine;
use crate::node::memory;
use crate::node::paths::Paths;
use crate::node::pressure::{self, Candidate};
use crate::node::registration;
use crate::node::shown_pods::ShownPods;
use crate::pod::admit;
use crate::pod::etc_files::Names;
use crate::pod::eviction;
use crate::pod::handle::{self, Handle};
use crate::pod::objects::Objects;
use crate::pod::observed::Verdict;
use crate::pod::plan::phase_is_terminal;
use crate::pod::stop;

use crate::volume::mount;

/// Sandboxes that are started at a time, for each processor.
const STARTS_PER_CPU: i64 = 4;

/// Forgotten pods that are removed at a time.
const AT_A_TIME: usize = 16;

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory could not be used.
    #[error("{path}: {error}")]
    Io {
        /// What was read or written.
        path: String,
        /// What the kernel says.
        error: std::io::Error,
    },
}

/// Runs the node until `shutdown`: registers it, runs its pods, finds again those that an earlier
/// run left. Pods run on when it returns.
pub async fn run(
    config: NodeConfig,
    client: kube::Client,
    images: ImageStore,
    network: Network,
    pods: ShownPods,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let cluster = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        cluster = cluster::identity(&client) => cluster,
    };
    let host = Arc::new(host(config, client, images, network, pods)?);
    if let Err(error) = memory::bound(&host) {
        tracing::warn!(%error, "the memory of all pods together has no limit");
    }
    if let Err(error) = crate::engine::wasm::sweep_temporary(&host.paths.wasm()) {
        tracing::warn!(%error, "what interrupted compilations left could not be removed");
    }
    let images = host.images.clone();
    // A thread that nobody waits for: it may have to wait for somebody who works with the images.
    std::thread::spawn(move || {
        if let Err(error) = images.sweep_temporary() {
            tracing::warn!(%error, "what interrupted pulls left could not be removed");
        }
    });
    let failed = |error| NodeError::Io { path: host.paths.cluster().display().to_string(), error };
    for aside in cluster::settle(&host.paths, &cluster).map_err(failed)? {
        tracing::warn!(path = %aside.display(), "set aside what pods of another cluster left");
    }
    let (ask, asked) = mpsc::channel(1);
    let agent = Mutex::new(Agent::new(Arc::clone(&host), asked));
    // Its workers go on while the loop is started again, and are found again by it.
    let pods = || async {
        let mut agent = agent.lock().await;
        shutdown.run_until_cancelled(Box::pin(agent.run())).await;
    };
    let node = || registration::run(Arc::clone(&host), shutdown.clone());
    let local_paths = || local_path::run(Arc::clone(&host), shutdown.clone());
    let pressure = || pressure::run(Arc::clone(&host), ask.clone(), shutdown.clone());
    let telling = || async {
        shutdown.run_until_cancelled(tell_restarts(&host)).await;
    };
    tokio::join!(
        keep(task("pods"), &shutdown, pods),
        keep(task("node-status"), &shutdown, node),
        keep(task("local-paths"), &shutdown, local_paths),
        keep(task("disk-pressure"), &shutdown, pressure),
        keep(task("restarts"), &shutdown, telling),
    );
    Ok(())
}

const fn task(name: &'static str) -> Task {
    Task { component: COMPONENT, name }
}

/// Tells in Events of the Node which tasks of this program had to be started again.
async fn tell_restarts(host: &Host) {
    loop {
        let Restart { task, why } = next_restart().await;
        let text = format!("Task {} failed and is started again: {why}", task.name);
        let restarted = report(None, true, "TaskRestarted", text);
        host.recorder.of(task.component).report_node(&host.config.node_name, restarted);
    }
}

fn host(
    config: NodeConfig,
    client: kube::Client,
    images: ImageStore,
    network: Network,
    pods: ShownPods,
) -> Result<Host, NodeError> {
    pods.name_node(&config.node_name, &config.host_names);
    let paths = Paths::new(&config.data_dir);
    for dir in [paths.sandboxes(), paths.volumes(), paths.logs()] {
        let failed = |error| NodeError::Io { path: dir.display().to_string(), error };
        std::fs::create_dir_all(&dir).map_err(failed)?;
    }
    let machine = Machine::read(&config.data_dir, &config.version);
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let starts = usize::try_from(machine.cpu.units() * STARTS_PER_CPU).unwrap_or(1).max(1);
    Ok(Host {
        names: Names {
            cluster_dns: config.cluster_dns,
            cluster_domain: config.cluster_domain.clone(),
            node_resolv_conf: text("/etc/resolv.conf"),
            node_hostname: machine.hostname.clone(),
            node_hosts: text("/etc/hosts"),
        },
        objects: Objects::start(client.clone()),
        recorder: Recorder::start(client.clone(), config.node_name.clone()),
        foreign: ForeignImages::default(),
        starts: Semaphore::new(starts),
        disk: Disk::new(config.data_dir.clone(), config.eviction_hard),
        config,
        paths,
        client,
        images,
        network,
        pods,
        machine,
    })
}

struct Agent {
    host: Arc<Host>,
    /// By uid.
    pods: HashMap<String, Entry>,
    /// The Node as it was when it was last needed.
    node: Option<Node>,
    /// What forgotten pods left has been removed.
    cleaned: bool,
    /// Somebody wants to know which pods may be told to end.
    asked: mpsc::Receiver<oneshot::Sender<Vec<Candidate>>>,
    /// Workers that have nothing left to do.
    finished: mpsc::UnboundedSender<String>,
    /// See `finished`.
    ended: mpsc::UnboundedReceiver<String>,
}

struct Entry {
    pod: Arc<Pod>,
    handle: Handle,
    /// The node does not take it.
    is_rejected: bool,
    /// The API server has forgotten the pod.
    vanished: bool,
    /// Nothing is left for the worker to do.
    finished: bool,
}

impl Agent {
    fn new(host: Arc<Host>, asked: mpsc::Receiver<oneshot::Sender<Vec<Candidate>>>) -> Self {
        let (finished, ended) = mpsc::unbounded_channel();
        Agent { host, pods: HashMap::new(), node: None, cleaned: false, asked, finished, ended }
    }

    async fn run(&mut self) {
        let api = Api::<Pod>::all(self.host.client.clone());
        let own = format!("spec.nodeName={}", self.host.config.node_name);
        let events = watcher(api, watcher::Config::default().fields(&own)).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listed: Vec<Pod> = Vec::new();
        loop {
            tokio::select! {
                Some(uid) = self.ended.recv() => self.finish(&uid),
                // Whoever has asked may be gone by now. Before all pods are known there is no answer.
                Some(answer) = self.asked.recv(), if self.cleaned => drop(answer.send(self.candidates())),
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => listed.clear(),
                    Some(Ok(watcher::Event::InitApply(pod))) => listed.push(pod),
                    Some(Ok(watcher::Event::InitDone)) => {
                        let listed = std::mem::take(&mut listed);
                        let uids = listed.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
                        self.apply_all(listed).await;
                        self.listed(&uids);
                    }
                    Some(Ok(watcher::Event::Apply(pod))) => self.apply(pod).await,
                    Some(Ok(watcher::Event::Delete(pod))) => self.vanish(&pod.metadata.uid.unwrap_or_default()),
                    Some(Err(error)) => tracing::warn!(%error, "the watch on pods is interrupted"),
                    None => return,
                },
            }
        }
    }

    /// Pods that the node has taken come first, and then the older ones.
    async fn apply_all(&mut self, mut pods: Vec<Pod>) {
        pods.sort_by_key(|pod| (!admit::is_admitted(pod), pod.metadata.creation_timestamp.clone()));
        for pod in pods {
            self.apply(pod).await;
        }
    }

    async fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        if let Some(entry) = self.pods.get_mut(&uid) {
            entry.pod = Arc::clone(&pod);
            entry.handle.pod.send_replace(pod);
            return;
        }
        let admitted = caught(self.admit(&uid, &pod)).await;
        let failed = |why| Err(Verdict::rejected("UnexpectedAdmissionError", why));
        let rejected = admitted.unwrap_or_else(failed).err();
        let is_rejected = rejected.is_some();
        let handle = handle::start(Arc::clone(&self.host), Arc::clone(&pod), rejected, self.finished.clone());
        self.pods.insert(uid, Entry { pod, handle, is_rejected, vanished: false, finished: false });
    }

    /// Looks at a pod that is new here. The node as it was is enough to take a pod, but not to reject
    /// one: a label that the scheduler has seen may have come since.
    async fn admit(&mut self, uid: &str, pod: &Pod) -> Result<(), Verdict> {
        let known =
            admit::is_admitted(pod) || phase_is_terminal(pod) || self.host.paths.sandbox(uid).exists();
        if known || pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if self.host.disk.is_under_pressure() && !pod.spec.as_ref().is_some_and(eviction::is_critical) {
            return Err(Verdict::rejected(eviction::REASON, "The node had condition: [DiskPressure]. "));
        }
        let allowed = &self.host.config.allowed_unsafe_sysctls;
        let counts = |entry: &&Entry| !entry.is_rejected && !entry.finished && !phase_is_terminal(&entry.pod);
        let others = || self.pods.values().filter(counts).map(|entry| &*entry.pod);
        if let Some(node) = &self.node
            && admit::admit(pod, others(), node, allowed).is_ok()
        {
            return Ok(());
        }
        let node = registration::current(&self.host).await;
        let admitted = admit::admit(pod, others(), &node, allowed);
        self.node = Some(node);
        admitted
    }

    /// The pods of which there is something on the node.
    fn candidates(&self) -> Vec<Candidate> {
        let run = |entry: &&Entry| !entry.is_rejected && !entry.finished;
        let candidate =
            |entry: &Entry| Candidate { pod: Arc::clone(&entry.pod), orders: entry.handle.orders.clone() };
        self.pods.values().filter(run).map(candidate).collect()
    }

    /// All pods are known: those that are missing have vanished, and what others left can go.
    fn listed(&mut self, listed: &BTreeSet<String>) {
        let missing: Vec<String> = self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in missing {
            self.vanish(&uid);
        }
        if !std::mem::replace(&mut self.cleaned, true) {
            let (host, known) = (Arc::clone(&self.host), listed.clone());
            tokio::spawn(async move { remove_forgotten(&host, &known).await });
        }
    }

    fn vanish(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.vanished = true;
            entry.handle.vanished.cancel();
        }
        self.forget(uid);
    }

    fn finish(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.finished = true;
        }
        self.forget(uid);
    }

    /// Forgets a pod of which nothing is left here nor there. Its logs stay until then.
    fn forget(&mut self, uid: &str) {
        if !self.pods.get(uid).is_some_and(|entry| entry.vanished && entry.finished) {
            return;
        }
        if let Some(entry) = self.pods.remove(uid) {
            self.host.pods.forget(&entry.pod);
            drop(entry.handle.task);
            tokio::spawn(remove_logs(self.host.paths.pod_logs(&entry.pod)));
        }
    }
}

/// Removes what is left of pods that the API server does not know: it forgot them while nobody
/// was here to hear it.
async fn remove_forgotten(host: &Host, known: &BTreeSet<String>) {
    let paths = &host.paths;
    let places = [paths.sandboxes(), paths.containers(), paths.volumes()];
    let uids: BTreeSet<String> = join_all(places.map(names)).await.into_iter().flatten().collect();
    let forgotten = futures::stream::iter(uids.difference(known));
    // Each may take the time that its containers have to end.
    let remove = async |uid: &String| {
        tracing::info!(uid, "removing a pod that is not known any more");
        stop::end_gently(&paths.sandbox(uid)).await;
        if let Err(error) = stop::remove_from_node(host, uid, None).await {
            tracing::warn!(error, uid, "something of a forgotten pod is left");
        }
    };
    forgotten.for_each_concurrent(AT_A_TIME, remove).await;
    for name in names(paths.logs()).await {
        if !known.contains(name.rsplit('_').next().unwrap_or_default()) {
            remove_logs(paths.logs().join(&name)).await;
        }
    }
}

async fn remove_logs(dir: PathBuf) {
    let shown = dir.display().to_string();
    if let Err(error) = mount::remove(dir).await {
        tracing::warn!(%error, "{shown}: a pod's logs are left");
    }
}

/// The names in a directory. There may be many, on a disk that is slow to answer.
async fn names(dir: PathBuf) -> Vec<String> {
    away(move || {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    })
    .await
}
