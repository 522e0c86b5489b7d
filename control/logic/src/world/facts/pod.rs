//! What the controllers and the scheduler remember of a pod: no more than a rule reads, because
//! tens of thousands of pods must fit a small board.
//!
//! Made by [`super::Object::decode`], kept by [`crate::world::pods`].

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1 as core;
use proa_api::condition;
use proa_api::names;
use proa_api::owner::refers_to;
use proa_api::references::claim;
use proa_api::resources::{HostPort, Resources, Weighed, host_ports, is_sidecar, requests, weighed};
use proa_api::selector::Labels;

use super::meta::{Meta, time};
use super::node::image_name;
use super::terms::{PodTerms, Spread};

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepted; not all containers run.
    Pending,
    /// The node cannot be asked.
    Unknown,
    /// Bound, and a container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one badly.
    Failed,
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its metadata.
    pub meta: Arc<Meta>,
    /// Its labels, shared among pods with the same ones.
    pub labels: Arc<Labels>,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when it is ready, if it is.
    pub ready_since: Option<Timestamp>,
    /// The highest restart count of its containers.
    pub restarts: i32,
    /// The annotation `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// Its addresses.
    pub ips: Box<[String]>,
    /// `spec.hostname`.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain`.
    pub subdomain: Option<Box<str>>,
    /// The container ports that have names.
    pub ports: Box<[NamedPort]>,
    /// The node's ports that it takes.
    pub host_ports: Box<[HostPort]>,
    /// Higher goes first.
    pub priority: i32,
    /// What it asks of a node.
    pub requests: Resources,
    /// What it counts for when nodes are compared.
    pub weighed: Weighed,
    /// The taints it stands.
    pub tolerations: Box<[core::Toleration]>,
    /// What it says of the pods beside it, if anything; shared among pods that say the same.
    pub terms: Option<Arc<PodTerms>>,
    /// The PersistentVolumeClaims that it mounts.
    pub claims: Box<[Arc<str>]>,
    /// When its node took it on.
    pub started: Option<Timestamp>,
    /// True if the scheduler has sent it away for a more important pod.
    pub preempted: bool,
    /// The claims that it brings along, by volume.
    pub ephemeral: Option<Arc<BTreeMap<String, core::PersistentVolumeClaimTemplate>>>,
    /// What the scheduler needs to know while the pod is not bound.
    pub wishes: Option<Box<Wishes>>,
    /// The text of the condition that says that no node fits.
    pub unschedulable: Option<Box<str>>,
    /// Since when somebody has been saying that it is about to be taken away.
    pub disrupted_since: Option<Timestamp>,
    /// Since when it has been on its way out.
    pub leaving_since: Option<Timestamp>,
    /// True once it is on its way out and no node has to stop it any more.
    pub stopped: bool,
    /// How it ended, once it has.
    pub end: Option<Box<End>>,
    /// What its Job has noted on it, if it is a Job's.
    pub notes: Option<Box<JobNotes>>,
}

/// How a pod ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// Each container that has ended, init containers last, with its exit code.
    pub exits: Box<[(Box<str>, i32)]>,
    /// Type and status of each condition.
    pub conditions: Box<[(Box<str>, Box<str>)]>,
}

/// What a Job notes on its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobNotes {
    /// The completion index.
    pub index: Option<i32>,
    /// How many pods of the index have failed before.
    pub failures: i32,
    /// How many more have failed in ways that do not count.
    pub ignored_failures: i32,
    /// The restarts of all its containers together.
    pub restarts: i32,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// `http`.
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// 1–65535.
    pub number: i32,
}

/// What a pod that is not bound wishes of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What the node must and should be.
    pub node_affinity: Option<core::NodeAffinity>,
    /// How it wants to be spread among pods like it.
    pub spread: Box<[Spread]>,
    /// The images of its containers, each in the form of [`super::image_name`].
    pub images: Box<[Box<str>]>,
    /// `spec.schedulerName`.
    pub scheduler: Box<str>,
    /// The names of the gates that hold it back.
    pub gates: Box<[Box<str>]>,
    /// True if `spec.preemptionPolicy` is `Never`.
    pub never_preempts: bool,
    /// `status.nominatedNodeName`: the node where room is being made for it.
    pub nominated: Option<Arc<str>>,
}

impl Pod {
    /// True once it has ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// True if it counts as a replica: neither ended nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && self.meta.deleted.is_none()
    }

    /// When it counts as available after this many seconds of readiness.
    pub fn available_at(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        self.ready_since.map(|since| since + jiff::SignedDuration::from_secs(min_ready_seconds.into()))
    }

    /// The node it is on, or the only one that it may go to.
    pub fn target_node(&self) -> Option<&str> {
        if let Some(node) = &self.node {
            return Some(node);
        }
        let affinity = self.wishes.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
        let name = fields.filter(|f| f.key == "metadata.name" && f.operator == "In");
        name.filter_map(|f| f.values.as_ref()?.first()).next().map(String::as_str)
    }

    pub(super) fn of(meta: Arc<Meta>, pod: core::Pod) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let end = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
            .then(|| Box::new(End::of(&meta, &status)));
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let of_job = meta.controller().is_some_and(refers_to::<Job>);
        let notes = of_job.then(|| Box::new(JobNotes::of(&annotations, &status)));
        let ready = condition::find(status.conditions.as_ref(), "Ready").filter(|c| c.status == "True");
        let scheduled = condition::find(status.conditions.as_ref(), "PodScheduled")
            .filter(|c| c.status == "False" && c.reason.as_deref() == Some("Unschedulable"));
        let preempted = condition::find(status.conditions.as_ref(), "DisruptionTarget")
            .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"));
        let cost = annotations.get("controller.kubernetes.io/pod-deletion-cost");
        let disrupted_since = disrupted_since(&status);
        let ips = match status.pod_ips {
            Some(ips) if !ips.is_empty() => ips.into_iter().map(|ip| ip.ip).collect(),
            _ => status.pod_ip.into_iter().filter(|ip| !ip.is_empty()).collect(),
        };
        let node = spec.node_name.as_deref().filter(|n| !n.is_empty()).map(Arc::from);
        let restarts = status.container_statuses.iter().flatten().map(|s| s.restart_count).max();
        Pod {
            labels: Arc::new(pod.metadata.labels.unwrap_or_default()),
            ready_since: ready.map(|c| time(&c.last_transition_time).unwrap_or(meta.created)),
            unschedulable: scheduled.map(|c| c.message.as_deref().unwrap_or_default().into()),
            phase: phase(status.phase.as_deref()),
            restarts: restarts.unwrap_or(0),
            deletion_cost: cost.and_then(|c| c.parse().ok()).unwrap_or(0),
            ips,
            ports: named_ports(&spec),
            host_ports: host_ports(&spec),
            terms: PodTerms::of(&spec, &meta.key.namespace).map(Arc::new),
            claims: spec
                .volumes
                .iter()
                .flatten()
                .filter_map(|v| claim(&meta.key.name, v))
                .map(Arc::from)
                .collect(),
            ephemeral: ephemeral(&spec),
            priority: spec.priority.unwrap_or(0),
            requests: requests(&spec),
            weighed: weighed(&spec),
            started: time(&status.start_time),
            preempted,
            wishes: node.is_none().then(|| Box::new(wishes(&spec, status.nominated_node_name.as_deref()))),
            node,
            hostname: spec.hostname.map(Into::into),
            subdomain: spec.subdomain.map(Into::into),
            tolerations: spec.tolerations.unwrap_or_default().into(),
            stopped: meta.deleted.is_some() && grace == 0,
            disrupted_since,
            leaving_since: meta.deleted.map(|at| at - jiff::SignedDuration::from_secs(grace)),
            end,
            notes,
            meta,
        }
    }
}

/// What a node says of a pod that it ends holds however long the end takes.
fn disrupted_since(status: &core::PodStatus) -> Option<Timestamp> {
    let condition = condition::find(status.conditions.as_ref(), "DisruptionTarget")?;
    let said = condition.status == "True" && condition.reason.as_deref() != Some("TerminationByKubelet");
    said.then(|| time(&condition.last_transition_time)).flatten()
}

fn containers(status: &core::PodStatus) -> impl Iterator<Item = &core::ContainerStatus> {
    status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
}

impl End {
    /// When it ended is when its last container did; else when it was last known not to be ready.
    fn of(meta: &Meta, status: &core::PodStatus) -> Self {
        let ended = || containers(status).filter_map(|c| Some((c, c.state.as_ref()?.terminated.as_ref()?)));
        let last = ended().filter_map(|(_, end)| time(&end.finished_at)).max();
        let unready = condition::find(status.conditions.as_ref(), "Ready");
        let unready = unready.and_then(|c| time(&c.last_transition_time));
        let conditions = status.conditions.iter().flatten();
        End {
            at: last.or(unready).or(meta.deleted).unwrap_or(meta.created),
            exits: ended().map(|(c, end)| (c.name.as_str().into(), end.exit_code)).collect(),
            conditions: conditions.map(|c| (c.type_.as_str().into(), c.status.as_str().into())).collect(),
        }
    }
}

impl JobNotes {
    fn of(annotations: &BTreeMap<String, String>, status: &core::PodStatus) -> Self {
        let number = |name: &str| annotations.get(name).and_then(|n| n.parse().ok());
        JobNotes {
            index: number(names::JOB_COMPLETION_INDEX).filter(|index| *index >= 0),
            failures: number(names::ANNOTATION_JOB_INDEX_FAILURES).unwrap_or(0),
            ignored_failures: number(names::ANNOTATION_JOB_INDEX_IGNORED_FAILURES).unwrap_or(0),
            restarts: containers(status).map(|c| c.restart_count).sum(),
        }
    }
}

pub(crate) fn phase(text: Option<&str>) -> Phase {
    match text {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some("Unknown") => Phase::Unknown,
        _ => Phase::Pending,
    }
}

fn named_ports(spec: &core::PodSpec) -> Box<[NamedPort]> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(NamedPort {
                name: p.name.as_deref()?.into(),
                protocol: p.protocol.as_deref().unwrap_or("TCP").into(),
                number: p.container_port,
            })
        })
        .collect()
}

fn ephemeral(spec: &core::PodSpec) -> Option<Arc<BTreeMap<String, core::PersistentVolumeClaimTemplate>>> {
    let template = |volume: &core::Volume| {
        Some((volume.name.clone(), volume.ephemeral.as_ref()?.volume_claim_template.clone()?))
    };
    let templates: BTreeMap<_, _> = spec.volumes.iter().flatten().filter_map(template).collect();
    (!templates.is_empty()).then(|| Arc::new(templates))
}

fn wishes(spec: &core::PodSpec, nominated: Option<&str>) -> Wishes {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let images = all.filter_map(|c| c.image.as_deref());
    Wishes {
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        node_affinity: spec.affinity.as_ref().and_then(|a| a.node_affinity.clone()),
        spread: spec.topology_spread_constraints.iter().flatten().map(Spread::of).collect(),
        images: images.map(image_name).collect(),
        scheduler: spec.scheduler_name.as_deref().unwrap_or(names::DEFAULT_SCHEDULER).into(),
        gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.as_str().into()).collect(),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        nominated: nominated.filter(|n| !n.is_empty()).map(Into::into),
    }
}
