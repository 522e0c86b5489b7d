//! Who waits for what, and for how long.

use super::*;

/// A full node, and a pod that waits for it.
fn parked(spec: Value) -> World {
    let mut world = World::new(vec![node("n", "1", json!({"unschedulable": true})), pod("p", "1", spec)]);
    assert!(world.outcomes(NOW)[0].1.is_err());
    world
}

fn seconds(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

#[test]
fn only_what_may_help_wakes_a_pod() {
    let mut world = parked(json!({}));
    // Other labels or more room do not open a node that is cordoned.
    world.apply(node("n", "8", json!({"unschedulable": true, "zone": "z"})));
    world.apply(pod("q", "1", json!({"nodeName": "n"})));
    world.delete("q");
    assert!(world.outcomes(seconds(2)).is_empty());
    world.apply(node("n", "8", json!({})));
    assert_eq!(world.outcomes(seconds(2)), [("p".to_owned(), Ok("n".to_owned()))]);
}

#[test]
fn a_node_too_small_wakes_nobody() {
    let mut world = World::new(vec![node("n", "1", json!({})), pod("p", "4", json!({}))]);
    assert!(world.outcomes(NOW)[0].1.is_err());
    world.apply(node("m", "2", json!({})));
    assert!(world.outcomes(seconds(20)).is_empty());
    world.apply(node("n", "4", json!({})));
    assert_eq!(world.outcomes(seconds(20)), [("p".to_owned(), Ok("n".to_owned()))]);
}

#[test]
fn five_minutes_wake_everybody() {
    let mut world = parked(json!({}));
    assert_eq!(world.scheduler.again_at(), Some(seconds(300)));
    assert!(world.outcomes(seconds(299)).is_empty());
    assert_eq!(world.outcomes(seconds(300)).len(), 1);
}

#[test]
fn each_attempt_doubles_the_wait() {
    let mut world = parked(json!({}));
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..6 {
        world.apply(node("n", "500m", json!({"zone": "a"})));
        world.apply(node("n", "500m", json!({"unschedulable": true})));
        world.apply(node("n", "1", json!({"unschedulable": true, "taints": []})));
        world.apply(node("n", "1", json!({})));
        world.apply(node("n", "1", json!({"unschedulable": true})));
        let at = world.scheduler.again_at().unwrap();
        waits.push(at.duration_since(now).as_secs());
        now = at;
        assert!(world.outcomes(now)[0].1.is_err());
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn a_pod_that_asks_for_less_is_tried_again() {
    let mut world =
        World::new(vec![node("n", "1", json!({})), pod("p", "1", json!({"nodeSelector": {"zone": "a"}}))]);
    assert!(world.outcomes(NOW)[0].1.is_err());
    world.apply(pod("p", "1", json!({})));
    assert_eq!(world.outcomes(seconds(1)), [("p".to_owned(), Ok("n".to_owned()))]);
}

#[test]
fn a_gate_that_opens_lets_the_pod_in_at_once() {
    let mut world = World::new(vec![
        node("n", "1", json!({})),
        pod("p", "1", json!({"schedulingGates": [{"name": "g"}]})),
    ]);
    assert!(world.outcomes(NOW).is_empty());
    world.apply(pod("p", "1", json!({})));
    assert_eq!(world.outcomes(NOW), [("p".to_owned(), Ok("n".to_owned()))]);
}

#[test]
fn each_profile_has_its_own_rules_and_strangers_are_left_alone() {
    let yaml = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packs
  plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}]}}
  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}]
- schedulerName: blind
  plugins: {filter: {disabled: [{name: NodeUnschedulable}]}}
";
    let settings = configuration::settings(&serde_yaml::from_str(yaml).unwrap()).unwrap();
    let mut world = World { seen: Observed::new(""), scheduler: Scheduler::new(settings) };
    for object in [
        node("a", "4", json!({})),
        node("b", "4", json!({})),
        node("c", "64", json!({"unschedulable": true})),
        pod("there", "2", json!({"nodeName": "b"})),
        pod("p", "1", json!({"priority": 9})),
        pod("q", "1", json!({"priority": 8, "schedulerName": "packs"})),
        pod("r", "60", json!({"priority": 7, "schedulerName": "blind"})),
        pod("s", "1", json!({"schedulerName": "nobody"})),
    ] {
        world.apply(object);
    }
    let expected = [("p", "a"), ("q", "b"), ("r", "c")].map(|(p, n)| (p.to_owned(), Ok(n.to_owned())));
    assert_eq!(world.outcomes(NOW), expected);
}

#[test]
fn daemons_look_at_their_own_node_only() {
    let own = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}});
    let mut world =
        World::new(vec![node("a", "1", json!({})), node("b", "8", json!({})), node("c", "8", json!({}))]);
    world.apply(pod("there", "1", json!({"nodeName": "a"})));
    world.apply(pod("p", "1", own));
    assert_eq!(
        world.outcomes(NOW)[0].1,
        Err("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is \
             not helpful for scheduling."
            .to_owned())
    );
}

#[test]
fn a_restart_forgets_nothing() {
    let mut world = World::new(vec![node("n", "2", json!({})), pod("a", "1", json!({"nodeName": "n"}))]);
    world.apply(pod("p", "1", json!({})));
    world.apply(pod("q", "1", json!({})));
    world.scheduler = world.scheduler.restart(&world.seen, NOW);
    let outcomes = world.outcomes(NOW);
    assert_eq!(outcomes[0], ("p".to_owned(), Ok("n".to_owned())));
    assert!(outcomes[1].1.is_err());
}
