//! What is observed of one pod: its sandbox, volumes and containers, and what is under way.
//!
//! Fed by the pod's worker (`worker.rs`) with [`Outcome`]s; read by `plan.rs` and `status.rs`. Pure:
//! it knows the time only as it is told, and does no IO.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, Pod};
use proa_sandbox::protocol;

use crate::backoff::{Backoff, later};

mod apply;

/// Waiting reasons, as the Kubernetes API reference and the kubelet word them.
pub mod reason {
    /// The container is being prepared.
    pub const CONTAINER_CREATING: &str = "ContainerCreating";
    /// Init containers have not ended yet.
    pub const POD_INITIALIZING: &str = "PodInitializing";
    /// The container ended too often.
    pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
    /// The image could not be had.
    pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
    /// The image could not be had, and the next try is later.
    pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
    /// The image is not here and must not be pulled.
    pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
    /// The image has nothing for the node's platform.
    pub const IMAGE_PLATFORM_MISMATCH: &str = "ImagePlatformMismatch";
    /// The image reference does not parse.
    pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
    /// What the container's configuration refers to is missing or wrong.
    pub const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";
    /// The container could not be made, such as a Wasm file that does not compile.
    pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
    /// The container's process could not be started.
    pub const RUN_CONTAINER_ERROR: &str = "RunContainerError";
}

/// How long an image error is shown as itself before it becomes `ImagePullBackOff`.
const ERROR_SHOWN: Duration = Duration::from_secs(1);
/// Pause before a container whose configuration was wrong is tried again.
const CONFIG_RETRY: Duration = Duration::from_secs(5);

/// One pod, as seen from its node.
#[derive(Clone, Debug)]
pub struct PodObserved {
    /// When this node first saw the pod: `status.startTime`.
    pub start_time: Timestamp,
    /// The pod's sandbox process.
    pub sandbox: Step,
    /// The pod's volumes.
    pub volumes: Step,
    /// Address of the pod; kept when the sandbox is gone.
    pub ip: Option<IpAddr>,
    /// Containers and init containers by name.
    pub containers: BTreeMap<String, ContainerSeen>,
    /// The container that is being started; one at a time, in the order of the spec.
    pub starting: Option<Starting>,
    /// The API server does not know the pod any more.
    pub vanished: bool,
    /// Why the node has given the pod up, if it has.
    pub verdict: Option<Verdict>,
    /// Removal of all that the pod has on this node.
    pub teardown: Step,
    /// The last status is written and the API server was told to forget the pod.
    pub released: Step,
}

/// A start that is under way. It is over when it was answered and the sandbox has told of the run,
/// which may come in either order.
#[derive(Clone, Debug, PartialEq)]
pub struct Starting {
    /// Container.
    pub name: String,
    /// Which run.
    pub attempt: u32,
    /// The sandbox has answered that it runs.
    pub answered: bool,
}

/// A thing that is done once, may take a while, and may fail and be tried again.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Step {
    /// Not begun.
    #[default]
    Undone,
    /// Under way.
    Doing {
        /// Failures in a row before.
        tries: u32,
    },
    /// Done.
    Done,
    /// Failed; tried again at the given time.
    Failed {
        /// For people.
        message: String,
        /// When to try again.
        until: Timestamp,
        /// Failures in a row.
        tries: u32,
    },
}

/// Why the node has given a pod up: `status.reason` and `status.message`.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `Evicted` …
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
}

/// What the status says before the message that the Event has.
pub const REJECTED: &str = "Pod was rejected: ";

impl Verdict {
    /// The node does not take the pod.
    pub fn rejected(reason: impl Into<Cow<'static, str>>, message: impl std::fmt::Display) -> Self {
        Verdict { reason: reason.into(), message: format!("{REJECTED}{message}") }
    }
}

/// One container, over all its runs.
#[derive(Clone, Debug, Default)]
pub struct ContainerSeen {
    /// Runs begun so far.
    pub runs: u32,
    /// The newest run.
    pub run: Run,
    /// The run before the newest.
    pub last: Option<Ended>,
    /// The newest run has ended and the next begins whatever the restart policy says: an init
    /// container of a lost sandbox, or a container whose image was changed while it ran.
    pub stale: bool,
    /// Why the next run cannot begin.
    pub blocked: Option<Blocked>,
    /// Pauses between runs.
    pub restarts: Option<Backoff>,
    /// Pauses between tries to get the image.
    pub pulls: Option<Backoff>,
    /// The present pause between runs has been reported.
    pub backing_off: bool,
    /// The image of the newest run.
    pub image: Option<ImageSeen>,
    /// The startup probe, if any, has succeeded.
    pub started: bool,
    /// The readiness probe, if any, has succeeded.
    pub ready: bool,
    /// The probe that wants the run ended.
    pub unhealthy: Option<ProbeKind>,
    /// The run is being ended.
    pub stop: Option<Stop>,
}

/// The newest run of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Run {
    /// There was none yet.
    #[default]
    Pending,
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It has ended.
    Ended(Ended),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Which run, from 0.
    pub attempt: u32,
    /// Exit code, 128 + signal if a signal ended it.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// What is known beyond the reason.
    pub message: String,
    /// Start of the run.
    pub started_at: Timestamp,
    /// End of the run.
    pub finished_at: Timestamp,
}

/// Why a run cannot begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocked {
    /// One of [`reason`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When it was found.
    pub since: Timestamp,
    /// When the next try is due.
    pub until: Timestamp,
}

/// An image as the status shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSeen {
    /// As the pod's spec named it when the run began.
    pub asked: String,
    /// Full reference.
    pub reference: String,
    /// Repository and digest.
    pub id: String,
}

/// How far the graceful end of a run is.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// When it began.
    pub begun: Timestamp,
    /// The preStop hook has ended, or there is none.
    pub hook_done: bool,
    /// When the stop signal was sent.
    pub signalled: Option<Timestamp>,
    /// When SIGKILL was last sent.
    pub killed: Option<Timestamp>,
    /// The container's image was changed: the next run begins whatever the restart policy says.
    pub redefined: bool,
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Holds back the others until it succeeds.
    Startup,
    /// Decides on traffic.
    Readiness,
    /// Decides on restarts.
    Liveness,
}

/// What a pod's worker has learned.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The sandbox runs and has its address.
    SandboxUp(IpAddr),
    /// The sandbox could not be started.
    SandboxFailed(String),
    /// The sandbox is gone though nobody stopped it.
    SandboxLost,
    /// All volumes are in place.
    VolumesReady,
    /// A volume is not in place.
    VolumesFailed(String),
    /// Putting volumes in place was given up because the pod is being stopped.
    VolumesCancelled,
    /// A container's image is here.
    Image(String, ImageSeen),
    /// A sandbox tells how a container is.
    Container(protocol::ContainerState),
    /// The start of a container has been accepted.
    Started(String),
    /// A container cannot be started for now, and no run was begun.
    StartBlocked {
        /// Container.
        name: String,
        /// One of [`reason`].
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A run was begun and its process could not be started.
    StartFailed {
        /// Container.
        name: String,
        /// Which run.
        attempt: u32,
        /// For people.
        message: String,
    },
    /// The start was given up because the pod is being stopped.
    StartCancelled,
    /// A preStop hook has ended, well or not.
    HookDone(String),
    /// A probe's state has changed.
    Probed {
        /// Container.
        name: String,
        /// Which run.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
        /// The threshold of successes (true) or of failures (false) was reached.
        healthy: bool,
    },
    /// The pod has more on the node's disk than it may: the message says where.
    Exceeds(String),
    /// Nothing of the pod is left on the node.
    TornDown,
    /// Something of the pod is left on the node.
    TearDownFailed(String),
    /// The API server has forgotten the pod, or never knew it.
    Released,
    /// The API server could not be told.
    ReleaseFailed(String),
}

impl PodObserved {
    /// A pod that this node sees for the first time, or again after the agent was away: what the
    /// status says about earlier runs is taken over.
    pub fn new(pod: &Pod, now: Timestamp) -> Self {
        let status = pod.status.as_ref();
        let mut containers = BTreeMap::new();
        for (_, container) in all_containers(pod) {
            containers.insert(container.name.clone(), ContainerSeen::default());
        }
        let mut seen = PodObserved {
            start_time: status.and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0),
            sandbox: Step::Undone,
            volumes: Step::Undone,
            ip: status.and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()),
            containers,
            starting: None,
            vanished: false,
            verdict: None,
            teardown: Step::Undone,
            released: Step::Undone,
        };
        seen.recall(pod, now);
        seen
    }

    /// Takes earlier runs over from the pod's status. A run that the status shows as running is
    /// so only if its sandbox says so too; until then it counts as lost.
    fn recall(&mut self, pod: &Pod, now: Timestamp) {
        let Some(status) = &pod.status else { return };
        let lists = [&status.init_container_statuses, &status.container_statuses];
        for status in lists.into_iter().flatten().flatten() {
            let Some(seen) = self.containers.get_mut(&status.name) else { continue };
            let count = u32::try_from(status.restart_count).unwrap_or(0);
            let last = status.last_state.as_ref().and_then(|s| terminated(s, count.saturating_sub(1)));
            let state = status.state.as_ref();
            if !status.image_id.is_empty() {
                // What the spec said when the run began is not known any more: a run that goes on is
                // never ended for a mere difference in how its image is written.
                let asked = image_of(pod, &status.name).to_owned();
                let (reference, id) = (status.image.clone(), status.image_id.clone());
                seen.image = Some(ImageSeen { asked, reference, id });
            }
            if let Some(ended) = state.and_then(|s| terminated(s, count)) {
                (seen.runs, seen.run, seen.last) = (count + 1, Run::Ended(ended), last);
            } else if let Some(running) = state.and_then(|s| s.running.as_ref()) {
                let started_at = running.started_at.as_ref().map_or(now, |t| t.0);
                seen.runs = count + 1;
                seen.run = Run::Ended(lost(count, started_at, now));
                seen.last = last;
            } else if let Some(ended) = status.last_state.as_ref().and_then(|s| terminated(s, count)) {
                (seen.runs, seen.run) = (count + 1, Run::Ended(ended));
            }
        }
    }
}

impl PodObserved {
    /// True if a start of this container is under way.
    pub fn is_starting(&self, name: &str) -> bool {
        self.starting.as_ref().is_some_and(|starting| starting.name == name)
    }
}

impl ContainerSeen {
    /// Makes `attempt` the newest run if it is not yet.
    fn begin_run(&mut self, attempt: u32) {
        if attempt < self.runs {
            return;
        }
        if let Run::Ended(ended) = std::mem::take(&mut self.run) {
            self.last = Some(ended);
        }
        self.runs = attempt + 1;
        self.stale = false;
        self.blocked = None;
        self.backing_off = false;
        (self.started, self.ready) = (false, false);
        self.unhealthy = None;
        self.stop = None;
    }

    fn end(&mut self, ended: Ended) {
        self.run = Run::Ended(ended);
        (self.started, self.ready) = (false, false);
        self.unhealthy = None;
        self.stale |= self.stop.take().is_some_and(|stop| stop.redefined);
    }

    /// True if the newest run is of another image than the pod's spec names by now.
    pub fn is_redefined(&self, container: &Container) -> bool {
        let wanted = container.image.as_deref().unwrap_or_default();
        self.image.as_ref().is_some_and(|image| image.asked != wanted)
    }

    /// True if an image error has been shown long enough as itself.
    pub fn image_back_off_due(&self, now: Timestamp) -> Option<Timestamp> {
        let blocked = self.blocked.as_ref().filter(|b| b.reason == reason::ERR_IMAGE_PULL)?;
        let due = later(blocked.since, ERROR_SHOWN);
        (blocked.until > now).then_some(due)
    }
}

impl Step {
    /// Notes that it is being done now.
    pub fn begin(&mut self) {
        let tries = self.tries();
        *self = Step::Doing { tries };
    }

    /// Notes a failure; the next try is later each time, from half a second to two minutes.
    pub fn fail(&mut self, message: String, now: Timestamp) {
        let tries = self.tries().saturating_add(1);
        let pause = Duration::from_millis(500) * 2u32.saturating_pow(tries.min(9) - 1);
        let until = later(now, pause.min(Duration::from_secs(122)));
        *self = Step::Failed { message, until, tries };
    }

    /// True if it is to be done now: not begun, or failed long enough ago.
    pub fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Step::Undone => true,
            Step::Failed { until, .. } => *until <= now,
            Step::Doing { .. } | Step::Done => false,
        }
    }

    /// When a failed step is due again.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self {
            Step::Failed { until, .. } => Some(*until),
            _ => None,
        }
    }

    fn tries(&self) -> u32 {
        match self {
            Step::Doing { tries } | Step::Failed { tries, .. } => *tries,
            Step::Undone | Step::Done => 0,
        }
    }
}

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others.
    Sidecar,
    /// A main container.
    Main,
}

/// All containers of a pod in the order they are started.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, c)
    });
    init.chain(spec.into_iter().flat_map(|s| &s.containers).map(|c| (Role::Main, c)))
}

/// `spec.containers{web}` or `spec.initContainers{setup}`.
pub fn field_path(pod: &Pod, name: &str) -> Option<String> {
    let (role, _) = all_containers(pod).find(|(_, c)| c.name == name)?;
    let list = if role == Role::Main { "containers" } else { "initContainers" };
    Some(format!("spec.{list}{{{name}}}"))
}

/// `name_namespace(uid)`, as the kubelet names pods in messages.
pub fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// Name and attempt of a container's id in its sandbox.
pub fn parse_id(id: &str) -> Option<(&str, u32)> {
    let (name, attempt) = id.rsplit_once('-')?;
    Some((name, attempt.parse().ok()?))
}

fn image_of<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let found = all_containers(pod).find(|(_, c)| c.name == name);
    found.and_then(|(_, c)| c.image.as_deref()).unwrap_or_default()
}

fn terminated(state: &ContainerState, attempt: u32) -> Option<Ended> {
    let terminated = state.terminated.as_ref()?;
    let time = |t: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        t.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
    };
    Some(Ended {
        attempt,
        code: terminated.exit_code,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
        started_at: time(&terminated.started_at),
        finished_at: time(&terminated.finished_at),
    })
}

/// A run that ended with its sandbox, out of sight: the kernel killed it.
fn lost(attempt: u32, started_at: Timestamp, now: Timestamp) -> Ended {
    Ended {
        attempt,
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
        started_at,
        finished_at: now,
    }
}

fn millis(value: i64, now: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(value).unwrap_or(now)
}
