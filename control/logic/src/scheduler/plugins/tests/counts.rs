//! Properties: counts by sorts of pods and domains say the same as a look at every pod would.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::world::facts::Term;

const LABELS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
struct Other {
    app: usize,
    node: usize,
    namespace: usize,
    leaving: bool,
    /// The label and `app` of a required anti-affinity term.
    avoids: Option<(usize, usize)>,
}

fn other() -> impl Strategy<Value = Other> {
    let avoids = prop::option::of((0..2usize, 0..3usize));
    (0..3usize, 0..6usize, 0..2usize, any::<bool>(), avoids)
        .prop_map(|(app, node, namespace, leaving, avoids)| Other { app, node, namespace, leaving, avoids })
}

fn key(label: usize) -> &'static str {
    ["zone", "kubernetes.io/hostname"][label]
}

fn anti(terms: &[(usize, usize)]) -> Value {
    let term = |(label, app): &(usize, usize)| json!({"topologyKey": key(*label), "labelSelector": selects(LABELS[*app])});
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        terms.iter().map(term).collect::<Vec<_>>()}})
}

fn object(index: usize, other: &Other) -> Object {
    let namespace = ["d", "e"][other.namespace];
    let mut metadata = json!({
        "labels": {"app": LABELS[other.app]}, "namespace": namespace, "uid": index.to_string(),
    });
    if other.leaving {
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    let mut spec = json!({"nodeName": format!("n{}", other.node)});
    if let Some(avoids) = other.avoids {
        spec["affinity"] = anti(&[avoids]);
    }
    pod(&format!("o{index}"), metadata, spec)
}

/// The pods around a node that a test holds for, found by looking at each.
fn around(world: &World, label: &str, node: &NodeInfo, meant: impl Fn(&Pod) -> bool) -> usize {
    let Some(value) = node.node.labels.get(label) else { return 0 };
    let nodes = world.snapshot.nodes().filter(|n| n.node.labels.get(label) == Some(value));
    nodes.flat_map(|n| &n.pods).filter(|p| meant(p)).count()
}

fn means(term: &Term, pod: &Pod) -> bool {
    term.matches(&pod.meta.key.namespace, None, &pod.labels)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn counts_are_those_of_every_pod(
        zones in prop::collection::vec(0..3usize, 6),
        others in prop::collection::vec(other(), 0..25),
        gone in prop::collection::vec(any::<bool>(), 25),
        own in prop::collection::vec((0..2usize, 0..3usize), 1..3),
        max_skew in 1..3i64,
        removed in 0..25usize,
    ) {
        let mut world = World::new(Vec::new());
        for (index, zone) in zones.iter().enumerate() {
            // Two in three nodes have a zone.
            let labels = if *zone < 2 { json!({"zone": LABELS[*zone]}) } else { json!({}) };
            world.apply(node(&format!("n{index}"), labels, json!({})));
        }
        let objects: Vec<Object> = others.iter().enumerate().map(|(i, o)| object(i, o)).collect();
        objects.iter().for_each(|o| world.apply(o.clone()));
        // What came and went must leave no trace.
        for (object, _) in objects.iter().zip(&gone).filter(|(_, gone)| **gone) {
            world.snapshot.remove(&object.meta.key);
        }
        let constraint = json!({"maxSkew": max_skew, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": selects("x")});
        let incoming = pod("p", json!({"labels": {"app": "x"}}), json!({
            "affinity": anti(&own), "topologySpreadConstraints": [constraint]}));
        let Fact::Pod(incoming) = &incoming.fact else { unreachable!() };
        let agree = |world: &World, affinity: &CycleState, spread: &CycleState| -> Result<(), TestCaseError> {
            for node in world.snapshot.nodes() {
                let cycle = world.cycle(incoming);
                let far = &incoming.terms.as_ref().unwrap().anti_required;
                let close = far.iter().any(|t| around(world, &t.topology_key, node, |p| means(t, p)) > 0);
                let unwelcome = world.snapshot.nodes().flat_map(|n| &n.pods).any(|p| {
                    p.terms.iter().flat_map(|t| &t.anti_required).any(|t| {
                        means(t, incoming) && around(world, &t.topology_key, node, |q| q.meta.key == p.meta.key) > 0
                    })
                });
                let fits = filter(Plugin::InterPodAffinity, &cycle, affinity, node).is_ok();
                prop_assert_eq!(fits, !close && !unwelcome, "affinity on {}", node.name());
                let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
                for node in world.snapshot.nodes() {
                    let Some(zone) = node.node.labels.get("zone") else { continue };
                    let like = |p: &&std::sync::Arc<Pod>| {
                        &*p.meta.key.namespace == "d" && p.meta.deleted.is_none() && p.labels["app"] == "x"
                    };
                    *counts.entry(zone).or_default() += i64::try_from(node.pods.iter().filter(like).count()).unwrap();
                }
                let even = node.node.labels.get("zone").is_some_and(|zone| {
                    counts[zone] + 1 - counts.values().min().unwrap() <= max_skew
                });
                let fits = filter(Plugin::PodTopologySpread, &cycle, spread, node).is_ok();
                prop_assert_eq!(fits, even, "spread on {}", node.name());
            }
            Ok(())
        };
        let (mut affinity, _) = world.prepared(Plugin::InterPodAffinity, incoming);
        let (mut spread, _) = world.prepared(Plugin::PodTopologySpread, incoming);
        agree(&world, &affinity, &spread)?;
        // The same after one has been counted out, as preemption does.
        let Some(victim) = objects.get(removed).and_then(|o| world.snapshot.pod(&o.meta.key)).cloned() else {
            return Ok(());
        };
        let node = world.snapshot.by_name(victim.node.as_ref().unwrap()).unwrap();
        let cycle = world.cycle(incoming);
        count_pod(Plugin::InterPodAffinity, &cycle, &mut affinity, &victim, node, -1);
        count_pod(Plugin::PodTopologySpread, &cycle, &mut spread, &victim, node, -1);
        world.snapshot.remove(&victim.meta.key);
        agree(&world, &affinity, &spread)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Of sorts with many pods, counts by domain are kept and changed; they are never off.
    #[test]
    fn counts_that_are_kept_are_those_of_a_recount(
        steps in prop::collection::vec((0..40usize, 0..60usize, 0..8usize), 40..120),
    ) {
        let zoned = |index: usize, zone: usize| {
            node(&format!("n{index}"), json!({"zone": format!("z{zone}")}), json!({}))
        };
        let mut world = World::new((0..40).map(|index| zoned(index, index % 5)).collect());
        for (place, (on, number, step)) in steps.into_iter().enumerate() {
            let object = pod(&format!("o{number}"), json!({"labels": {"app": "x"}}), json!({"nodeName": format!("n{on}")}));
            match step {
                0 => world.apply(zoned(on, number % 7)),
                1 | 2 => drop(world.snapshot.remove(&object.meta.key)),
                _ => world.apply(object),
            }
            // Now and then, so that what is kept gets old.
            if place % 3 != 0 {
                continue;
            }
            for label in ["zone", "kubernetes.io/hostname"] {
                let domains = world.snapshot.domains(label);
                for (_, members) in world.snapshot.label_groups() {
                    let mut kept = vec![0; domains.count()];
                    members.each_domain(label, &domains, |domain, count| kept[domain] += count.pods);
                    let mut counted = vec![0; domains.count()];
                    for info in world.snapshot.nodes() {
                        counted[domains.of(info.index).unwrap()] += u32::try_from(info.pods.len()).unwrap();
                    }
                    prop_assert_eq!(&kept, &counted);
                }
            }
        }
    }
}
