//! Simulated nodes: they register, renew their Leases, accept the pods that are bound to them and
//! report them Running and ready, and let go of them when asked to. Nothing runs in them. Each
//! does to the API what a node agent does, over a few connections instead of one per node, so that
//! thousands of them fit beside the server that is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{Access, Connection, Lines};

/// Connections for what the nodes report.
const REPORTERS: usize = 8;
const REGISTRARS: usize = 16;
/// As often as a kubelet does.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Nodes are spread over so many zones.
const ZONES: usize = 10;

/// What the nodes have been told of one namespace so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Pods that have ever been bound.
    pub bound: usize,
    /// Pods that are bound now.
    pub present: usize,
}

/// The nodes, until they are dropped.
pub struct Fleet {
    tallies: watch::Receiver<BTreeMap<String, Tally>>,
    tasks: JoinSet<Result<()>>,
}

impl Fleet {
    /// Registers so many nodes and starts what they do.
    pub async fn start(access: &Access, nodes: usize) -> Result<Fleet> {
        register(access, nodes).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeats(access.connect().await?, nodes));
        let (reports, queues): (Vec<_>, Vec<_>) = (0..REPORTERS).map(|_| mpsc::unbounded_channel()).unzip();
        for queue in queues {
            tasks.spawn(report(access.connect().await?, queue));
        }
        let (publish, tallies) = watch::channel(BTreeMap::new());
        // A node hears of no pod that is not bound.
        let bound = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%21%3D";
        let pods = access.connect().await?.watch(bound).await?;
        tasks.spawn(follow(pods, reports, publish));
        Ok(Fleet { tallies, tasks })
    }

    /// Waits until the tally of a namespace is as wanted, and tells after how long.
    pub async fn until(
        &mut self,
        namespace: &str,
        limit: Duration,
        wanted: impl Fn(Tally) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        let tally = |all: &BTreeMap<String, Tally>| all.get(namespace).copied().unwrap_or_default();
        let reached = async {
            tokio::select! {
                reached = self.tallies.wait_for(|all| wanted(tally(all))) => {
                    reached.map(drop).context("the nodes do not follow the pods any more")
                }
                Some(ended) = self.tasks.join_next() => ended?,
            }
        };
        match tokio::time::timeout(limit, reached).await {
            Ok(reached) => reached.map(|()| start.elapsed()),
            Err(_) => anyhow::bail!("after {limit:?} only {:?}", tally(&self.tallies.borrow())),
        }
    }
}

fn name(number: usize) -> String {
    format!("simulated-{number}")
}

async fn register(access: &Access, nodes: usize) -> Result<()> {
    let mut registrars = JoinSet::new();
    for first in 0..REGISTRARS {
        let mut connection = access.connect().await?;
        registrars.spawn(async move {
            for number in (first..nodes).step_by(REGISTRARS) {
                connection.post("/api/v1/nodes", node(number).to_string()).await?;
                let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
                connection.post(leases, lease(number).to_string()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(registrar) = registrars.join_next().await {
        registrar??;
    }
    Ok(())
}

fn node(number: usize) -> serde_json::Value {
    let name = name(number);
    let resources = json!({"cpu": "32", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"});
    let now = Timestamp::now().to_string();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", number % ZONES),
        } },
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "simulated", "lastHeartbeatTime": now, "lastTransitionTime": now,
            }],
        },
    })
}

fn lease(number: usize) -> serde_json::Value {
    let name = name(number);
    let renewed = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed },
    })
}

/// Renews one Lease after the other, evenly over the time between two renewals of each.
async fn heartbeats(mut connection: Connection, nodes: usize) -> Result<()> {
    let mut clock = tokio::time::interval(HEARTBEAT / u32::try_from(nodes.max(1))?);
    for number in (0..nodes).cycle() {
        clock.tick().await;
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", name(number));
        connection.call(Method::PUT, &path, Some(lease(number).to_string().into())).await?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    type_: &'a str,
    #[serde(borrow)]
    object: Pod<'a>,
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    deletion_timestamp: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    node_name: Option<&'a str>,
}

/// What a node has to tell the API about a pod.
struct Report {
    path: String,
    /// False: it runs. True: it has stopped.
    stopped: bool,
    number: usize,
}

/// What the nodes know of a pod.
#[derive(Default)]
struct Known {
    running: BTreeSet<String>,
    stopping: BTreeSet<String>,
}

/// Tells of each pod once that it runs, and once that it has stopped.
async fn follow(
    mut pods: Lines,
    reports: Vec<mpsc::UnboundedSender<Report>>,
    publish: watch::Sender<BTreeMap<String, Tally>>,
) -> Result<()> {
    let mut known = Known::default();
    let mut number = 0;
    loop {
        let line = pods.next().await?;
        let event: Event = serde_json::from_slice(line).context("a pod's event")?;
        let Metadata { name, namespace, uid, deletion_timestamp } = event.object.metadata;
        let simulated = event.object.spec.node_name.is_some_and(|n| n.starts_with("simulated-"));
        if !simulated {
            continue;
        }
        let count = |change: &dyn Fn(&mut Tally)| {
            publish.send_modify(|all| match all.get_mut(namespace) {
                Some(tally) => change(tally),
                None => change(all.entry(namespace.to_owned()).or_default()),
            });
        };
        let mut tell = |stopped: bool| {
            number += 1;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            // The end of the fleet ends the reporters.
            let _ = reports[number % REPORTERS].send(Report { path, stopped, number });
        };
        if event.type_ == "DELETED" {
            known.stopping.remove(uid);
            if known.running.remove(uid) {
                count(&|tally| tally.present -= 1);
            }
            continue;
        }
        if known.running.insert(uid.to_owned()) {
            count(&|tally| {
                tally.bound += 1;
                tally.present += 1;
            });
            if deletion_timestamp.is_none() {
                tell(false);
            }
        }
        if deletion_timestamp.is_some() && known.stopping.insert(uid.to_owned()) {
            tell(true);
        }
    }
}

/// Makes the reports of one queue. A pod that has gone meanwhile is no reason to stop.
async fn report(mut connection: Connection, mut queue: mpsc::UnboundedReceiver<Report>) -> Result<()> {
    while let Some(report) = queue.recv().await {
        let done = if report.stopped {
            let options = json!({"gracePeriodSeconds": 0}).to_string();
            connection.send(Method::DELETE, &report.path, Some(options.into()), None).await?
        } else {
            let path = format!("{}/status", report.path);
            let merge = Some("application/merge-patch+json");
            let body = running(report.number).to_string();
            connection.send(Method::PATCH, &path, Some(body.into()), merge).await?
        };
        ensure!(done.0.is_success() || done.0 == 404 || done.0 == 409, "{}: {}", report.path, done.0);
    }
    Ok(())
}

fn running(number: usize) -> serde_json::Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let is = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now});
    let ip = format!("10.{}.{}.{}", 64 + (number >> 16) % 64, (number >> 8) & 255, number & 255);
    json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "conditions": [is("PodScheduled"), is("Initialized"), is("ContainersReady"), is("Ready")],
        "containerStatuses": [{
            "name": "main", "image": "simulated:1", "imageID": "simulated:1", "ready": true, "started": true,
            "restartCount": 0, "state": {"running": {"startedAt": now}},
        }],
    }})
}
