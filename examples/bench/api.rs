//! The API alone. Its pods name a scheduler that does not exist, so that nobody does anything
//! about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Access, Connection, Lines};
use crate::cluster::Cluster;
use crate::disk::Appended;
use crate::report::{Figure, Goal, Report, percentile};

const CREATES: usize = 1000;
const IN_TURN: usize = 20;
const CONNECTIONS: usize = 16;
const WINDOW: Duration = Duration::from_secs(5);
const CONFIG_MAPS: usize = 10_000;
const LISTS: usize = 30;
const WATCHERS: usize = 1000;
/// Watches of one client share a connection, as those of client-go do.
const WATCHERS_PER_CONNECTION: usize = 100;
const EVENTS: usize = 500;
const EVENTS_PER_SECOND: u64 = 50;
/// For the last events to arrive.
const GRACE: Duration = Duration::from_secs(10);
/// What the names of watched objects begin with; a number follows.
const MARK: &str = "event-";

pub async fn measure(cluster: &Cluster, report: &mut Report) {
    let access = &cluster.access;
    if let Some(mut times) = report.check("api_create", create_one_by_one(cluster).await) {
        let [create, sync] = [&mut times.creates, &mut times.syncs].map(|samples| percentile(samples, 50.0));
        let goal = Goal::AtMost(2.0 * sync + 0.4);
        report.add(Figure::new("api_create_p50", create, "ms", goal).beside("fdatasync", sync));
        let p99 = percentile(&mut times.creates, 99.0);
        report.add(Figure::new("api_create_p99", p99, "ms", Goal::None));
    }
    if let Some(rate) = report.check("api_creates_16", create_at_once(access).await) {
        report.add(Figure::new("api_creates_16_connections", rate, "1/s", Goal::AtLeast(5000.0)));
    }
    if let Some(mut samples) = report.check("api_list", list(access).await) {
        let p50 = percentile(&mut samples, 50.0);
        report.add(Figure::new("api_list_10000_config_maps_p50", p50, "ms", Goal::AtMost(20.0)));
    }
    for (shared, p99, lost, rate) in [
        (true, "api_watch_1000_p99", "api_watch_1000_lost", "api_watch_1000_rate"),
        (
            false,
            "api_watch_1000_connections_p99",
            "api_watch_1000_connections_lost",
            "api_watch_1000_connections_rate",
        ),
    ] {
        let namespace = if shared { "shared" } else { "single" };
        if let Some(mut watched) = report.check(p99, watched(access, namespace, shared).await) {
            let missing = (WATCHERS * EVENTS - watched.seen.len()) as f64;
            report.add(Figure::new(p99, percentile(&mut watched.seen, 99.0), "ms", Goal::AtMost(20.0)));
            report.add(Figure::new(lost, missing, "events", Goal::AtMost(0.0)));
            // A figure for fewer events than intended would be no answer.
            let least = 0.99 * EVENTS_PER_SECOND as f64;
            report.add(Figure::new(rate, watched.rate, "events/s", Goal::AtLeast(least)));
        }
    }
}

async fn namespace(connection: &mut Connection, name: &str) -> Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    connection.post("/api/v1/namespaces", body.to_string()).await?;
    Ok(())
}

fn pod(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "main", "image": "bench:1"}]}})
    .to_string()
}

/// Milliseconds of each.
struct Times {
    creates: Vec<f64>,
    syncs: Vec<f64>,
}

/// A few creates and a few syncs of the disk in turn, so that both are measured on the same disk
/// even where others use it.
async fn create_one_by_one(cluster: &Cluster) -> Result<Times> {
    let mut connection = cluster.access.connect().await?;
    namespace(&mut connection, "one").await?;
    let mut file = Appended::create(cluster.scratch())?;
    let mut times = Times { creates: Vec::new(), syncs: Vec::new() };
    for number in 0..CREATES {
        let body = pod(&format!("pod-{number}"));
        let start = Instant::now();
        connection.post("/api/v1/namespaces/one/pods", body).await?;
        times.creates.push(start.elapsed().as_secs_f64() * 1e3);
        if number % IN_TURN == 0 {
            for _ in 0..IN_TURN {
                times.syncs.push(tokio::task::block_in_place(|| file.sync())?);
            }
        }
    }
    Ok(times)
}

/// Creates per second.
async fn create_at_once(access: &Access) -> Result<f64> {
    let mut connection = access.connect().await?;
    namespace(&mut connection, "many").await?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        let mut connection = access.connect().await?;
        clients.spawn(async move {
            let mut count = 0;
            while start.elapsed() < WINDOW {
                let body = pod(&format!("pod-{client}-{count}"));
                connection.post("/api/v1/namespaces/many/pods", body).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut total = 0;
    while let Some(client) = clients.join_next().await {
        total += client??;
    }
    Ok(f64::from(total) / start.elapsed().as_secs_f64())
}

/// Milliseconds of each list of all objects, read to the end.
async fn list(access: &Access) -> Result<Vec<f64>> {
    let mut connection = access.connect().await?;
    namespace(&mut connection, "listed").await?;
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        let mut connection = access.connect().await?;
        clients.spawn(async move {
            for number in (client..CONFIG_MAPS).step_by(CONNECTIONS) {
                let body = config_map(&format!("listed-{number}"));
                connection.post("/api/v1/namespaces/listed/configmaps", body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let mut samples = Vec::new();
    for _ in 0..LISTS {
        let start = Instant::now();
        let body = connection.call(Method::GET, "/api/v1/namespaces/listed/configmaps", None).await?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        let count = body.windows(8).filter(|w| w == b"\"listed-").count();
        ensure!(count >= CONFIG_MAPS, "the list has {count} of {CONFIG_MAPS}");
    }
    Ok(samples)
}

fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"key": "a value of some length, so that it looks like one that somebody would set"}})
    .to_string()
}

/// What all watchers together have seen.
struct Watched {
    /// Milliseconds from the start of each create to each receipt of its event.
    seen: Vec<f64>,
    /// Creates per second, which are fewer than wanted where all processors are busy.
    rate: f64,
}

async fn watched(access: &Access, name: &str, shared: bool) -> Result<Watched> {
    let mut connection = access.connect().await?;
    namespace(&mut connection, name).await?;
    let path = format!("/api/v1/namespaces/{name}/configmaps");
    let list = connection.get(&path).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("a list has a resourceVersion")?;
    let target = format!("{path}?watch=true&resourceVersion={revision}");
    let zero = Instant::now();
    // When each object was sent, in microseconds from `zero`.
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..EVENTS).map(|_| AtomicU64::new(0)).collect());
    let (all_sent, last_sent) = watch::channel(false);
    let mut watchers = JoinSet::new();
    for lines in open(access, &target, shared).await? {
        watchers.spawn(receive(lines, Arc::clone(&sent), zero, last_sent.clone()));
    }
    let start = Instant::now();
    let mut clock = tokio::time::interval(Duration::from_micros(1_000_000 / EVENTS_PER_SECOND));
    for (number, sent) in sent.iter().enumerate() {
        clock.tick().await;
        let body = config_map(&format!("{MARK}{number}"));
        sent.store(micros(zero), Ordering::SeqCst);
        connection.post(&path, body).await?;
    }
    let rate = EVENTS as f64 / start.elapsed().as_secs_f64();
    all_sent.send_replace(true);
    let mut seen = Vec::with_capacity(WATCHERS * EVENTS);
    while let Some(watcher) = watchers.join_next().await {
        seen.extend(watcher??);
    }
    Ok(Watched { seen, rate })
}

async fn open(access: &Access, target: &str, shared: bool) -> Result<Vec<Lines>> {
    let mut opened = Vec::new();
    if shared {
        for _ in 0..WATCHERS / WATCHERS_PER_CONNECTION {
            let mut connection = access.connect_shared().await?;
            for _ in 0..WATCHERS_PER_CONNECTION {
                opened.push(connection.watch(target).await?);
            }
        }
    } else {
        for _ in 0..WATCHERS {
            opened.push(access.connect().await?.watch(target).await?);
        }
    }
    Ok(opened)
}

/// One watcher: what it has received until the last event, or until that is overdue.
async fn receive(
    mut lines: Lines,
    sent: Arc<Vec<AtomicU64>>,
    zero: Instant,
    mut last_sent: watch::Receiver<bool>,
) -> Result<Vec<f64>> {
    let overdue = async {
        let _ = last_sent.wait_for(|sent| *sent).await;
        tokio::time::sleep(GRACE).await;
    };
    let mut seen = Vec::with_capacity(EVENTS);
    let all = async {
        while seen.len() < EVENTS {
            // Other objects of the namespace have other names.
            let Some(number) = number_in(lines.next().await?) else { continue };
            let sent = sent.get(number).context("an event of an object that was never sent")?;
            seen.push((micros(zero) - sent.load(Ordering::SeqCst)) as f64 / 1e3);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = all => ended?,
        () = overdue => {}
    }
    Ok(seen)
}

fn micros(zero: Instant) -> u64 {
    u64::try_from(zero.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The number of the watched object that an event is about.
fn number_in(line: &[u8]) -> Option<usize> {
    let start = line.windows(MARK.len() + 1).position(|w| w[0] == b'"' && w[1..] == *MARK.as_bytes())?;
    let digits = line[start + MARK.len() + 1..].iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_usize, |number, digit| number * 10 + usize::from(digit - b'0'));
    Some(number)
}
