//! Who is sent away for whom.

use super::*;
use crate::world::plan::Change as Patch;

/// A pod that asks for `cpu`, is on `node` and has been since `started`.
fn placed(name: &str, cpu: &str, priority: i32, node: &str, started: &str) -> Object {
    let spec = json!({
        "nodeName": node, "priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
    });
    let meta = json!({"name": name, "namespace": "d", "uid": name, "labels": {"app": name}});
    decode("Pod", json!({"metadata": meta, "spec": spec, "status": {"startTime": started}}))
}

fn budget(app: &str, allowed: i32) -> Object {
    let object = json!({
        "metadata": {"name": app, "namespace": "d", "uid": format!("b-{app}")},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    });
    Object::decode(&KindName::new("policy/v1", "PodDisruptionBudget"), &serde_json::to_vec(&object).unwrap())
        .unwrap()
}

const EARLY: &str = "2030-01-01T00:00:00Z";
const LATE: &str = "2030-01-02T00:00:00Z";

/// Whom one plan deletes, and the node that it nominates.
fn victims(plan: &Plan) -> (Vec<String>, Option<String>) {
    let deleted = plan.actions.iter().filter_map(|a| match &a.verb {
        Verb::Delete { target, .. } => Some(target.name.to_string()),
        _ => None,
    });
    let nominated = plan.actions.iter().find_map(|a| match &a.verb {
        Verb::Patch { change: Patch::Merge(patch), .. } => patch["status"]["nominatedNodeName"].as_str(),
        _ => None,
    });
    (deleted.collect(), nominated.map(str::to_owned))
}

/// `pod` has priority 10 and asks for one CPU.
fn check(objects: Vec<Object>, expected: &[&str], node: Option<&str>) {
    let mut world = World::new(objects);
    world.apply(pod("p", "1", json!({"priority": 10})));
    let plans = world.plans(NOW);
    let (gone, nominated) = victims(&plans[0].1);
    assert_eq!((gone, nominated.as_deref()), (expected.iter().map(|n| (*n).to_owned()).collect(), node));
}

#[test]
fn as_few_and_as_unimportant_as_possible() {
    let n = || node("n", "2", json!({}));
    // The most important of those that matter less stay.
    check(vec![n(), placed("a", "1", 3, "n", EARLY), placed("b", "1", 5, "n", EARLY)], &["a"], Some("n"));
    // Of equals, the one that came last goes.
    check(vec![n(), placed("a", "1", 3, "n", LATE), placed("b", "1", 3, "n", EARLY)], &["a"], Some("n"));
    // Nobody of the same priority or more goes.
    check(vec![n(), placed("a", "1", 10, "n", EARLY), placed("b", "1", 11, "n", EARLY)], &[], None);
    // Two small ones for one large.
    check(
        vec![
            n(),
            placed("a", "500m", 1, "n", EARLY),
            placed("b", "500m", 1, "n", EARLY),
            placed("c", "1", 50, "n", EARLY),
        ],
        &["a", "b"],
        Some("n"),
    );
    // A node that would be too small even if it were empty is not emptied.
    check(vec![node("n", "500m", json!({})), placed("a", "500m", 1, "n", EARLY)], &[], None);
}

#[test]
fn the_node_where_it_hurts_least() {
    let nodes = |mut more: Vec<Object>| {
        more.extend([node("m", "1", json!({})), node("n", "1", json!({}))]);
        more
    };
    let m = |priority| placed("a", "1", priority, "m", EARLY);
    let n = |priority| placed("b", "1", priority, "n", EARLY);
    // A budget counts for more than a priority.
    check(nodes(vec![m(1), n(5), budget("a", 0)]), &["b"], Some("n"));
    check(nodes(vec![m(1), n(5), budget("a", 1)]), &["a"], Some("m"));
    // Then the highest priority, then their sum and number, then who came last.
    check(nodes(vec![m(5), n(1)]), &["b"], Some("n"));
    let halves = [placed("b", "500m", 5, "n", EARLY), placed("c", "500m", 1, "n", EARLY)];
    check(nodes([vec![m(5)], halves.to_vec()].concat()), &["a"], Some("m"));
    check(nodes(vec![m(5), placed("b", "1", 5, "n", LATE)]), &["b"], Some("n"));
    check(nodes(vec![m(5), n(5)]), &["a"], Some("m"));
}

#[test]
fn budgets_are_kept_where_they_can_be() {
    let two = |a, b| {
        vec![node("n", "2", json!({})), placed("a", "1", a, "n", EARLY), placed("b", "1", b, "n", EARLY)]
    };
    let mut protected = two(1, 5);
    protected.push(budget("a", 0));
    check(protected, &["b"], Some("n"));
    let mut both = two(1, 5);
    both.extend([budget("a", 0), budget("b", 0)]);
    check(both, &["a"], Some("n"));
}

#[test]
fn what_is_written_of_it() {
    let mut world = World::new(vec![node("n", "1", json!({})), placed("a", "1", 1, "n", EARLY)]);
    world.apply(pod("p", "1", json!({"priority": 10, "schedulerName": "default-scheduler"})));
    let (_, plan) = world.plans(NOW).remove(0);
    assert_eq!(plan.problems[0].message, "0/1 nodes are available: 1 Insufficient cpu.");
    let told: Vec<_> = plan.actions.iter().filter_map(|a| a.report.as_ref()?.done.clone()).collect();
    assert_eq!(told, [("Preempted", "Preempted by pod p on node n".to_owned())]);
    let conditions: Vec<String> = plan
        .actions
        .iter()
        .filter_map(|a| match &a.verb {
            Verb::Patch { target, change: Patch::Conditions(list), .. } if &*target.name == "a" => {
                Some(format!("{} {} {}", list[0]["type"], list[0]["reason"], list[0]["message"]))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        conditions,
        [
            "\"DisruptionTarget\" \"PreemptionByScheduler\" \"default-scheduler: preempting to accommodate a higher \
          priority pod\""
        ]
    );
}

#[test]
fn why_nobody_is_sent_away() {
    let text = |pod: Object| {
        let mut world = World::new(vec![
            node("m", "1", json!({"unschedulable": true})),
            node("n", "1", json!({})),
            placed("a", "1", 5, "n", EARLY),
        ]);
        world.apply(pod);
        world.outcomes(NOW)[0].1.clone().unwrap_err()
    };
    let head = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption:";
    assert_eq!(
        text(pod("p", "1", json!({"priority": 9, "preemptionPolicy": "Never"}))),
        format!("{head} not eligible due to preemptionPolicy=Never.")
    );
    assert_eq!(
        text(pod("p", "1", json!({"priority": 5}))),
        format!(
            "{head} 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not \
             helpful for scheduling."
        )
    );
}

#[test]
fn the_room_is_kept_for_whom_it_was_made() {
    let mut world = World::new(vec![node("n", "1", json!({})), placed("a", "1", 1, "n", EARLY)]);
    world.apply(pod("p", "1", json!({"priority": 10})));
    assert_eq!(victims(&world.plans(NOW)[0].1).0, ["a"]);
    world.delete("a");
    // Before the one it was made for is tried again, nobody who matters less gets the room.
    world.apply(pod("q", "1", json!({"priority": 2})));
    assert!(world.outcomes(NOW)[0].1.is_err());
    // Somebody who matters more does.
    world.apply(pod("r", "500m", json!({"priority": 20})));
    assert_eq!(world.outcomes(NOW), [("r".to_owned(), Ok("n".to_owned()))]);
    world.delete("r");
    let later = NOW + SignedDuration::from_secs(1);
    let outcomes = world.outcomes(later);
    assert_eq!(outcomes[0], ("p".to_owned(), Ok("n".to_owned())));
    assert!(outcomes[1..].iter().all(|(name, outcome)| name == "q" && outcome.is_err()));
}

#[test]
fn nobody_else_is_sent_away_while_the_first_are_leaving() {
    let mut world = World::new(vec![node("n", "1", json!({})), placed("a", "1", 1, "n", EARLY)]);
    world.apply(pod("p", "1", json!({"priority": 10})));
    world.plans(NOW);
    let mut leaving = json!({
        "metadata": {"name": "a", "namespace": "d", "uid": "a", "deletionTimestamp": LATE},
        "spec": {"nodeName": "n", "priority": 1,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
    });
    world.apply(decode("Pod", leaving.clone()));
    let later = NOW + SignedDuration::from_mins(6);
    let (_, plan) = world.plans(later).remove(0);
    assert_eq!(victims(&plan).0, Vec::<String>::new());
    assert!(
        plan.problems[0]
            .message
            .ends_with("preemption: not eligible due to a terminating pod on the nominated node.")
    );
    // A nomination that came to nothing is taken back.
    leaving["spec"]["priority"] = 10.into();
    leaving["metadata"]["deletionTimestamp"] = Value::Null;
    world.apply(decode("Pod", leaving));
    let mut waits = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
        "spec": {"priority": 10, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
    waits["status"]["nominatedNodeName"] = "n".into();
    world.apply(decode("Pod", waits));
    let (_, plan) = world.plans(later + SignedDuration::from_mins(6)).remove(0);
    let cleared = plan.actions.iter().any(|a| {
        matches!(&a.verb, Verb::Patch { change: Patch::Merge(patch), .. } if patch["status"]["nominatedNodeName"].is_null())
    });
    assert!(cleared, "{plan:?}");
}

proptest! {
    /// Whoever goes matters less, and what goes makes room.
    #[test]
    fn only_those_that_matter_less_go(
        cpus in prop::collection::vec(1i64..5, 1..4),
        pods in prop::collection::vec((1i64..4, 0i32..4), 1..16),
    ) {
        let mut world = World::new(Vec::new());
        for (index, cpu) in cpus.iter().enumerate() {
            world.apply(node(&format!("n{index}"), &cpu.to_string(), json!({})));
        }
        let priority_of = |name: &str| pods[name[1..].parse::<usize>().unwrap()].1;
        let mut now = NOW;
        for (index, (cpu, priority)) in pods.iter().enumerate() {
            world.apply(pod(&format!("p{index}"), &cpu.to_string(), json!({"priority": priority})));
            now += SignedDuration::from_secs(20);
            for (key, plan) in world.plans(now) {
                let (gone, node) = victims(&plan);
                prop_assert!(gone.is_empty() || node.is_some());
                for name in gone {
                    prop_assert!(priority_of(&name) < priority_of(&key.name), "{} for {}", name, key.name);
                    // Two that look at once may name the same one.
                    if world.seen.pods.get(&Key::new("d", &name)).is_some() {
                        world.delete(&name);
                    }
                }
                let bound = plan.actions.iter().find_map(|a| match &a.verb {
                    Verb::Bind { node, .. } => Some(node.clone()),
                    _ => None,
                });
                if let Some(node) = bound {
                    let index: usize = key.name[1..].parse().unwrap();
                    let (cpu, priority) = pods[index];
                    world.apply(placed(&key.name, &cpu.to_string(), priority, &node, EARLY));
                }
            }
        }
        // Nobody waits for a node on which there is room.
        world.plans(now + SignedDuration::from_mins(10));
        let plans = world.plans(now + SignedDuration::from_mins(20));
        let binds = |plan: &Plan| plan.actions.iter().any(|a| matches!(a.verb, Verb::Bind { .. }));
        prop_assert!(!plans.iter().any(|(_, plan)| binds(plan)));
    }
}
