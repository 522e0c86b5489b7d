//! Tables of the plugins' rules: a small cluster in, what one plugin says of each node out.

mod affinity;
mod counts;
mod images;
mod scores;
mod spread;
mod volumes;

use std::fmt::Write as _;

use expect_test::Expect;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CycleState, of, stock_profile};
use crate::scheduler::framework::{Cycle, Misfit, PreFilter};
use crate::scheduler::node_info::NodeInfo;
use crate::scheduler::nominated::Nominated;
use crate::scheduler::plugin::Plugin;
use crate::scheduler::profile::Profile;
use crate::scheduler::snapshot::Snapshot;
use crate::world::facts::{Fact, KindName, Object, Pod};
use crate::world::observed::Observed;

/// Everything a cycle looks at.
struct World {
    seen: Observed,
    snapshot: Snapshot,
    nominated: Nominated,
    profile: Profile,
}

fn decode(api_version: &str, kind: &str, object: Value) -> Object {
    Object::decode(&KindName::new(api_version, kind), &serde_json::to_vec(&object).unwrap()).unwrap()
}

/// A node with these labels; `rest` is its spec, and its status under `status`.
fn node(name: &str, labels: Value, rest: Value) -> Object {
    let mut node = json!({"metadata": {"name": name, "uid": name, "labels": labels}, "spec": rest});
    node["metadata"]["labels"]["kubernetes.io/hostname"] = name.into();
    node["status"] = node["spec"]["status"].take();
    if node["status"].is_null() {
        node["status"] = json!({"allocatable": {"cpu": "10", "memory": "10Gi", "pods": "100"}});
    }
    decode("v1", "Node", node)
}

/// A pod in namespace `d`; its metadata and spec are merged into.
fn pod(name: &str, metadata: Value, spec: Value) -> Object {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    });
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        for (field, value) in more.as_object().cloned().unwrap_or_default() {
            pod[part][field] = value;
        }
    }
    decode("v1", "Pod", pod)
}

/// A pod with the label `app` on a node.
fn on(node: &str, name: &str, app: &str, spec: Value) -> Object {
    let mut spec = spec;
    spec["nodeName"] = node.into();
    pod(name, json!({"labels": {"app": app}}), spec)
}

fn selects(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

fn pre_filter(plugin: Plugin, cycle: &Cycle<'_>, state: &mut CycleState) -> PreFilter {
    of(plugin).pre_filter.map_or(PreFilter::Filter, |pre_filter| pre_filter(cycle, &mut state.kept))
}

fn filter(plugin: Plugin, cycle: &Cycle<'_>, state: &CycleState, node: &NodeInfo) -> Result<(), Misfit> {
    of(plugin).filter.map_or(Ok(()), |filter| filter(cycle, &state.kept, node))
}

fn count_pod(
    plugin: Plugin,
    cycle: &Cycle<'_>,
    state: &mut CycleState,
    other: &Pod,
    node: &NodeInfo,
    amount: i64,
) {
    of(plugin).count_pod.expect("a plugin that counts pods")(cycle, &mut state.kept, other, node, amount);
}

impl World {
    fn new(objects: Vec<Object>) -> Self {
        let mut world = World {
            seen: Observed::new(""),
            snapshot: Snapshot::default(),
            nominated: Nominated::default(),
            profile: stock_profile("default-scheduler"),
        };
        objects.into_iter().for_each(|object| world.apply(object));
        world
    }

    fn apply(&mut self, object: Object) {
        self.seen.apply(object.clone(), Timestamp::UNIX_EPOCH);
        match &object.fact {
            Fact::Node(node) => self.snapshot.set_node(node.clone()),
            Fact::Pod(pod) => {
                let pod = self.seen.pods.get(&pod.meta.key).unwrap().clone();
                if let Some(node) = pod.node.clone() {
                    self.snapshot.place(pod, &node);
                }
            }
            _ => {}
        }
        self.snapshot.arrange();
    }

    fn cycle<'a>(&'a self, pod: &'a Pod) -> Cycle<'a> {
        let wishes = pod.wishes.as_deref().expect("a pod that is not bound");
        let (snapshot, nominated) = (&self.snapshot, &self.nominated);
        Cycle { pod, wishes, snapshot, nominated, seen: &self.seen, profile: &self.profile }
    }

    fn nodes(&self) -> Vec<&NodeInfo> {
        let mut nodes: Vec<&NodeInfo> = self.snapshot.nodes().collect();
        nodes.sort_by_key(|n| n.name().clone());
        nodes
    }

    /// What NodeAffinity and then the plugin work out about a pod.
    fn prepared(&self, plugin: Plugin, pod: &Pod) -> (CycleState, PreFilter) {
        let mut state = CycleState::default();
        pre_filter(Plugin::NodeAffinity, &self.cycle(pod), &mut state);
        let said = pre_filter(plugin, &self.cycle(pod), &mut state);
        (state, said)
    }

    /// One line per node: `ok`, or the reason, with `!` if no pod that leaves can help.
    fn verdicts(&self, plugin: Plugin, pod: &Object) -> String {
        let Fact::Pod(pod) = &pod.fact else { panic!("not a pod") };
        let (state, said) = self.prepared(plugin, pod);
        let mut lines = String::new();
        let text = |misfit: &Misfit, node: Option<&NodeInfo>| {
            let mut texts = Vec::new();
            misfit.reason.tell(pod, node.map(|n| &*n.node), |text| texts.push(text.to_owned()));
            let unresolvable = if misfit.unresolvable { "!" } else { "" };
            format!("{unresolvable}{}", texts.join(" + "))
        };
        match said {
            PreFilter::Skip => lines.push_str("skip\n"),
            PreFilter::Only(names) => writeln!(lines, "only {names:?}").unwrap(),
            PreFilter::Reject(misfit) => writeln!(lines, "{}", text(&misfit, None)).unwrap(),
            PreFilter::Filter => {
                for node in self.nodes() {
                    let verdict = match filter(plugin, &self.cycle(pod), &state, node) {
                        Ok(()) => "ok".to_owned(),
                        Err(misfit) => text(&misfit, Some(node)),
                    };
                    writeln!(lines, "{}: {verdict}", node.name()).unwrap();
                }
            }
        }
        lines
    }

    /// The normalized score of each node.
    fn scores(&self, plugin: Plugin, pod: &Object) -> String {
        let Fact::Pod(pod) = &pod.fact else { panic!("not a pod") };
        let cycle = self.cycle(pod);
        let (mut state, _) = self.prepared(Plugin::NodeAffinity, pod);
        let nodes = self.nodes();
        let points = of(plugin);
        if points.pre_score.is_some_and(|pre_score| !pre_score(&cycle, &mut state.kept, &nodes)) {
            return "skip".to_owned();
        }
        let score = points.score.expect("a plugin that scores");
        let mut scores: Vec<i64> = nodes.iter().map(|n| score(&cycle, &state.kept, n)).collect();
        if let Some(normalize) = points.normalize {
            normalize(&mut scores);
        }
        let lines = nodes.iter().zip(scores).map(|(node, score)| format!("{}: {score}", node.name()));
        lines.collect::<Vec<_>>().join(", ")
    }
}

fn check(plugin: Plugin, cluster: Vec<Object>, pod: Object, expected: Expect) {
    expected.assert_eq(&World::new(cluster).verdicts(plugin, &pod));
}

fn check_scores(plugin: Plugin, cluster: Vec<Object>, pod: Object, expected: &str) {
    assert_eq!(World::new(cluster).scores(plugin, &pod), expected);
}
