//! A cluster that has nothing to do, and how soon it is ready to do something.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::process;
use crate::report::{Figure, Goal, Report};

/// The node registers and everything reads its first lists in this time.
const SETTLE: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(60);

/// Sizes of the programs as they are shipped, in MB.
pub fn sizes(proa: &Path, report: &mut Report) -> Result<()> {
    let size = |path: &Path| Ok::<_, std::io::Error>(std::fs::metadata(path)?.len() as f64 / 1e6);
    report.add(Figure::new("size_proa", size(proa)?, "MB", Goal::AtMost(45.0)));
    report.add(Figure::new("size_proa_wasm", size(&proa.with_file_name("proa-wasm"))?, "MB", Goal::None));
    Ok(())
}

/// Looks at a cluster that has just been started.
pub async fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let ready = cluster.ready_after.as_secs_f64() * 1e3;
    report.add(Figure::new("up_to_readyz", ready, "ms", Goal::AtMost(1000.0)));
    node_is_ready(cluster).await?;
    tokio::time::sleep(SETTLE).await;
    let (start, before) = (Instant::now(), process::used(cluster.pid())?);
    tokio::time::sleep(WINDOW).await;
    let (elapsed, after) = (start.elapsed().as_secs_f64(), process::used(cluster.pid())?);
    let rss = process::resident(cluster.pid())? / 1e6;
    let cpu = (after.cpu - before.cpu) / elapsed * 100.0;
    let written = (after.written - before.written) / elapsed / 1e3;
    report.add(Figure::new("idle_rss", rss, "MB", Goal::AtMost(60.0)));
    report.add(Figure::new("idle_cpu", cpu, "% core", Goal::AtMost(1.0)));
    report.add(Figure::new("idle_written", written, "KB/s", Goal::AtMost(10.0)));
    Ok(())
}

/// Waits until the cluster's node is ready.
pub async fn node_is_ready(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut connection = cluster.access.connect().await?;
    loop {
        let nodes = connection.get("/api/v1/nodes").await?;
        let items = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_ready = |node: &serde_json::Value| {
            let conditions = node["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        if items.iter().any(is_ready) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the node does not become ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
