//! Pods: from the create to Ready, one at a time and many at once, and what each of them weighs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Connection, Lines};
use crate::cluster::Cluster;
use crate::idle::node_is_ready;
use crate::process;
use crate::report::{Figure, Goal, Report, percentile};

const ONE_BY_ONE: usize = 30;
const AT_ONCE: usize = 200;
/// One pod may take this long, to come or to go.
const POD_LIMIT: Duration = Duration::from_secs(20);
const ALL_LIMIT: Duration = Duration::from_secs(60);
pub const PODS: &str = "/api/v1/namespaces/default/pods";
const WASM: &str = "bench-wasm:1";
const CONTAINER: &str = "bench-container:1";

pub async fn measure(cluster: &Cluster, component: &Path, report: &mut Report) -> Result<()> {
    node_is_ready(cluster).await?;
    tokio::task::block_in_place(|| pack_images(cluster, component))?;
    for (image, names, goal) in [
        (WASM, ["pod_wasm_ready_p50", "pod_wasm_ready_p99"], 15.0),
        (CONTAINER, ["pod_container_ready_p50", "pod_container_ready_p99"], 40.0),
    ] {
        if let Some(mut samples) = report.check(names[0], one_by_one(cluster, image).await) {
            let [p50, p99] = [50.0, 99.0].map(|percent| percentile(&mut samples, percent));
            report.add(Figure::new(names[0], p50, "ms", Goal::AtMost(goal)));
            report.add(Figure::new(names[1], p99, "ms", Goal::None));
        }
    }
    let all = at_once(cluster).await.context("200 pods")?;
    report.add(Figure::new("pods_200_wasm_ready", all.as_secs_f64(), "s", Goal::AtMost(10.0)));
    let weight = weigh(cluster)?;
    let each = (weight.sandbox + weight.container) / 1e6;
    report.add(Figure::new("pods_200_wasm_pss_each", each, "MB", Goal::AtMost(2.5)));
    report.add(Figure::new("pods_200_wasm_pss_sandbox", weight.sandbox / 1e6, "MB", Goal::None));
    report.add(Figure::new("pods_200_wasm_pss_container", weight.container / 1e6, "MB", Goal::None));
    let rss = process::resident(cluster.pid())? / 1e6;
    report.add(Figure::new("pods_200_proa_rss", rss, "MB", Goal::None));
    Ok(())
}

fn pack_images(cluster: &Cluster, component: &Path) -> Result<()> {
    let utf8 = |path: &Path| path.to_str().map(str::to_owned).context("the path is not UTF-8");
    cluster.proa(&["image", "pack", &utf8(component)?, "-t", WASM])?;
    let root = cluster.scratch().join("rootfs");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
    let program = ["--entrypoint", "/bin/busybox", "--entrypoint", "httpd"];
    let arguments = ["--cmd", "-f", "--cmd", "-p", "--cmd", "8080"];
    cluster.proa(&[&["image", "pack", &utf8(&root)?, "-t", CONTAINER], &program[..], &arguments].concat())
}

/// A pod's spec. Nothing it holds needs time to end.
fn spec(image: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": image, "ports": [{"containerPort": 8080}]}]})
}

/// Milliseconds from each create to the receipt of the pod that is Ready. The first one, which
/// finds nothing compiled or cached, does not count. They are deleted only when all are measured:
/// the kernel takes tens of milliseconds to take a network namespace apart, and whoever makes one
/// meanwhile waits.
async fn one_by_one(cluster: &Cluster, image: &str) -> Result<Vec<f64>> {
    let mut connection = cluster.access.connect().await?;
    let mut events = watch(cluster, &mut connection).await?;
    let mut samples = Vec::new();
    let name_of = |number| format!("{}-{number}", image.split(':').next().unwrap_or_default());
    for (number, name) in (0..=ONE_BY_ONE).map(|number| (number, name_of(number))) {
        let body =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec(image)});
        let body = body.to_string();
        let start = Instant::now();
        connection.post(PODS, body).await?;
        let ready =
            until(&mut events, |event| event["object"]["metadata"]["name"] == *name && is_ready(event));
        ready.await.with_context(|| format!("{name} does not become Ready"))?;
        if number > 0 {
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    for name in (0..=ONE_BY_ONE).map(name_of) {
        connection.call(Method::DELETE, &format!("{PODS}/{name}?gracePeriodSeconds=0"), None).await?;
        let gone = |event: &Value| event["type"] == "DELETED" && event["object"]["metadata"]["name"] == *name;
        until(&mut events, gone).await.with_context(|| format!("{name} does not go away"))?;
    }
    Ok(samples)
}

pub async fn watch(cluster: &Cluster, connection: &mut Connection) -> Result<Lines> {
    let list = connection.get(PODS).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?;
    let watch = cluster.access.connect().await?;
    watch.watch(&format!("{PODS}?watch=true&resourceVersion={revision}")).await
}

pub async fn until(events: &mut Lines, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let found = async {
        while !wanted(&events.event().await?) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(POD_LIMIT, found).await?
}

pub fn is_ready(event: &Value) -> bool {
    let conditions = event["object"]["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// From the create of a Deployment until all its pods are Ready.
async fn at_once(cluster: &Cluster) -> Result<Duration> {
    let mut connection = cluster.access.connect().await?;
    let mut events = watch(cluster, &mut connection).await?;
    let labels = json!({"app": "many"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {"replicas": AT_ONCE, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec(WASM)}}});
    let start = Instant::now();
    connection.post("/apis/apps/v1/namespaces/default/deployments", deployment.to_string()).await?;
    let mut ready = BTreeSet::new();
    let all = async {
        while ready.len() < AT_ONCE {
            let event = events.event().await?;
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            if name.starts_with("many-") && is_ready(&event) {
                ready.insert(name.to_owned());
            }
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(ALL_LIMIT, all).await {
        Ok(done) => done?,
        Err(_) => anyhow::bail!("only {} are Ready after {} s", ready.len(), ALL_LIMIT.as_secs()),
    }
    Ok(start.elapsed())
}

/// Bytes of memory that a pod takes on average, shared pages by their share.
struct Weight {
    sandbox: f64,
    container: f64,
}

fn weigh(cluster: &Cluster) -> Result<Weight> {
    let data = cluster.data_dir();
    let sandboxes = process::with_arguments(
        |arguments| matches!(arguments, [_, "sandbox", dir, ..] if Path::new(dir).starts_with(&data)),
    )?;
    let count = sandboxes.len();
    ensure!(count >= AT_ONCE, "there are {count} sandboxes for {AT_ONCE} pods");
    let mut total = Weight { sandbox: 0.0, container: 0.0 };
    for sandbox in sandboxes {
        total.sandbox += process::proportional(sandbox)?;
        for pid in process::family(sandbox)?.into_iter().filter(|pid| *pid != sandbox) {
            total.container += process::proportional(pid)?;
        }
    }
    let count = count as f64;
    Ok(Weight { sandbox: total.sandbox / count, container: total.container / count })
}
