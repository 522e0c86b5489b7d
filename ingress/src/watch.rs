//! Follows the API and keeps the route table in step with it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::index::{Index, Indexed, Key, key};
use crate::route::Table;
use crate::status;

/// The index and a bell that rings when it has changed.
struct Shared {
    index: Mutex<Index>,
    changed: Notify,
}

/// Watches until `shutdown`. All changes that have arrived while a table was being compiled go
/// into the next one together.
pub async fn run(client: Client, address: IpAddr, table: Arc<ArcSwap<Table>>, shutdown: CancellationToken) {
    let shared = Shared { index: Mutex::default(), changed: Notify::new() };
    let any = watcher::Config::default;
    let secrets = any().fields("type=kubernetes.io/tls");
    let follow = async {
        tokio::join!(
            follow::<Ingress>(Api::all(client.clone()), any(), &shared),
            follow::<IngressClass>(Api::all(client.clone()), any(), &shared),
            follow::<Service>(Api::all(client.clone()), any(), &shared),
            follow::<EndpointSlice>(Api::all(client.clone()), any(), &shared),
            follow::<Secret>(Api::all(client.clone()), secrets, &shared),
        );
    };
    let compile = async {
        loop {
            shared.changed.notified().await;
            let wanted = {
                let index = shared.index.lock().unwrap_or_else(PoisonError::into_inner);
                table.store(Arc::new(Table::compile(&index)));
                status::wanted(&index, address)
            };
            for change in wanted {
                status::write(&client, change).await;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = compile => {}
        () = shutdown.cancelled() => {}
    }
}

async fn follow<K>(api: Api<K>, config: watcher::Config, shared: &Shared)
where
    K: Resource + Indexed + Clone + Debug + DeserializeOwned + Send + 'static,
    K: AsMeta,
{
    let mut events: Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>> =
        Box::pin(watcher::watcher(api, config).default_backoff());
    let mut listed: BTreeSet<Key> = BTreeSet::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "watch interrupted");
                continue;
            }
        };
        let mut index = shared.index.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Apply(object) => object.apply(&mut index),
            Event::Delete(object) => object.delete(&mut index),
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(key(object.as_meta()));
                object.apply(&mut index);
            }
            Event::InitDone => K::retain(&mut index, &|key| listed.contains(key)),
        }
        shared.changed.notify_one();
    }
}

/// The metadata of the watched kinds, whose scopes differ.
trait AsMeta {
    fn as_meta(&self) -> &ObjectMeta;
}

impl<K: k8s_openapi::Metadata<Ty = ObjectMeta>> AsMeta for K {
    fn as_meta(&self) -> &ObjectMeta {
        self.metadata()
    }
}
