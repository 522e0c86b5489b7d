//! Questions about nodes of which one says nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use proa_kinds::{Part, built_in};
use serde_json::json;

use super::*;
use crate::pki::Pki;
use crate::registry::{Caller, RegistryConfig, WriteOptions};

async fn add_node(registry: &Registry, name: &str, port: u16) {
    let table = registry.kinds();
    let kind = table.by_plural("", "v1", "nodes").unwrap();
    let (caller, options) = (Caller::system("test"), WriteOptions::default());
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    registry.create(&caller, kind, "", node.clone(), &options).await.unwrap();
    node["status"] = json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    });
    registry.update(&caller, kind, "", name, Part::STATUS, node, &options).await.unwrap();
}

#[tokio::test]
async fn a_node_that_accepts_and_says_nothing_keeps_no_answer_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(&dir.path().join("pki"), &[], "https://issuer", Timestamp::now()).unwrap();
    let store = dir.path().join("store.redb");
    let registry = Registry::open(&store, built_in::table(), RegistryConfig::default()).unwrap();
    let kubelets = Arc::new(Kubelets::new(&pki, registry.clone()).unwrap());
    // The kernel accepts for it.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    add_node(&registry, "silent", silent.local_addr().unwrap().port()).await;
    add_node(&registry, "here", 1).await;
    let seconds = Arc::new(AtomicU64::new(0));
    let resource = get(async move || {
        let cpu = seconds.fetch_add(1, Ordering::SeqCst);
        format!("node_cpu_usage_seconds_total {cpu}\nnode_memory_working_set_bytes 7\n")
    });
    kubelets.add_local("here", Router::new().route("/metrics/resource", resource));
    let metrics = Metrics::new(kubelets, registry);

    let ask = async |most: Duration| {
        let begun = Instant::now();
        let snapshot = metrics.now().await;
        assert!(begun.elapsed() < most, "{:?}", begun.elapsed());
        let memory = snapshot["here"].node.as_ref().map(|usage| usage.memory_bytes);
        assert_eq!((memory, snapshot.len()), (Some(7), 1));
    };
    // It is waited for once, and use is told over a second.
    ask(AWAITED + SHORTEST_WINDOW + Duration::from_millis(900)).await;
    // From then on it is not, neither while it is being asked nor when that has come to nothing.
    for pause in [FRESH, PATIENCE] {
        tokio::time::sleep(pause).await;
        ask(Duration::from_millis(500)).await;
    }
}
