//! The sampler: what is measured of pods, for the autoscalers.
//!
//! Told by the shell which namespaces have autoscalers; asks the nodes and the store for what there
//! is of their pods, once in each period, and sends that back. While no namespace has one, nothing
//! is asked of anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use proa_logic::world::Key;
use proa_logic::world::autoscaling::sample::{Adapters, Pod, Sample, Used};
use proa_supervise::{Task, keep};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::config::COMPONENT;
use crate::kubelet::metrics::{self, ContainerName, Metrics, Snapshot, Usage};
use crate::registry::{ListOptions, Registry};

type Namespaces = BTreeSet<Arc<str>>;

/// Sends samples while they are wanted. It ends with this value.
pub struct Sampler {
    wanted: watch::Sender<Namespaces>,
    samples: mpsc::Receiver<Sample>,
}

impl Sampler {
    /// Starts it. Without `metrics` pods are seen, and nothing that they use.
    pub fn start(registry: Registry, metrics: Option<Arc<Metrics>>, period: Duration) -> Self {
        let (wanted, changes) = watch::channel(Namespaces::new());
        let (sender, samples) = mpsc::channel(1);
        let task = Task { component: COMPONENT, name: "sampler" };
        tokio::spawn(async move {
            let start = || run(&registry, metrics.as_deref(), period, changes.clone(), &sender);
            keep(task, &CancellationToken::new(), start).await;
        });
        Sampler { wanted, samples }
    }

    /// Says in which namespaces pods are to be looked at.
    pub fn want(&self, namespaces: Namespaces) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != namespaces;
            *wanted = namespaces;
            changed
        });
    }

    /// The next sample.
    pub async fn next(&mut self) -> Option<Sample> {
        self.samples.recv().await
    }
}

async fn run(
    registry: &Registry,
    metrics: Option<&Metrics>,
    period: Duration,
    mut wanted: watch::Receiver<Namespaces>,
    samples: &mpsc::Sender<Sample>,
) {
    while wanted.wait_for(|namespaces| !namespaces.is_empty()).await.is_ok() {
        let namespaces = wanted.borrow_and_update().clone();
        let used = match metrics {
            Some(metrics) => metrics.now().await,
            None => Arc::default(),
        };
        if samples.send(sample(registry, &namespaces, &used)).await.is_err() {
            return;
        }
        tokio::time::sleep(period).await;
    }
}

fn sample(registry: &Registry, namespaces: &Namespaces, used: &Snapshot) -> Sample {
    let table = registry.kinds();
    let mut pods = BTreeMap::new();
    for namespace in namespaces {
        let Some(kind) = table.by_plural("", "v1", "pods") else { break };
        let Ok(list) = registry.list(kind, Some(namespace), &ListOptions::default()) else { continue };
        for object in list.items {
            let of_pod = metrics::of_pod(used, &object.value()).map(|own| used_by(&own));
            let Ok(pod) = serde_json::from_slice::<core::Pod>(&object.bytes) else { continue };
            pods.insert(Key::new(namespace, &object.key.name), Pod::of(pod, of_pod));
        }
    }
    Sample { at: Timestamp::now(), pods, adapters: Adapters::default() }
}

/// What a pod's containers use, in thousandths.
fn used_by(own: &[(&ContainerName, &Usage)]) -> Used {
    let shortest = own.iter().map(|(_, usage)| usage).min_by_key(|usage| usage.window);
    let (at, window) = shortest.map(|usage| (usage.at, usage.window)).unwrap_or_default();
    let containers = own.iter().map(|(name, usage)| {
        let cpu = i64::try_from(usage.cpu_nanos.div_ceil(1_000_000)).unwrap_or(i64::MAX);
        let memory = i64::try_from(usage.memory_bytes.saturating_mul(1000)).unwrap_or(i64::MAX);
        (name.container.clone(), [("cpu".to_owned(), cpu), ("memory".to_owned(), memory)].into())
    });
    Used { at, window, containers: containers.collect() }
}
