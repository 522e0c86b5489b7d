//! `kill -9` at random moments under load: what was acknowledged is there again, what was not may
//! be, and every pod is adopted.

mod cluster;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::Cluster;
use nix::sys::signal::Signal;
use rand::{Rng, SeedableRng};

#[test]
fn every_acknowledged_write_survives_sigkill() {
    let seed: u64 = std::env::var("PROA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("PROA_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start();
    cluster.pack_examples();
    cluster.kubectl(&["create", "deployment", "web", "--image=hello-wasm:1", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let uids = |cluster: &Cluster| -> BTreeSet<String> {
        cluster.list("pod", "app=web").iter().map(|p| p["metadata"]["uid"].to_string()).collect()
    };
    let before = uids(&cluster);
    let acknowledged = Mutex::new(BTreeSet::new());
    for round in 0..4 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let (cluster, acknowledged, stop) = (&cluster, &acknowledged, &stop);
                scope.spawn(move || {
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let name = format!("w-{round}-{writer}-{number}");
                        if cluster.kubectl_output(&["create", "configmap", &name]).status.success() {
                            acknowledged.lock().expect("no panic").insert(name);
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(random.random_range(200..1500)));
            nix::sys::signal::kill(cluster.pid(), Signal::SIGKILL).expect("it runs");
            stop.store(true, Ordering::Relaxed);
        });
        cluster.stop_after_kill();
        cluster.up();
        let there = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
        let there: BTreeSet<&str> = there.lines().filter_map(|l| l.strip_prefix("configmap/")).collect();
        for name in acknowledged.lock().expect("no panic").iter() {
            assert!(there.contains(name.as_str()), "{name} was acknowledged and is gone (PROA_SEED={seed})");
        }
    }
    assert!(!acknowledged.lock().expect("no panic").is_empty(), "nothing was written");
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(uids(&cluster), before, "the same pods");
    for pod in cluster.list("pod", "app=web") {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
}
