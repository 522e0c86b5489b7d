//! Follows the API and keeps the route table in step with it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures::future::{self, AbortHandle};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use proa_api::namespaced_name::{self, NamespacedName};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events;
use crate::index::{Index, Indexed};
use crate::pattern::Patterns;
use crate::route::Table;
use crate::status;

/// The index and a bell that rings when it has changed.
struct Shared {
    seen: Mutex<Seen>,
    changed: Notify,
}

struct Seen {
    index: Index,
    /// Kinds whose first listing is not complete. Until then routes would lack their services, or
    /// hosts their certificates, that are only about to be read.
    unlisted: usize,
}

/// How many kinds are followed.
const KINDS: usize = 6;

/// Watches until `shutdown`. All changes that have arrived while a table was being compiled go
/// into the next one together.
pub async fn run(
    client: Client,
    address: IpAddr,
    index: Index,
    table: Arc<ArcSwap<Table>>,
    shutdown: CancellationToken,
) {
    let seen = Mutex::new(Seen { index, unlisted: KINDS });
    let shared = Shared { seen, changed: Notify::new() };
    let any = watcher::Config::default;
    let secrets = any().fields("type=kubernetes.io/tls");
    let follow = async {
        tokio::join!(
            follow::<Ingress>(Api::all(client.clone()), any(), &shared),
            follow::<IngressClass>(Api::all(client.clone()), any(), &shared),
            follow::<Node>(Api::all(client.clone()), any(), &shared),
            follow::<Service>(Api::all(client.clone()), any(), &shared),
            follow::<EndpointSlice>(Api::all(client.clone()), any(), &shared),
            follow::<Secret>(Api::all(client.clone()), secrets, &shared),
        );
    };
    let (wanted, receiver) = tokio::sync::watch::channel(Vec::new());
    let (problems, said) = tokio::sync::watch::channel(BTreeSet::new());
    let (secrets, named) = tokio::sync::watch::channel(BTreeSet::new());
    let compile = async {
        let mut patterns = Patterns::default();
        loop {
            shared.changed.notified().await;
            let seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.unlisted > 0 {
                continue;
            }
            let next = Arc::new(Table::compile(&seen.index, &mut patterns));
            for problem in next.problems().difference(table.load().problems()) {
                tracing::warn!("{problem}");
            }
            table.store(Arc::clone(&next));
            problems.send_if_modified(|before| replace(before, next.problems()));
            secrets.send_if_modified(|before| replace(before, next.secrets()));
            wanted.send_replace(status::wanted(&seen.index, address));
        }
    };
    tokio::select! {
        () = follow => {}
        () = compile => {}
        () = status::run(client.clone(), address, receiver) => {}
        () = events::run(client.clone(), said) => {}
        () = follow_passwords(&client, named, &shared) => {}
        () = shutdown.cancelled() => {}
    }
}

fn replace<T: Clone + PartialEq>(before: &mut T, now: &T) -> bool {
    let differs = before != now;
    if differs {
        now.clone_into(before);
    }
    differs
}

/// Reads the Secrets with passwords that Ingresses name, one by one: of the others of their namespaces
/// the ingress needs to know nothing.
async fn follow_passwords(
    client: &Client,
    mut named: tokio::sync::watch::Receiver<BTreeSet<NamespacedName>>,
    shared: &Shared,
) {
    let mut followed: BTreeMap<NamespacedName, AbortHandle> = BTreeMap::new();
    let mut watches = FuturesUnordered::new();
    loop {
        let keys = named.borrow_and_update().clone();
        followed.retain(|key, watched| {
            let stays = keys.contains(key);
            if !stays {
                watched.abort();
            }
            stays
        });
        {
            let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.index.passwords.retain(|key, _| keys.contains(key));
        }
        for key in keys {
            if let Entry::Vacant(vacant) = followed.entry(key) {
                let watch = follow_password(client, vacant.key().clone(), shared);
                let (watch, watched) = future::abortable(watch);
                vacant.insert(watched);
                watches.push(watch);
            }
        }
        // The other watches go on when another Secret is named.
        loop {
            tokio::select! {
                changed = named.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(_) = watches.next() => {}
            }
        }
    }
}

async fn follow_password(client: &Client, key: NamespacedName, shared: &Shared) {
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.0);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
    let mut events = Box::pin(watcher::watcher(api, config).default_backoff());
    let mut listed = None;
    loop {
        let found = match events.try_next().await {
            Ok(Some(Event::Apply(secret))) => Some(secret),
            Ok(Some(Event::Delete(_))) => None,
            Ok(Some(Event::Init)) => {
                listed = None;
                continue;
            }
            Ok(Some(Event::InitApply(secret))) => {
                listed = Some(secret);
                continue;
            }
            Ok(Some(Event::InitDone)) => listed.take(),
            Ok(None) => return,
            Err(error) => {
                let (namespace, name) = &key;
                tracing::debug!(kind = "Secret", namespace, name, %error, "watch interrupted");
                continue;
            }
        };
        // What is not the one that was asked for says nothing of it.
        let found = found.filter(|secret| namespaced_name::of(&secret.metadata) == key);
        let data = found.map(|secret| secret.data.unwrap_or_default());
        let data = data.map(|data| Arc::new(data.into_iter().map(|(name, value)| (name, value.0)).collect()));
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.index.passwords.insert(key.clone(), data);
        drop(seen);
        shared.changed.notify_one();
    }
}

async fn follow<K>(api: Api<K>, config: watcher::Config, shared: &Shared)
where
    K: Resource + Indexed + Clone + Debug + DeserializeOwned + Send + 'static,
    K: AsMeta,
{
    let mut events: Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>> =
        Box::pin(watcher::watcher(api, config).default_backoff());
    let mut listed: BTreeSet<NamespacedName> = BTreeSet::new();
    let mut complete = false;
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                let kind = K::KIND;
                if complete {
                    tracing::debug!(kind, %error, "watch interrupted");
                } else {
                    tracing::warn!(kind, %error, "the ingress cannot read its routes yet");
                }
                continue;
            }
        };
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { index, unlisted } = &mut *seen;
        match event {
            Event::Apply(object) => object.apply(index),
            Event::Delete(object) => object.delete(index),
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(namespaced_name::of(object.as_meta()));
                object.apply(index);
            }
            Event::InitDone => {
                K::retain(index, &|key| listed.contains(key));
                *unlisted -= usize::from(!complete);
                complete = true;
            }
        }
        shared.changed.notify_one();
    }
}

/// What is common to the watched kinds, whose scopes differ.
trait AsMeta {
    const KIND: &'static str;
    fn as_meta(&self) -> &ObjectMeta;
}

impl<K: k8s_openapi::Metadata<Ty = ObjectMeta>> AsMeta for K {
    const KIND: &'static str = <K as k8s_openapi::Resource>::KIND;
    fn as_meta(&self) -> &ObjectMeta {
        self.metadata()
    }
}
