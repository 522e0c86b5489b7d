//! Tables of reasons and choices, and properties of whole queues.

mod preemption;
mod waiting;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::world::facts::{KindName, Object};
use crate::world::plan::Verb;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn decode(kind: &str, object: Value) -> Object {
    Object::decode(&KindName::new("v1", kind), &serde_json::to_vec(&object).unwrap()).unwrap()
}

/// A node with room for three pods; `rest` is its spec, where `zone` stands for a label.
fn node(name: &str, cpu: &str, rest: Value) -> Object {
    let mut node = json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": rest,
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "3"}},
    });
    if let Some(zone) = node["spec"]["zone"].as_str().map(str::to_owned) {
        node["metadata"]["labels"]["zone"] = zone.into();
    }
    decode("Node", node)
}

fn pod(name: &str, cpu: &str, rest: Value) -> Object {
    let mut spec = json!({
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
    });
    for (field, value) in rest.as_object().cloned().unwrap_or_default() {
        spec[field] = value;
    }
    decode("Pod", json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": spec}))
}

struct World {
    seen: Observed,
    scheduler: Scheduler,
}

impl World {
    fn new(objects: Vec<Object>) -> Self {
        let mut world = World { seen: Observed::new(""), scheduler: Scheduler::default() };
        objects.into_iter().for_each(|o| world.apply(o));
        world
    }

    fn apply(&mut self, object: Object) {
        let change = self.seen.apply(object, NOW);
        self.scheduler.apply(&self.seen, &change, NOW);
    }

    fn delete(&mut self, name: &str) {
        let gone = self.seen.pods.get(&Key::new("d", name)).unwrap().meta.clone();
        let change = self.seen.delete(&gone, NOW);
        self.scheduler.apply(&self.seen, &change, NOW);
    }

    /// The plans of one round, executed well.
    fn plans(&mut self, now: Timestamp) -> Vec<(Key, Plan)> {
        let plans = self.scheduler.schedule(&self.seen, now, 100);
        for (key, _) in &plans {
            self.scheduler.finished(key, true, &self.seen, now);
        }
        plans
    }

    /// The node of each pod that is bound, and the message of each that is not.
    fn outcomes(&mut self, now: Timestamp) -> Vec<(String, Result<String, String>)> {
        let plans = self.scheduler.schedule(&self.seen, now, 100);
        let outcome = |(key, plan): (Key, Plan)| {
            self.scheduler.finished(&key, true, &self.seen, now);
            let bound = plan.actions.iter().find_map(|a| match &a.verb {
                Verb::Bind { node, .. } => Some(node.clone()),
                _ => None,
            });
            let message = plan.problems.first().map(|p| p.message.clone()).unwrap_or_default();
            (key.name.to_string(), bound.ok_or(message))
        };
        plans.into_iter().map(outcome).collect()
    }
}

fn check(nodes: Vec<Object>, pod: Object, expected: Result<&str, &str>) {
    let mut world = World::new(nodes);
    world.apply(pod);
    let outcomes = world.outcomes(NOW);
    let expected = expected.map(str::to_owned).map_err(str::to_owned);
    assert_eq!(outcomes[0].1, expected);
}

#[test]
fn reasons_are_those_of_the_stock_scheduler() {
    let no_help = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    check(vec![], pod("p", "1", json!({})), Err("no nodes available to schedule pods"));
    check(
        vec![node("n", "1", json!({}))],
        pod("p", "2", json!({})),
        Err(&format!("0/1 nodes are available: 1 Insufficient cpu. {no_help}")),
    );
    check(
        vec![node("n", "1", json!({"unschedulable": true}))],
        pod("p", "1", json!({})),
        Err(&format!("0/1 nodes are available: 1 node(s) were unschedulable. {no_help}")),
    );
    let tainted =
        || vec![node("n", "1", json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}))];
    check(
        tainted(),
        pod("p", "1", json!({})),
        Err(&format!("0/1 nodes are available: 1 node(s) had untolerated taint {{k: v}}. {no_help}")),
    );
    check(tainted(), pod("p", "1", json!({"tolerations": [{"key": "k", "operator": "Exists"}]})), Ok("n"));
    check(
        vec![node("n", "1", json!({}))],
        pod("p", "1", json!({"nodeSelector": {"zone": "a"}})),
        Err(&format!(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {no_help}"
        )),
    );
    check(
        vec![node("a", "1", json!({})), node("b", "1", json!({"unschedulable": true}))],
        pod("p", "2", json!({})),
        Err(
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes \
             are available: 2 Preemption is not helpful for scheduling.",
        ),
    );
}

#[test]
fn the_better_node_wins() {
    let prefers_b = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}}]}}});
    let zones = || vec![node("a", "4", json!({"zone": "a"})), node("b", "4", json!({"zone": "b"}))];
    check(zones(), pod("p", "1", prefers_b), Ok("b"));
    check(vec![node("a", "1", json!({})), node("b", "4", json!({}))], pod("p", "1", json!({})), Ok("b"));
    let requires_a = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]}}}});
    check(vec![node("a", "1", json!({})), node("b", "4", json!({}))], pod("p", "1", requires_a), Ok("a"));
    let averse = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
    check(vec![node("a", "4", averse), node("b", "4", json!({}))], pod("p", "1", json!({})), Ok("b"));
}

#[test]
fn ports_of_the_node_are_given_once() {
    let takes = |name: &str| {
        let container = json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]});
        pod(name, "0", json!({"containers": [container]}))
    };
    let mut world = World::new(vec![node("n", "4", json!({})), takes("p"), takes("q")]);
    let outcomes = world.outcomes(NOW);
    assert_eq!(outcomes[0].1, Ok("n".to_owned()));
    let message = outcomes[1].1.clone().unwrap_err();
    assert!(message.contains("1 node(s) didn't have free ports for the requested pod ports"), "{message}");
}

#[test]
fn what_is_assumed_is_not_given_away_twice_and_room_wakes_the_parked() {
    let mut world =
        World::new(vec![node("n", "1", json!({})), pod("p", "1", json!({})), pod("q", "1", json!({}))]);
    let outcomes = world.outcomes(NOW);
    assert_eq!(outcomes[0], ("p".to_owned(), Ok("n".to_owned())));
    assert!(outcomes[1].1.is_err());
    assert!(world.outcomes(NOW).is_empty(), "parked until something changes");
    world.apply(pod("p", "1", json!({"nodeName": "n"})));
    assert!(world.outcomes(NOW).is_empty());
    world.delete("p");
    // Not before its back-off.
    assert!(world.outcomes(NOW).is_empty());
    let later = NOW + SignedDuration::from_secs(1);
    assert_eq!(world.scheduler.again_at(), Some(later));
    assert_eq!(world.outcomes(later), [("q".to_owned(), Ok("n".to_owned()))]);
}

#[test]
fn a_refused_bind_gives_the_room_back() {
    let mut world = World::new(vec![node("n", "1", json!({})), pod("p", "1", json!({}))]);
    let plans = world.scheduler.schedule(&world.seen, NOW, 10);
    world.scheduler.finished(&plans[0].0, false, &world.seen, NOW);
    world.apply(pod("q", "1", json!({})));
    assert_eq!(world.outcomes(NOW), [("q".to_owned(), Ok("n".to_owned()))]);
}

#[test]
fn the_more_important_goes_first_and_gated_pods_wait() {
    let mut world = World::new(vec![
        node("n", "1", json!({})),
        pod("a", "1", json!({})),
        pod("b", "1", json!({"priority": 5})),
        pod("c", "1", json!({"priority": 9, "schedulingGates": [{"name": "g"}]})),
        pod("d", "1", json!({"priority": 9, "schedulerName": "another"})),
    ]);
    let outcomes = world.outcomes(NOW);
    assert_eq!(outcomes[0], ("b".to_owned(), Ok("n".to_owned())));
    assert_eq!(outcomes.len(), 2);
}

proptest! {
    /// Whatever comes in whatever order, and however late the binds are seen.
    #[test]
    fn allocatable_is_never_exceeded(
        capacities in prop::collection::vec(1i64..8, 1..4),
        pods in prop::collection::vec((1i64..4, any::<bool>()), 0..20),
    ) {
        let mut world = World::new(Vec::new());
        for (index, cpu) in capacities.iter().enumerate() {
            world.apply(node(&format!("n{index}"), &cpu.to_string(), json!({})));
        }
        let mut used: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for (index, (cpu, seen_at_once)) in pods.iter().enumerate() {
            let name = format!("p{index}");
            world.apply(pod(&name, &cpu.to_string(), json!({})));
            for (bound, outcome) in world.outcomes(NOW) {
                let Ok(node) = outcome else { continue };
                let load = used.entry(node.clone()).or_default();
                *load = (load.0 + cpu, load.1 + 1);
                if *seen_at_once {
                    world.apply(pod(&bound, &cpu.to_string(), json!({"nodeName": node})));
                }
            }
        }
        for (node, (cpu, count)) in used {
            let index: usize = node[1..].parse().unwrap();
            prop_assert!(cpu <= capacities[index] && count <= 3, "{node}: {cpu} of {}", capacities[index]);
        }
    }
}
