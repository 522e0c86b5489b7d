//! Fills the zone from the API: watches Services and EndpointSlices.
//!
//! Works against any conformant API server.

use std::sync::{Arc, PoisonError, RwLock};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};

use crate::zone::Zone;

/// A zone, and whether it is complete.
#[derive(Default)]
pub struct Watched {
    /// What is known.
    pub zone: Zone,
    services: bool,
    slices: bool,
}

impl Watched {
    /// A complete zone.
    #[cfg(test)]
    pub fn of(zone: Zone) -> Self {
        Self { zone, services: true, slices: true }
    }

    /// Whether both lists have been seen. Until then a missing name proves nothing.
    pub fn complete(&self) -> bool {
        self.services && self.slices
    }
}

/// Something that changes the zone.
enum Seen {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
}

/// Runs until it is dropped.
pub async fn run(client: Client, watched: Arc<RwLock<Watched>>) {
    let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Service(Box::new(event)));
    let slices = watcher(Api::<EndpointSlice>::all(client), watcher::Config::default())
        .default_backoff()
        .map_ok(|event| Seen::Slice(Box::new(event)));
    let mut events = std::pin::pin!(futures::stream::select(services, slices));
    // While a list is repeated after an interruption, its events go to a second zone, so that names do
    // not vanish for that time.
    let mut relisted = Zone::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(seen) => {
                let mut watched = watched.write().unwrap_or_else(PoisonError::into_inner);
                apply(seen, &mut watched, &mut relisted);
            }
            Err(error) => tracing::debug!(%error, "watch interrupted"),
        }
    }
}

fn apply(seen: Seen, watched: &mut Watched, relisted: &mut Zone) {
    match seen {
        Seen::Service(event) => match *event {
            Event::Init => relisted.reset_services(),
            Event::InitApply(service) => relisted.apply_service(&service),
            Event::InitDone => {
                watched.zone.take_services(relisted);
                watched.services = true;
            }
            Event::Apply(service) => watched.zone.apply_service(&service),
            Event::Delete(service) => watched.zone.delete_service(&service),
        },
        Seen::Slice(event) => match *event {
            Event::Init => relisted.reset_slices(),
            Event::InitApply(slice) => relisted.apply_slice(&slice),
            Event::InitDone => {
                watched.zone.take_slices(relisted);
                watched.slices = true;
            }
            Event::Apply(slice) => watched.zone.apply_slice(&slice),
            Event::Delete(slice) => watched.zone.delete_slice(&slice),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str) -> Service {
        let value =
            json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": "10.43.0.7"}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_stay_while_the_list_is_repeated() {
        let (mut watched, mut relisted) = (Watched::default(), Zone::default());
        let mut see =
            |event, watched: &mut Watched| apply(Seen::Service(Box::new(event)), watched, &mut relisted);
        see(Event::Init, &mut watched);
        see(Event::InitApply(service("old")), &mut watched);
        assert!(!watched.complete());
        see(Event::InitDone, &mut watched);
        assert!(watched.zone.service("default", "old").is_some());

        see(Event::Init, &mut watched);
        see(Event::InitApply(service("new")), &mut watched);
        assert!(watched.zone.service("default", "old").is_some());
        see(Event::InitDone, &mut watched);
        assert!(watched.zone.service("default", "old").is_none());
        assert!(watched.zone.service("default", "new").is_some());

        apply(Seen::Slice(Box::new(Event::InitDone)), &mut watched, &mut relisted);
        assert!(watched.complete());
    }
}
