//! The Node object and its Lease: registration, status, heartbeat.
//!
//! The status is written when it changes and every five minutes; the Lease every ten seconds, as
//! <https://kubernetes.io/docs/reference/node/node-status/> says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::away::away;
use crate::backoff::since;
use crate::event::report;
use crate::node::host::Host;
use crate::node::object;
use crate::pod::status::merge_patch;

/// How often the Lease is renewed.
const LEASE_EVERY: Duration = Duration::from_secs(10);
/// How long a Lease holds, in seconds.
const LEASE_SECONDS: i32 = 40;
/// How often the status is written though nothing has changed.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// Pause before a Node that is not there yet is looked for again.
const REGISTERING: Duration = Duration::from_millis(100);
/// Pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Registers the node and keeps its Lease and its status until `shutdown`.
pub async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let mut registration = Registration { host, registered: false, lease: None, written: None };
    loop {
        let pause = match registration.beat(Timestamp::now()).await {
            Ok(()) => LEASE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the node could not be kept");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The Node as it is now. Waits until it is registered and the API server answers.
pub async fn current(host: &Host) -> Node {
    let api = Api::<Node>::all(host.client.clone());
    let mut pause = REGISTERING;
    loop {
        match api.get_opt(&host.config.node_name).await {
            Ok(Some(node)) if node.status.as_ref().is_some_and(|s| s.allocatable.is_some()) => return node,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the node could not be read");
                pause = (pause * 2).min(RETRY);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

struct Registration {
    host: Arc<Host>,
    /// The Node has been there, with this node's labels, since this program began.
    registered: bool,
    lease: Option<Lease>,
    /// When the status was last written.
    written: Option<Timestamp>,
}

impl Registration {
    async fn beat(&mut self, now: Timestamp) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.host.client.clone());
        let name = &self.host.config.node_name;
        let found = if self.registered { api.get_opt(name).await? } else { None };
        let node = match found {
            Some(node) => node,
            // New here, or somebody has deleted it.
            None => {
                self.written = None;
                self.register().await?
            }
        };
        self.registered = true;
        self.renew(&node, now).await?;
        if self.host.foreign.differs(&node) {
            self.host.foreign.publish(&self.host.client, &self.host.config.node_name).await?;
        }
        let host = Arc::clone(&self.host);
        let mut wanted = away(move || object::status(&host)).await;
        keep_extended(node.status.as_ref(), &mut wanted);
        let due = self.written.is_none_or(|written| since(now, written) >= STATUS_EVERY);
        merge_conditions(node.status.as_ref(), &mut wanted, due, now);
        let value = |status: &NodeStatus| serde_json::to_value(status).unwrap_or_default();
        let old = node.status.as_ref().map(value).unwrap_or_else(|| json!({}));
        let Some(change) = merge_patch(&old, &value(&wanted)) else { return Ok(()) };
        let change = without_removals(change);
        if change == json!({}) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": change}));
        api.patch_status(&self.host.config.node_name, &PatchParams::default(), &patch).await?;
        self.written = Some(now);
        Ok(())
    }

    /// Makes the Node, or takes over the one that is there.
    async fn register(&self) -> Result<Node, kube::Error> {
        let api = Api::<Node>::all(self.host.client.clone());
        let name = &self.host.config.node_name;
        let host = Arc::clone(&self.host);
        let wanted = away(move || object::node(&host)).await;
        match api.create(&PostParams::default(), &wanted).await {
            Ok(node) => {
                let text = format!("Node {name} status is now: NodeReady");
                self.host
                    .recorder
                    .report_node(name, report(None, false, "Starting", "Starting kubelet.".to_owned()));
                self.host.recorder.report_node(name, report(None, false, "NodeReady", text));
                Ok(node)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = json!({"metadata": {"labels": wanted.metadata.labels}});
                api.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn renew(&mut self, node: &Node, now: Timestamp) -> Result<(), kube::Error> {
        let api = Api::<Lease>::namespaced(self.host.client.clone(), proa_api::names::NAMESPACE_NODE_LEASE);
        let name = &self.host.config.node_name;
        if self.lease.is_some() {
            let patch = Patch::Merge(json!({"spec": {"renewTime": MicroTime(now)}}));
            match api.patch(name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => self.lease = None,
                Err(error) => return Err(error),
            }
        }
        let lease = lease(name, node, now);
        let made = match api.create(&PostParams::default(), &lease).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let patch = Patch::Merge(json!({"spec": lease.spec}));
                api.patch(name, &PatchParams::default(), &patch).await?
            }
            made => made?,
        };
        self.lease = Some(made);
        Ok(())
    }
}

fn lease(name: &str, node: &Node, now: Timestamp) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(proa_api::names::NAMESPACE_NODE_LEASE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// Gives the wanted conditions their times: a transition when the status changes, a heartbeat
/// when the status is written anyway. Conditions that others own stay.
fn merge_conditions(old: Option<&NodeStatus>, wanted: &mut NodeStatus, due: bool, now: Timestamp) {
    let old: Vec<NodeCondition> = old.and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut list = wanted.conditions.take().unwrap_or_default();
    for condition in &mut list {
        let before = old.iter().find(|c| c.type_ == condition.type_);
        let same = |c: &&NodeCondition| c.status == condition.status && c.reason == condition.reason;
        match before.filter(same) {
            Some(before) => {
                // A node that has just been made has conditions without times.
                condition.last_transition_time = before.last_transition_time.clone().or(Some(Time(now)));
                let beat = if due { Some(Time(now)) } else { before.last_heartbeat_time.clone() };
                condition.last_heartbeat_time = beat;
            }
            None => {
                condition.last_transition_time = Some(Time(now));
                condition.last_heartbeat_time = Some(Time(now));
            }
        }
    }
    let others = old.into_iter().filter(|c| list.iter().all(|own| own.type_ != c.type_)).collect::<Vec<_>>();
    list.extend(others);
    wanted.conditions = Some(list);
}

/// What others say that the machine has beside what the node counts itself can be given to pods:
/// <https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/>.
fn keep_extended(old: Option<&NodeStatus>, wanted: &mut NodeStatus) {
    let capacity = old.and_then(|s| s.capacity.as_ref()).into_iter().flatten();
    for (name, amount) in capacity.filter(|(name, _)| name.contains('/')) {
        for list in [&mut wanted.capacity, &mut wanted.allocatable] {
            list.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
}

/// What the node does not know of in its own status belongs to somebody else.
fn without_removals(change: serde_json::Value) -> serde_json::Value {
    match change {
        serde_json::Value::Object(map) => {
            map.into_iter().filter(|(_, value)| !value.is_null()).collect::<serde_json::Map<_, _>>().into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_without_times_get_them() {
        let now = Timestamp::from_second(1).unwrap();
        let condition = || NodeCondition { type_: "Ready".to_owned(), ..NodeCondition::default() };
        let status = || NodeStatus { conditions: Some(vec![condition()]), ..NodeStatus::default() };
        let mut wanted = status();
        merge_conditions(Some(&status()), &mut wanted, true, now);
        assert_eq!(wanted.conditions.unwrap()[0].last_transition_time, Some(Time(now)));
    }

    #[test]
    fn extended_resources_can_be_given_to_pods_while_they_are_there() {
        let status = |capacity: serde_json::Value, allocatable: serde_json::Value| -> NodeStatus {
            serde_json::from_value(json!({"capacity": capacity, "allocatable": allocatable})).unwrap()
        };
        let check = |old: NodeStatus, expected: NodeStatus| {
            let mut wanted = status(json!({"cpu": "2"}), json!({"cpu": "1"}));
            keep_extended(Some(&old), &mut wanted);
            assert_eq!(wanted, expected);
        };
        check(
            status(json!({"cpu": "4", "example.com/dongle": "4"}), json!({"cpu": "4"})),
            status(
                json!({"cpu": "2", "example.com/dongle": "4"}),
                json!({"cpu": "1", "example.com/dongle": "4"}),
            ),
        );
        check(
            status(json!({}), json!({"example.com/dongle": "4"})),
            status(json!({"cpu": "2"}), json!({"cpu": "1"})),
        );
    }

    #[test]
    fn conditions_keep_their_times_until_something_changes() {
        let time = |seconds| Timestamp::from_second(seconds).unwrap();
        let condition = |status: &str| NodeCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            ..NodeCondition::default()
        };
        let status =
            |status: &str| NodeStatus { conditions: Some(vec![condition(status)]), ..NodeStatus::default() };
        let mut first = status("True");
        merge_conditions(None, &mut first, true, time(1));
        let mut second = status("True");
        merge_conditions(Some(&first), &mut second, false, time(2));
        assert_eq!(first, second, "nothing is to be written");
        let mut third = status("True");
        merge_conditions(Some(&first), &mut third, true, time(301));
        let found = &third.conditions.as_ref().unwrap()[0];
        assert_eq!(found.last_heartbeat_time, Some(Time(time(301))));
        assert_eq!(found.last_transition_time, Some(Time(time(1))));
        let mut fourth = status("Unknown");
        merge_conditions(Some(&third), &mut fourth, false, time(302));
        assert_eq!(fourth.conditions.unwrap()[0].last_transition_time, Some(Time(time(302))));
    }
}
