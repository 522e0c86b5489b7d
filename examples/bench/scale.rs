//! The scheduler and the controllers with thousands of simulated nodes and pods.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Places;
use crate::client::{Access, Connection, Lines};
use crate::cluster::Cluster;
use crate::fleet::Fleet;
use crate::idle::node_is_ready;
use crate::process;
use crate::report::{Figure, Goal, Report, percentile};

const CONNECTIONS: usize = 16;
/// Nothing measured here may take longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Everything that was begun ends in this time.
const SETTLE: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(30);

const SCHEDULER_NODES: usize = 5000;
const PLAIN_PODS: usize = 10_000;
const CONSTRAINED_PODS: usize = 2000;

const CONTROLLER_NODES: usize = 1000;
const REPLICAS: usize = 5000;
const DEPLOYMENTS: usize = 1000;
const CHANGES: usize = 200;

/// Of 110 pods each.
const IDLE_NODES: usize = 300;
const IDLE_DEPLOYMENTS: usize = 30;
const IDLE_REPLICAS: usize = 1000;

/// Pods bound per second.
pub async fn schedule(places: &Places, report: &mut Report) -> Result<()> {
    let (cluster, mut fleet) = start(places, SCHEDULER_NODES).await?;
    let anti_affinity = json!({ "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "apart" } },
        }],
    } } });
    let spread = json!({ "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "spread" } },
    }] });
    for (figure, namespace, pods, more, goal) in [
        ("scheduler_5000_nodes_10000_pods", "plain", PLAIN_PODS, json!({}), 3000.0),
        ("scheduler_5000_nodes_anti_affinity", "apart", CONSTRAINED_PODS, anti_affinity, 500.0),
        ("scheduler_5000_nodes_topology_spread", "spread", CONSTRAINED_PODS, spread, 500.0),
    ] {
        let bound = bind(&cluster.access, &mut fleet, namespace, pods, &more).await;
        if let Some(elapsed) = report.check(figure, bound) {
            let rate = pods as f64 / elapsed.as_secs_f64();
            report.add(Figure::new(figure, rate, "pods/s", Goal::AtLeast(goal)));
        }
    }
    Ok(())
}

/// How long it takes from the first create until the last pod is bound.
async fn bind(
    access: &Access,
    fleet: &mut Fleet,
    namespace: &'static str,
    pods: usize,
    more: &Value,
) -> Result<Duration> {
    namespaced(access, namespace).await?;
    let mut spec = pod_spec();
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let start = Instant::now();
    create_all(access, format!("/api/v1/namespaces/{namespace}/pods"), pods, move |number| {
        json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": { "name": format!("{namespace}-{number}"), "labels": { "app": namespace } } })
    })
    .await?;
    fleet.until(namespace, LIMIT, |tally| tally.bound >= pods).await?;
    Ok(start.elapsed())
}

/// Deployments: one large one, and one change to one of many.
pub async fn control(places: &Places, report: &mut Report) -> Result<()> {
    let (cluster, mut fleet) = start(places, CONTROLLER_NODES).await?;
    let measured = one_large(&cluster.access, &mut fleet).await;
    if let Some([created, rolled, deleted]) = report.check("deployment_5000", measured) {
        let seconds =
            |name, took: Duration, goal| Figure::new(name, took.as_secs_f64(), "s", Goal::AtMost(goal));
        report.add(seconds("deployment_5000_available", created, 10.0));
        report.add(seconds("deployment_5000_rolled", rolled, 30.0));
        report.add(seconds("deployment_5000_deleted", deleted, 10.0));
    }
    if let Some(mut samples) = report.check("deployments_1000_change", one_of_many(&cluster.access).await) {
        let [p50, p99] = [50.0, 99.0].map(|percent| percentile(&mut samples, percent));
        report.add(Figure::new("deployments_1000_change_p50", p50, "ms", Goal::None));
        report.add(Figure::new("deployments_1000_change_p99", p99, "ms", Goal::AtMost(50.0)));
    }
    Ok(())
}

/// How long it takes to create, to roll to another template and to delete.
async fn one_large(access: &Access, fleet: &mut Fleet) -> Result<[Duration; 3]> {
    namespaced(access, "large").await?;
    let mut connection = access.connect().await?;
    let collection = "/apis/apps/v1/namespaces/large/deployments";
    let path = format!("{collection}/large");
    let mut deployments = watched(access, collection).await?;

    let start = Instant::now();
    connection.post(collection, deployment("large", REPLICAS).to_string()).await?;
    until_settled(&mut deployments, "large", REPLICAS, 1).await?;
    let created = start.elapsed();

    let start = Instant::now();
    let change = json!({ "spec": { "template": { "metadata": { "annotations": { "rolled": "yes" } } } } });
    let generation = changed(&mut connection, &path, &change).await?;
    until_settled(&mut deployments, "large", REPLICAS, generation).await?;
    let rolled = start.elapsed();

    let start = Instant::now();
    connection.call(Method::DELETE, &path, None).await?;
    fleet.until("large", LIMIT, |tally| tally.present == 0).await?;
    Ok([created, rolled, start.elapsed()])
}

/// Milliseconds from each change of a replica count until the Deployment reports all replicas
/// available.
async fn one_of_many(access: &Access) -> Result<Vec<f64>> {
    let collection = "/apis/apps/v1/namespaces/many/deployments";
    let mut deployments = deployments(access, "many", DEPLOYMENTS, 5).await?;
    let mut connection = access.connect().await?;
    let mut samples = Vec::new();
    for number in 0..CHANGES {
        let name = format!("d{}", number * DEPLOYMENTS / CHANGES);
        let start = Instant::now();
        let change = json!({ "spec": { "replicas": 6 } });
        let generation = changed(&mut connection, &format!("{collection}/{name}"), &change).await?;
        until_settled(&mut deployments, &name, 6, generation).await?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(samples)
}

/// Makes so many Deployments of so many replicas and waits until all are available. Gives the watch
/// that told.
async fn deployments(access: &Access, namespace: &str, count: usize, replicas: usize) -> Result<Lines> {
    namespaced(access, namespace).await?;
    let collection = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let mut lines = watched(access, &collection).await?;
    create_all(access, collection, count, move |n| deployment(&format!("d{n}"), replicas)).await?;
    let mut settled = BTreeSet::new();
    while settled.len() < count {
        let event = next_event(&mut lines).await?;
        if is_settled(&event["object"], replicas, 1) {
            settled.extend(event["object"]["metadata"]["name"].as_str().map(str::to_owned));
        }
    }
    Ok(lines)
}

/// What a control plane uses that has many pods and nothing to do but to take heartbeats.
pub async fn idle(places: &Places, report: &mut Report) -> Result<()> {
    let (cluster, _fleet) = start(places, IDLE_NODES).await?;
    deployments(&cluster.access, "idle", IDLE_DEPLOYMENTS, IDLE_REPLICAS).await?;
    tokio::time::sleep(SETTLE).await;
    let (from, before) = (Instant::now(), process::used(cluster.pid())?);
    tokio::time::sleep(WINDOW).await;
    let (elapsed, after) = (from.elapsed().as_secs_f64(), process::used(cluster.pid())?);
    let cpu = (after.cpu - before.cpu) / elapsed * 100.0;
    let rss = process::resident(cluster.pid())? / 1e6;
    report.add(Figure::new("idle_30000_pods_cpu", cpu, "% core", Goal::AtMost(2.0)));
    report.add(Figure::new("idle_30000_pods_rss", rss, "MB", Goal::None));
    Ok(())
}

/// A cluster whose own node takes no pods, with simulated nodes beside it.
async fn start(places: &Places, nodes: usize) -> Result<(Cluster, Fleet)> {
    let cluster = Cluster::start_with(places, &["--cluster-cidr", "10.128.0.0/9"]).await?;
    node_is_ready(&cluster).await?;
    let mut connection = cluster.access.connect().await?;
    let own = connection.get("/api/v1/nodes").await?;
    let own = own["items"][0]["metadata"]["name"].as_str().context("the node has a name")?;
    changed(&mut connection, &format!("/api/v1/nodes/{own}"), &json!({"spec": {"unschedulable": true}}))
        .await?;
    let fleet = Fleet::start(&cluster.access, nodes).await?;
    Ok((cluster, fleet))
}

async fn namespaced(access: &Access, name: &str) -> Result<()> {
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    access.connect().await?.post("/api/v1/namespaces", body.to_string()).await?;
    Ok(())
}

fn pod_spec() -> Value {
    json!({ "containers": [{ "name": "main", "image": "simulated:1",
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } } }] })
}

fn deployment(name: &str, replicas: usize) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod_spec() },
        },
    })
}

/// Creates objects 0 to `count` over several connections.
async fn create_all(
    access: &Access,
    path: String,
    count: usize,
    body: impl Fn(usize) -> Value + Clone + Send + Sync + 'static,
) -> Result<()> {
    let mut clients = JoinSet::new();
    for first in 0..CONNECTIONS {
        let (mut connection, path, body) = (access.connect().await?, path.clone(), body.clone());
        clients.spawn(async move {
            for number in (first..count).step_by(CONNECTIONS) {
                connection.post(&path, body(number).to_string()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

/// The generation of an object after a merge patch.
async fn changed(connection: &mut Connection, path: &str, change: &Value) -> Result<i64> {
    let merge = Some("application/merge-patch+json");
    let (status, body) = connection.send(Method::PATCH, path, Some(change.to_string().into()), merge).await?;
    anyhow::ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    let object: Value = serde_json::from_slice(&body)?;
    Ok(object["metadata"]["generation"].as_i64().unwrap_or(0))
}

async fn watched(access: &Access, collection: &str) -> Result<Lines> {
    access.connect().await?.watch(&format!("{collection}?watch=true")).await
}

async fn next_event(lines: &mut Lines) -> Result<Value> {
    tokio::time::timeout(LIMIT, lines.event()).await.context("nothing happens any more")?
}

/// Waits until a Deployment has exactly these replicas, all of its latest template and available.
async fn until_settled(lines: &mut Lines, name: &str, replicas: usize, generation: i64) -> Result<()> {
    loop {
        let event = next_event(lines).await?;
        let object = &event["object"];
        if object["metadata"]["name"] == name && is_settled(object, replicas, generation) {
            return Ok(());
        }
    }
}

fn is_settled(deployment: &Value, replicas: usize, generation: i64) -> bool {
    let status = &deployment["status"];
    ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[field] == replicas)
        && status["observedGeneration"].as_i64().is_some_and(|observed| observed >= generation)
}
