//! Keeps the node's service rules: watches Services, EndpointSlices and Nodes, gives `Network` the rules
//! that follow from them, and says in Events what Services ask for and do not get.
//!
//! Works against any conformant API server. `index` decides; this file only moves events and retries.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Network;
use super::index::{Index, Problem};
use super::scope::Scope;
use crate::event::{Recorder, Report};

/// Most events that are taken together before the rules are written.
const EVENTS_AT_ONCE: usize = 1024;
/// How long to wait after the kernel refused the rules.
const RETRY: Duration = Duration::from_secs(1);

/// Who its Events come from.
pub const COMPONENT: &str = "kube-proxy";

/// Something that can wake the proxy.
enum Seen {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Node(Box<Event<Node>>),
}

/// Which of the lists are complete.
#[derive(Default)]
struct Complete {
    services: bool,
    slices: bool,
    nodes: bool,
}

/// Runs until `shutdown`. The rules stay in force afterwards.
pub async fn run(client: Client, network: Network, node_name: String, shutdown: CancellationToken) {
    let mut scope = scope(&network, &node_name);
    let recorder = Recorder::start_as(COMPONENT, client.clone(), node_name);
    let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Service(Box::new(event)));
    let slices = watcher(Api::<EndpointSlice>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Slice(Box::new(event)));
    let nodes = watcher(Api::<Node>::all(client), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Node(Box::new(event)));
    // What has arrived while the last rules were written is taken together: no timer, so a single
    // change is not delayed, and a burst costs one write.
    let objects = futures::stream::select(services, slices);
    let mut events = std::pin::pin!(futures::stream::select(objects, nodes).ready_chunks(EVENTS_AT_ONCE));
    let (mut index, mut complete) = (Index::default(), Complete::default());
    let mut problems = Vec::new();
    let mut retry = false;
    loop {
        let chunk = tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY), if retry => Vec::new(),
            chunk = events.next() => match chunk {
                Some(chunk) => chunk,
                None => return,
            },
        };
        for event in chunk {
            match event {
                Ok(seen) => apply(seen, &mut index, &mut complete),
                Err(error) => debug!(%error, "watch interrupted"),
            }
        }
        // Rules from half a list would cut off the services that are not listed yet.
        if !(complete.services && complete.slices) {
            continue;
        }
        // The addresses that are known stay while the Nodes are listed again.
        if complete.nodes {
            scope.nodes = Some(index.nodes());
        }
        let decision = index.decide(&scope);
        report(&recorder, &problems, &decision.problems);
        problems = decision.problems;
        let outcome = network.set_services(decision.rules).await;
        retry = outcome.is_err();
        if let Err(error) = outcome {
            warn!(%error, "cannot write the service rules");
        }
    }
}

fn scope(network: &Network, node_name: &str) -> Scope {
    let config = network.config();
    Scope {
        node_name: node_name.to_owned(),
        node: config.node_cidr,
        cluster: config.cluster_cidr,
        services: config.service_cidr,
        dns_address: config.dns_address,
        nodes: None,
    }
}

/// Says what is new among the problems, once.
fn report(recorder: &Recorder, before: &[Problem], now: &[Problem]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        let Problem { about, reason, message } = problem.clone();
        let (namespace, name) = (about.namespace.as_deref(), about.name.as_deref());
        warn!(kind = "Service", namespace, name, "{message}");
        recorder
            .report_about(about, Report { field_path: None, warning: true, reason: reason.into(), message });
    }
}

fn apply(seen: Seen, index: &mut Index, complete: &mut Complete) {
    match seen {
        Seen::Service(event) => match *event {
            Event::Init => {
                index.reset_services();
                complete.services = false;
            }
            Event::InitApply(service) | Event::Apply(service) => index.apply_service(&service),
            Event::Delete(service) => index.delete_service(&service),
            Event::InitDone => complete.services = true,
        },
        Seen::Slice(event) => match *event {
            Event::Init => {
                index.reset_slices();
                complete.slices = false;
            }
            Event::InitApply(slice) | Event::Apply(slice) => index.apply_slice(&slice),
            Event::Delete(slice) => index.delete_slice(&slice),
            Event::InitDone => complete.slices = true,
        },
        Seen::Node(event) => match *event {
            Event::Init => {
                index.reset_nodes();
                complete.nodes = false;
            }
            Event::InitApply(node) | Event::Apply(node) => index.apply_node(&node),
            Event::Delete(node) => index.delete_node(&node),
            Event::InitDone => complete.nodes = true,
        },
    }
}
