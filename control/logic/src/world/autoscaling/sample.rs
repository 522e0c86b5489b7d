//! What is measured of pods, as the shell found it at one moment.
//!
//! Fed by the shell, which asks nodes and store only while there is an autoscaler; read by the
//! decisions. Amounts are in thousandths: of a CPU, of a byte, of whatever a metric counts.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::condition;
use proa_api::quantity::Amount;
use proa_api::selector::Labels;

use crate::world::facts::{Key, Phase, phase, time};
use proa_api::resources::is_sidecar;

/// One look at the pods of all namespaces that have autoscalers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// The pods.
    pub pods: BTreeMap<Key, Pod>,
    /// What adapters of other metrics APIs say. No adapter is built in.
    pub adapters: Adapters,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// Where it is in its life.
    pub phase: Phase,
    /// True if its deletion was asked for.
    pub is_going: bool,
    /// When its node took it on.
    pub started: Option<Timestamp>,
    /// Its condition `Ready`.
    pub ready: Option<Ready>,
    /// What each of its containers asks for, by resource.
    pub requests: Vec<(String, BTreeMap<String, i64>)>,
    /// What it uses; none if that was not measured.
    pub used: Option<Used>,
}

/// A condition `Ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// True if it says `False`.
    pub is_false: bool,
    /// When it began to say so.
    pub since: Timestamp,
}

/// What a pod uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Used {
    /// The end of the time over which it was measured.
    pub at: Timestamp,
    /// That time.
    pub window: SignedDuration,
    /// What each container uses, by resource.
    pub containers: BTreeMap<String, BTreeMap<String, i64>>,
}

/// Values of metrics that are not of the nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapters {
    /// Of each pod, by name.
    pub pods: BTreeMap<MetricName, BTreeMap<Key, i64>>,
    /// Of one object, by kind and name.
    pub objects: BTreeMap<(MetricName, String, String), i64>,
    /// Of something outside of the cluster: one value for each series.
    pub external: BTreeMap<MetricName, Vec<i64>>,
}

/// Which metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricName {
    /// The autoscaler's namespace.
    pub namespace: String,
    /// The metric's name.
    pub name: String,
    /// Its selector as a text.
    pub selector: String,
}

impl Pod {
    /// What is known of a stored pod, with what it uses.
    pub fn of(pod: core::Pod, used: Option<Used>) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let ready = condition::find(status.conditions.as_ref(), "Ready").map(|c| Ready {
            is_false: c.status == "False",
            since: time(&c.last_transition_time).unwrap_or(Timestamp::UNIX_EPOCH),
        });
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
        let requests = spec.containers.iter().chain(sidecars).map(|c| {
            let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
            let amounts = requests.into_iter().flatten();
            (c.name.clone(), amounts.map(|(name, amount)| (name.clone(), millis(amount))).collect())
        });
        Pod {
            phase: phase(status.phase.as_deref()),
            is_going: pod.metadata.deletion_timestamp.is_some(),
            started: time(&status.start_time),
            ready,
            requests: requests.collect(),
            labels: pod.metadata.labels.unwrap_or_default(),
            used,
        }
    }
}

/// A quantity in thousandths. Validation keeps out what is none.
pub(crate) fn millis(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).unwrap_or_default().millis()
}
