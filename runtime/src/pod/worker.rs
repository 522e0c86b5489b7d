//! One pod's worker: observes, asks the plan, does what it says, shows the status.
//!
//! Level-triggered: whatever wakes it, it plans anew from all that is observed. Everything that
//! takes time runs in a task of its own and tells how it ended; the worker itself never waits for
//! one thing only. When the agent ends, workers stop where they are and pods run on. `handle` starts it,
//! again if it must be.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use proa_sandbox::protocol::{Event, Reply, Request};
use proa_supervise::{Task, keep};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::{later, since};
use crate::engine::Sandbox;
use crate::event::{COMPONENT, Report, report};
use crate::node::host::Host;
use crate::pod::disk::{self, Disk};
use crate::pod::eviction::measure::{FOR_LIMITS, FOR_NODE, Measured, measure, measure_for};
use crate::pod::observed::{Outcome, PodObserved, REJECTED, Step, Verdict, all_containers, reason};
use crate::pod::plan::{Action, QUICK_START, is_quick_start, must_end, phase_is_terminal, plan};
use crate::pod::probe::Probes;
use crate::pod::probe::check::Target;
use crate::pod::start::{self, Start};
use crate::pod::status::{merge_patch, status};
use crate::pod::steps::{Steps, Tell, not_done};
use crate::pod::stop;
use crate::pod::told::Told;
use crate::pod::volumes::{Refresh, Volumes};
use crate::volume;

/// Pause before a status that the API server did not take is written again.
const WRITE_RETRY: Duration = Duration::from_secs(1);
/// Pause before volumes that could not be brought up to date are tried again.
const REFRESH_RETRY: Duration = Duration::from_secs(10);

/// Hears what a pod's containers do.
const LISTENER: Task = Task { component: COMPONENT, name: "sandbox-listener" };

/// One life of a worker, which ends with the pod or with a panic.
pub struct Worker {
    host: Arc<Host>,
    pod: Arc<Pod>,
    uid: String,
    seen: PodObserved,
    sandbox: Option<Sandbox>,
    steps: Steps,
    told: mpsc::UnboundedReceiver<Told>,
    /// Listens to the sandbox.
    listener: Option<AbortOnDropHandle<()>>,
    probes: Probes,
    cancel_start: CancellationToken,
    /// When the start that is under way began.
    began: Timestamp,
    writing: bool,
    /// The last patch that the API server took.
    wrote: Option<Value>,
    write_again: Option<Timestamp>,
    volumes: Refresh,
    disk: Disk,
}

impl Worker {
    /// A worker that knows of the pod what the API server does.
    pub fn new(host: Arc<Host>, pod: Arc<Pod>) -> Self {
        let now = Timestamp::now();
        let (tell, told) = mpsc::unbounded_channel();
        Worker {
            disk: Disk::new(&pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            seen: PodObserved::new(&pod, now),
            host,
            pod,
            sandbox: None,
            steps: Steps::new(tell),
            told,
            listener: None,
            probes: Probes::default(),
            cancel_start: CancellationToken::new(),
            began: now,
            writing: false,
            wrote: None,
            write_again: None,
            volumes: Refresh::default(),
        }
    }

    /// Notes that the node does not take the pod.
    pub fn reject(&mut self, verdict: Verdict) {
        let message = verdict.message.trim_start_matches(REJECTED).to_owned();
        self.report(vec![report(None, true, verdict.reason.clone(), message)]);
        self.seen.verdict = Some(verdict);
    }

    /// Finds the pod's sandbox again if an earlier worker started it.
    pub async fn adopt(&mut self) {
        let dir = self.host.paths.sandbox(&self.uid);
        let had_run = self.seen.containers.values().any(|c| c.runs > 0);
        if !dir.exists() {
            if had_run && !phase_is_terminal(&self.pod) {
                self.apply(Outcome::SandboxLost);
            }
            return;
        }
        match self.find(&dir).await {
            Ok((sandbox, ip, containers)) => {
                self.seen.adopt(&self.pod, ip, &containers, Timestamp::now());
                self.listen(&sandbox);
                self.sandbox = Some(sandbox);
            }
            Err(message) => {
                tracing::info!(pod = %self.uid, message, "a sandbox is gone");
                self.apply(Outcome::SandboxLost);
            }
        }
    }

    async fn find(
        &self,
        dir: &std::path::Path,
    ) -> Result<(Sandbox, IpAddr, Vec<proa_sandbox::protocol::ContainerState>), String> {
        let sandbox = Sandbox::adopt(dir).await.map_err(|error| error.to_string())?;
        let ip = start::connect(&self.host, &self.pod, &sandbox).await?;
        match sandbox.request(Request::List).await {
            Ok(Reply::Containers { containers, .. }) => Ok((sandbox, ip, containers)),
            Ok(other) => Err(format!("unexpected answer of the sandbox: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Works until nothing of the pod is left on the node.
    pub async fn run(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Told>,
        mut newer: watch::Receiver<Arc<Pod>>,
        vanished: CancellationToken,
    ) {
        loop {
            let now = Timestamp::now();
            let plan = plan(&self.pod, &self.seen, now);
            if plan.actions.contains(&Action::Finish) {
                return;
            }
            let mut acted = false;
            for action in plan.actions {
                acted |= self.perform(action, now);
            }
            if acted {
                continue;
            }
            let tell = self.steps.teller();
            let tell = move |outcome| tell(Told::Outcome(outcome));
            let (sandbox, recorder) = (self.sandbox.as_ref(), &self.host.recorder);
            self.probes.keep(&self.pod, &self.seen, sandbox, recorder, &tell);
            let refresh = self.keep_volumes(now);
            let measure = self.keep_disk(now);
            let write = self.keep_status(now);
            self.steps.forget_done();
            let wake = [plan.look_again, refresh, measure, write].into_iter().flatten().min();
            // A moment more, so that the clock is past the time it was set for.
            let pause = wake.map(|at| since(at, Timestamp::now()) + Duration::from_micros(100));
            let changed = self.objects_changed();
            tokio::select! {
                biased;
                Some(told) = self.told.recv() => {
                    self.take(told);
                    while let Ok(told) = self.told.try_recv() {
                        self.take(told);
                    }
                }
                Some(order) = orders.recv() => self.take(order),
                Ok(()) = newer.changed() => {
                    let pod = Arc::clone(&newer.borrow_and_update());
                    self.take_pod(pod);
                }
                () = vanished.cancelled(), if !self.seen.vanished => self.seen.vanished = true,
                () = changed => {}
                () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
            }
        }
    }

    /// Begins an action; false if it cannot begin now.
    fn perform(&mut self, action: Action, now: Timestamp) -> bool {
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        match action {
            Action::StartSandbox => {
                self.seen.sandbox.begin();
                self.began = now;
                let failed = |why| Told::Outcome(Outcome::SandboxFailed(why));
                self.steps.begin("start-sandbox", failed, async move |tell| {
                    match start::sandbox(&host, &pod).await {
                        Ok((sandbox, ip)) => tell(Told::Sandbox(sandbox, ip)),
                        Err(message) => tell(Told::Outcome(Outcome::SandboxFailed(message))),
                    }
                });
            }
            Action::SetUpVolumes => {
                self.seen.volumes.begin();
                let volumes = self.begin_volumes();
                let failed = |why| Told::Outcome(Outcome::VolumesFailed(why));
                self.steps.begin("set-up-volumes", failed, async move |tell| {
                    tell(Told::Outcome(match volumes.set_up().await {
                        Some(Ok(())) => Outcome::VolumesReady,
                        Some(Err(message)) => Outcome::VolumesFailed(message),
                        None => Outcome::VolumesCancelled,
                    }));
                });
            }
            Action::Start { name, attempt } => return self.start_container(name, attempt, now),
            Action::BackOff { name } => {
                let reports = self.seen.begin_back_off(&pod, &name);
                self.report(reports);
            }
            Action::BeginStop { name, message, grace } => self.begin_stop(&name, &message, grace, now),
            Action::Terminate { name } => {
                if let Some(stop) = self.seen.containers.get_mut(&name).and_then(|c| c.stop.as_mut()) {
                    stop.signalled = Some(now);
                }
                if let (Some(target), Some(container)) = (self.target(&name), container(&pod, &name)) {
                    let work = async move |_: Tell| stop::terminate(&host, &container, target).await;
                    self.steps.begin("terminate", not_done, work);
                }
            }
            Action::Kill { name } => {
                if let Some(stop) = self.seen.containers.get_mut(&name).and_then(|c| c.stop.as_mut()) {
                    stop.killed = Some(now);
                }
                if let Some(target) = self.target(&name) {
                    self.steps.begin("kill", not_done, async move |_| stop::kill(target).await);
                }
            }
            Action::GiveUp(verdict) => {
                self.report(vec![report(None, false, verdict.reason.clone(), verdict.message.clone())]);
                self.seen.verdict = Some(verdict);
            }
            Action::CancelUnderWay => {
                let starts = [&self.cancel_start, &self.volumes.cancel];
                let news = starts.iter().any(|start| !start.is_cancelled());
                starts.into_iter().for_each(CancellationToken::cancel);
                return news;
            }
            Action::TearDown => return self.tear_down(),
            Action::Release => return self.release(now),
            Action::Finish => {}
        }
        true
    }

    fn start_container(&mut self, name: String, attempt: u32, now: Timestamp) -> bool {
        let (Some(sandbox), Some(ip)) = (self.sandbox.clone(), self.seen.ip) else { return false };
        // The first start of a pod began with its sandbox.
        if self.seen.containers.values().any(|c| c.runs > 0) {
            self.began = now;
        }
        self.seen.begin_start(&name, now);
        self.cancel_start = CancellationToken::new();
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        let start = Start { host, pod, name, attempt, sandbox, ip, cancelled: self.cancel_start.clone() };
        let name = start.name.clone();
        let failed = move |message| {
            let reason = reason::CREATE_CONTAINER_ERROR;
            Told::Outcome(Outcome::StartBlocked { name, reason, message })
        };
        let work = async move |tell: Tell| Box::pin(start.run(|outcome| tell(Told::Outcome(outcome)))).await;
        self.steps.begin("start-container", failed, work);
        true
    }

    fn begin_stop(&mut self, name: &str, message: &str, grace: Duration, now: Timestamp) {
        let pod = Arc::clone(&self.pod);
        let found = container(&pod, name);
        let hook = found.as_ref().and_then(|c| c.lifecycle.as_ref()).is_some_and(|l| l.pre_stop.is_some());
        let target = self.target(name).filter(|_| hook);
        let killing = self.seen.begin_stop(&pod, name, message, target.is_some(), now);
        self.report(vec![killing]);
        if let (Some(container), Some(target), Some(ip)) = (found, target, self.seen.ip) {
            let host = Arc::clone(&self.host);
            let name = container.name.clone();
            let done = move || Told::Outcome(Outcome::HookDone(name));
            let failed = {
                let done = done.clone();
                move |_| done()
            };
            self.steps.begin("pre-stop", failed, async move |tell| {
                stop::pre_stop(&host, &pod, &container, target, ip, grace).await;
                tell(done());
            });
        }
    }

    fn tear_down(&mut self) -> bool {
        if self.volumes.running {
            self.volumes.cancel.cancel();
            return false;
        }
        self.seen.teardown.begin();
        self.listener = None;
        self.probes.clear();
        self.volumes.objects = None;
        let (host, pod, sandbox) = (Arc::clone(&self.host), Arc::clone(&self.pod), self.sandbox.take());
        let failed = |why| Told::Outcome(Outcome::TearDownFailed(why));
        self.steps.begin("tear-down", failed, async move |tell| {
            let done = stop::tear_down(&host, &pod, sandbox).await;
            tell(Told::Outcome(done.map_or_else(Outcome::TearDownFailed, |()| Outcome::TornDown)));
        });
        true
    }

    fn release(&mut self, now: Timestamp) -> bool {
        if self.writing {
            return false;
        }
        self.seen.released.begin();
        let last = self.change(now);
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        let failed = |why| Told::Outcome(Outcome::ReleaseFailed(why));
        self.steps.begin("release", failed, async move |tell| {
            // A server that takes no status may still take the rest.
            if let Some(last) = last {
                let _ = write_status(&host, &pod, &last).await;
            }
            let done = stop::release(&host, &pod).await;
            tell(Told::Outcome(done.map_or_else(Outcome::ReleaseFailed, |()| Outcome::Released)));
        });
        true
    }

    fn take(&mut self, told: Told) {
        match told {
            // Nobody is surprised by the end of a sandbox that is being stopped.
            Told::Outcome(Outcome::SandboxLost) if self.seen.teardown != Step::Undone => {}
            Told::Outcome(Outcome::SandboxLost) => {
                self.sandbox = None;
                self.listener = None;
                self.apply(Outcome::SandboxLost);
            }
            Told::Outcome(outcome) => self.apply(outcome),
            Told::Sandbox(sandbox, ip) => {
                self.listen(&sandbox);
                self.sandbox = Some(sandbox);
                self.apply(Outcome::SandboxUp(ip));
            }
            Told::NotDone(report) => self.report(vec![report]),
            Told::Measured(measured) => match self.disk.measured(measured, Timestamp::now()) {
                disk::Finding::Fine => {}
                disk::Finding::Exceeds(message) => self.apply(Outcome::Exceeds(message)),
                disk::Finding::Unclear(report) => self.report(vec![report]),
            },
            Told::Measure(answer) => self.measure(answer),
            Told::Written(written, patch) => self.status_written(*written, patch),
            Told::Refreshed(done) => {
                self.volumes.running = false;
                if let Some(Err(message)) = done {
                    self.volumes.due = Some(later(Timestamp::now(), REFRESH_RETRY));
                    self.report(vec![report(None, true, "FailedMount", message)]);
                }
            }
        }
    }

    fn apply(&mut self, outcome: Outcome) {
        let reports = self.seen.apply(&self.pod, outcome, Timestamp::now());
        self.report(reports);
    }

    fn report(&self, reports: Vec<Report>) {
        for report in reports {
            self.host.recorder.report(&self.pod, report);
        }
    }

    /// Takes a version of the pod if it is newer than the one at hand. Revisions of one server
    /// count up; where they cannot be compared, the later to arrive counts.
    fn take_pod(&mut self, pod: Arc<Pod>) {
        let revision =
            |pod: &Pod| pod.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let older = matches!((revision(&pod), revision(&self.pod)), (Some(new), Some(old)) if new < old);
        if older || pod.metadata.uid != self.pod.metadata.uid {
            return;
        }
        let told_in_volumes = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if told_in_volumes(&pod) != told_in_volumes(&self.pod) && volume::content::tells_metadata(&pod) {
            self.volumes.due = Some(Timestamp::now());
        }
        self.pod = pod;
    }

    /// Hears what becomes of the sandbox's containers.
    fn listen(&mut self, sandbox: &Sandbox) {
        let (sandbox, tell) = (sandbox.clone(), self.steps.teller());
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        self.listener = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever listens again is told how all containers are.
            keep(LISTENER, &CancellationToken::new(), || async {
                let Ok(events) = sandbox.watch().await else { return };
                let mut events = std::pin::pin!(events);
                while let Some(Event::Container(mut state)) = events.next().await {
                    stop::add_last_words(&host, &pod, &mut state).await;
                    tell(Told::Outcome(Outcome::Container(state)));
                }
            })
            .await;
            tell(Told::Outcome(Outcome::SandboxLost));
        })));
    }

    /// Brings volumes up to date when what they are made of has changed; returns when to look
    /// again.
    fn keep_volumes(&mut self, now: Timestamp) -> Option<Timestamp> {
        if !self.keeps_volumes() {
            return None;
        }
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        let watch = || host.objects.watch_for_volumes(&pod).into_iter().map(|object| (object, 0)).collect();
        let objects = self.volumes.objects.get_or_insert_with(watch);
        let mut due = self.volumes.due.is_some_and(|due| due <= now);
        for (object, shown) in objects {
            let count = *object.changes.borrow();
            due |= count != *shown;
            *shown = count;
        }
        if due {
            self.volumes.running = true;
            self.volumes.due = None;
            let volumes = self.begin_volumes();
            let failed = |why| Told::Refreshed(Some(Err(why)));
            self.steps.begin("refresh-volumes", failed, async move |tell| {
                tell(Told::Refreshed(volumes.refresh().await))
            });
        }
        if self.volumes.due.is_none() {
            let refresh = volume::content::token_refresh(&self.pod);
            self.volumes.due = refresh.map(|refresh| later(now, refresh));
        }
        self.volumes.due
    }

    fn begin_volumes(&mut self) -> Volumes {
        self.volumes.cancel = CancellationToken::new();
        Volumes {
            host: Arc::clone(&self.host),
            pod: Arc::clone(&self.pod),
            ip: self.seen.ip,
            cancelled: self.volumes.cancel.clone(),
        }
    }

    /// Measures what the pod has on the disk from time to time, if that is limited; returns when to
    /// look again.
    fn keep_disk(&mut self, now: Timestamp) -> Option<Timestamp> {
        match self.disk.next(&self.pod, &self.seen, now) {
            disk::Next::Nothing => None,
            disk::Next::Wait(until) => Some(until),
            disk::Next::Measure(runs) => {
                let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
                let failed = |why| Told::Measured(Measured { problem: Some(why), ..Measured::default() });
                self.steps.begin("measure", failed, async move |tell| {
                    tell(Told::Measured(measure(&host.paths, &pod, &runs, &FOR_LIMITS).await))
                });
                None
            }
        }
    }

    /// Measures what the pod has on the disk, for the node, unless it ends anyway.
    fn measure(&mut self, answer: oneshot::Sender<Measured>) {
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        if pod.spec.as_ref().is_none_or(|spec| must_end(&pod, spec, &self.seen)) {
            return;
        }
        let runs = disk::newest_runs(&self.seen);
        self.steps.begin("measure", not_done, async move |_| {
            measure_for(answer, &host.paths, &pod, &runs, &FOR_NODE).await;
        });
    }

    /// True if volumes are to follow what they are made of, and are not just doing so.
    fn keeps_volumes(&self) -> bool {
        let ends = self.pod.spec.as_ref().is_none_or(|spec| must_end(&self.pod, spec, &self.seen));
        self.seen.volumes == Step::Done && !ends && self.seen.starting.is_none() && !self.volumes.running
    }

    /// Waits until an object that volumes are made of has changed; for ever while they are not
    /// kept.
    fn objects_changed(&self) -> impl Future<Output = ()> + use<> {
        let kept = self.volumes.objects.iter().flatten().filter(|_| self.keeps_volumes());
        let changes = kept.map(|(object, shown)| {
            let (mut changes, shown) = (object.changes.clone(), *shown);
            Box::pin(async move {
                if changes.wait_for(|count| *count != shown).await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        let changes: Vec<_> = changes.collect();
        async move {
            if changes.is_empty() {
                std::future::pending::<()>().await;
            } else {
                futures::future::select_all(changes).await;
            }
        }
    }

    /// Shows the status, and writes it if it has changed; returns when to look again.
    fn keep_status(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.seen.vanished || self.seen.released != Step::Undone {
            return None;
        }
        let change = self.change(now);
        if self.writing {
            return None;
        }
        let change = change.filter(|change| self.wrote.as_ref() != Some(change))?;
        if let Some(again) = self.write_again.filter(|again| *again > now) {
            return Some(again);
        }
        if is_quick_start(&self.seen, self.began, now) {
            return Some(later(self.began, QUICK_START));
        }
        self.writing = true;
        self.write_again = None;
        let (host, pod) = (Arc::clone(&self.host), Arc::clone(&self.pod));
        let patch = change.clone();
        let failed = |why: String| Told::Written(Box::new(Err(kube::Error::Service(why.into()))), patch);
        self.steps.begin("write-status", failed, async move |tell| {
            let written = write_status(&host, &pod, &change).await;
            tell(Told::Written(Box::new(written), change));
        });
        None
    }

    /// What the status lacks that the API server has.
    fn change(&self, now: Timestamp) -> Option<Value> {
        let status = status(&self.pod, &self.seen, self.host.config.node_ip, now);
        let new = serde_json::to_value(&status).ok()?;
        self.host.pods.show(&self.pod, status);
        let old = self.pod.status.as_ref().and_then(|s| serde_json::to_value(s).ok());
        merge_patch(&old.unwrap_or_else(|| json!({})), &new)
    }

    fn status_written(&mut self, written: Result<Pod, kube::Error>, patch: Value) {
        self.writing = false;
        match written {
            Ok(pod) => {
                self.wrote = Some(patch);
                self.take_pod(Arc::new(pod));
            }
            // It is gone, or another one of its name is there: the watch will tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.wrote = Some(patch),
            Err(error) => {
                tracing::warn!(pod = %self.uid, %error, "a pod's status could not be written");
                self.write_again = Some(later(Timestamp::now(), WRITE_RETRY));
            }
        }
    }

    fn target(&self, name: &str) -> Option<Target> {
        let attempt = self.seen.containers.get(name)?.runs.checked_sub(1)?;
        Some(Target { sandbox: self.sandbox.clone()?, id: format!("{name}-{attempt}") })
    }
}

/// Writes a change of a pod's status, for this very pod and no other of its name.
async fn write_status(host: &Host, pod: &Pod, change: &Value) -> Result<Pod, kube::Error> {
    let meta = &pod.metadata;
    let api = Api::<Pod>::namespaced(host.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let patch = Patch::Merge(json!({"metadata": {"uid": meta.uid}, "status": change}));
    api.patch_status(meta.name.as_deref().unwrap_or_default(), &PatchParams::default(), &patch).await
}

fn container(pod: &Pod, name: &str) -> Option<k8s_openapi::api::core::v1::Container> {
    all_containers(pod).find(|(_, c)| c.name == name).map(|(_, c)| c.clone())
}
