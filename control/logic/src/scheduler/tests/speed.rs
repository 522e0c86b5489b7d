//! How many pods are placed per second, without a server around. Run by hand:
//! `cargo test -p proa-logic --lib scheduler::tests::speed -- --ignored --nocapture`.

#![allow(clippy::print_stdout, reason = "what is printed is the result")]

use std::time::Instant;

use super::*;

const NODES: usize = 5000;

fn rate(name: &str, pods: usize, spec: &Value) {
    let mut world = World::new(Vec::new());
    for index in 0..NODES {
        let name = format!("n{index}");
        world.apply(decode("Node", json!({
            "metadata": {"name": name, "uid": name, "labels": {
                "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", index % 5)}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}},
        })));
    }
    let pods: Vec<Object> = (0..pods)
        .map(|index| {
            let mut spec = spec.clone();
            spec["containers"] =
                json!([{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]);
            let name = format!("p{index}");
            decode(
                "Pod",
                json!({"spec": spec, "metadata": {
                "name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}}}),
            )
        })
        .collect();
    let count = pods.len();
    let start = Instant::now();
    for pod in pods {
        world.apply(pod);
    }
    let mut bound = 0;
    loop {
        let outcomes = world.outcomes(NOW);
        if outcomes.is_empty() {
            break;
        }
        bound += outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    }
    let elapsed = start.elapsed();
    assert_eq!(bound, count, "every pod fits");
    println!("{name}: {:.0} pods/s", count as f64 / elapsed.as_secs_f64());
}

#[test]
#[ignore = "takes long without optimization; run by hand"]
fn pods_per_second() {
    let selector = json!({"matchLabels": {"app": "a"}});
    rate("plain", 10_000, &json!({}));
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}]}}});
    rate("anti-affinity", 2000, &apart);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "topologyKey": "topology.kubernetes.io/zone", "labelSelector": selector}]});
    rate("spread", 2000, &spread);
}
