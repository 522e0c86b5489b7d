//! NodeResourcesFit, NodeResourcesBalancedAllocation and ImageLocality.

use super::*;
use crate::scheduler::args::{ResourceWeight, Strategy};

fn sized(name: &str, cpu: &str, memory: &str, extended: &str) -> Object {
    node(
        name,
        json!({}),
        json!({"status": {"allocatable": {
        "cpu": cpu, "memory": memory, "pods": "10", "ephemeral-storage": "10Gi", "example.com/gpu": extended}}}),
    )
}

fn asks(cpu: &str, memory: &str, gpu: &str) -> Object {
    let requests = json!({"cpu": cpu, "memory": memory, "example.com/gpu": gpu});
    pod("p", json!({}), json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
}

fn scores(strategy: Strategy, resources: &[(&str, i64)], cluster: Vec<Object>, pod: &Object) -> String {
    let mut world = World::new(cluster);
    world.profile.args.fit.strategy = strategy;
    let weight = |(name, weight): &(&str, i64)| ResourceWeight { name: (*name).to_owned(), weight: *weight };
    world.profile.args.fit.resources = resources.iter().map(weight).collect();
    world.scores(Plugin::NodeResourcesFit, pod)
}

#[test]
fn least_and_most_allocated() {
    let cluster = || {
        vec![sized("big", "8", "8Gi", "4"), sized("full", "2", "2Gi", "4"), sized("small", "4", "4Gi", "0")]
    };
    let plain = [("cpu", 1), ("memory", 1)];
    let pod = asks("2", "1Gi", "0");
    // big: (75 + 87) / 2, full: (0 + 50) / 2, small: (50 + 75) / 2.
    assert_eq!(scores(Strategy::LeastAllocated, &plain, cluster(), &pod), "big: 81, full: 25, small: 62");
    assert_eq!(scores(Strategy::MostAllocated, &plain, cluster(), &pod), "big: 18, full: 75, small: 37");
    assert_eq!(
        scores(Strategy::LeastAllocated, &[("cpu", 3), ("memory", 1)], cluster(), &pod),
        "big: 78, full: 12, small: 56"
    );
    // A resource of a name of its own counts for pods that ask for it, on nodes that have it.
    let gpu = [("cpu", 1), ("example.com/gpu", 1)];
    assert_eq!(scores(Strategy::MostAllocated, &gpu, cluster(), &pod), "big: 25, full: 100, small: 50");
    let pod = asks("2", "1Gi", "2");
    assert_eq!(scores(Strategy::MostAllocated, &gpu, cluster(), &pod), "big: 37, full: 75, small: 50");
}

#[test]
fn requested_to_capacity_ratio() {
    let cluster = || {
        vec![sized("big", "8", "8Gi", "0"), sized("full", "2", "2Gi", "0"), sized("small", "4", "4Gi", "0")]
    };
    let plain = [("cpu", 1)];
    let rising = Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]);
    let falling = Strategy::RequestedToCapacityRatio(vec![(0, 10), (50, 5), (100, 0)]);
    let pod = asks("2", "1Gi", "0");
    assert_eq!(scores(rising, &plain, cluster(), &pod), "big: 20, full: 100, small: 50");
    assert_eq!(scores(falling, &plain, cluster(), &pod), "big: 80, full: 0, small: 50");
}

#[test]
fn pods_that_state_nothing_are_not_all_put_on_one_node() {
    let cluster =
        vec![sized("a", "1", "1000Mi", "0"), sized("b", "1", "1000Mi", "0"), on("a", "x", "x", json!({}))];
    // Each counts as 100m and 200Mi: a has two of them with the pod, b one.
    check_scores(Plugin::NodeResourcesFit, cluster, pod("p", json!({}), json!({})), "a: 70, b: 85");
}

#[test]
fn balanced_use() {
    let cluster = || vec![sized("even", "4", "4Gi", "0"), sized("odd", "8", "2Gi", "0")];
    // even: 0.5 and 0.25; odd: 0.25 and 0.5 of what is there.
    check_scores(
        Plugin::NodeResourcesBalancedAllocation,
        cluster(),
        asks("2", "1Gi", "0"),
        "even: 87, odd: 87",
    );
    check_scores(
        Plugin::NodeResourcesBalancedAllocation,
        cluster(),
        asks("2", "2Gi", "0"),
        "even: 100, odd: 62",
    );
    check_scores(Plugin::NodeResourcesBalancedAllocation, cluster(), pod("p", json!({}), json!({})), "skip");
}

#[test]
fn images_that_are_there() {
    let with = |name: &str, images: Value| node(name, json!({}), json!({"status": {"images": images}}));
    let gib = 1024 * 1024 * 1024;
    let cluster = || {
        vec![
            with("a", json!([{"names": ["docker.io/library/big:1"], "sizeBytes": gib}])),
            with("b", json!([{"names": ["docker.io/library/small:latest"], "sizeBytes": 10 * 1024 * 1024}])),
        ]
    };
    let runs = |image: &str| pod("p", json!({}), json!({"containers": [{"name": "c", "image": image}]}));
    // Half of 1 GiB, because half of the nodes have it: (512 - 23) / (1000 - 23).
    check_scores(Plugin::ImageLocality, cluster(), runs("big:1"), "a: 50, b: 0");
    check_scores(Plugin::ImageLocality, cluster(), runs("small"), "a: 0, b: 0");
    check_scores(Plugin::ImageLocality, cluster(), runs("none"), "skip");
    let mut world = World::new(cluster());
    world.apply(with("a", json!([])));
    assert_eq!(world.scores(Plugin::ImageLocality, &runs("big:1")), "skip", "counted out again");
}
