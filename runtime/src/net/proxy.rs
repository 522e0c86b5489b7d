//! Keeps the node's service rules: watches Services and EndpointSlices, and gives `Network` the rules
//! that follow from them.
//!
//! Works against any conformant API server. `index` decides; this file only moves events and retries.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Network;
use super::index::{Index, Scope};

/// Most events that are taken together before the rules are written.
const EVENTS_AT_ONCE: usize = 1024;
/// How long to wait after the kernel refused the rules.
const RETRY: Duration = Duration::from_secs(1);

/// Something that can wake the proxy.
enum Seen {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
}

/// Which of the two lists are complete.
#[derive(Default)]
struct Complete {
    services: bool,
    slices: bool,
}

/// Runs until `shutdown`. The rules stay in force afterwards.
pub async fn run(client: Client, network: Network, shutdown: CancellationToken) {
    let config = network.config();
    let scope = Scope { node: config.node_cidr, dns_address: config.dns_address };
    let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Service(Box::new(event)));
    let slices = watcher(Api::<EndpointSlice>::all(client), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Slice(Box::new(event)));
    // What has arrived while the last rules were written is taken together: no timer, so a single
    // change is not delayed, and a burst costs one write.
    let mut events = std::pin::pin!(futures::stream::select(services, slices).ready_chunks(EVENTS_AT_ONCE));
    let (mut index, mut complete) = (Index::default(), Complete::default());
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
        let outcome = network.set_services(index.rules(&scope)).await;
        retry = outcome.is_err();
        if let Err(error) = outcome {
            warn!(%error, "cannot write the service rules");
        }
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
    }
}
