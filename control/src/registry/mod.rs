//! The registry: the verbs of the API, the same for every kind.
//!
//! Fed by the HTTP side and by the controllers, who have authenticated and authorized the caller.
//! What is to be written goes the [one way of every write](crate::write). It decodes no kind itself.
//!
//! - [`options`]: what verbs that read take and give
//! - `read`, `change`: the verbs
//! - `pods`, `quota`: what is done to pods and quotas beside that
//! - `views`: one stored form for kinds with two versions

mod change;
mod options;
mod pods;
mod quota;
mod read;
mod views;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::{Durability, Kind, Table};
use proa_logic::controllers::election;
use serde_json::Value;
use tokio::sync::watch;

pub use crate::write::request::{Caller, DeleteOptions, Warnings, WriteOptions};
pub use options::{List, ListOptions, WatchOptions};

use crate::store::{
    Backend, Catalog, Collection, Driver, Fields, Key, Limits, Object, Revision, Store, StoreError,
    WriteError,
};
pub use crate::write::Outcome;
use crate::write::Pipeline;
use crate::write::ambient::{Ambient, Machine};
use crate::write::stage::Stage;
use crate::write::stages::{self, StagesConfig};

/// What the registry is set up with.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// What the stages of writes need to know.
    pub stages: StagesConfig,
    /// How much of the past is kept.
    pub limits: Limits,
}

/// All objects and the verbs on them. Clones share one registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    table: Kinds,
    pipeline: Pipeline,
}

/// The table of the kinds that are served now.
type Kinds = Arc<watch::Sender<Arc<Table>>>;

/// What the store must know of kinds.
struct TableCatalog(Kinds);

impl TableCatalog {
    fn find(&self, resource: &str) -> Option<Arc<Kind>> {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        self.0.borrow().stored().find(|kind| kind.plural == plural && kind.group == group).cloned()
    }
}

impl Catalog for TableCatalog {
    fn is_lazy(&self, resource: &str) -> bool {
        self.find(resource).is_some_and(|kind| kind.durability == Durability::Lazy)
    }

    fn goes_ahead(&self, key: &Key) -> bool {
        (&*key.resource, &*key.namespace, &*key.name)
            == ("leases.coordination.k8s.io", election::NAMESPACE, election::NAME)
    }

    fn time_to_live(&self, resource: &str) -> Option<Duration> {
        self.find(resource)?.time_to_live
    }

    fn fields(&self, resource: &str, object: &Value) -> Fields {
        self.find(resource).map(|kind| kind.fields(object)).unwrap_or_default()
    }
}

impl Registry {
    /// Opens the store in this file, or makes it, and serves these kinds from it.
    pub fn open(path: &Path, table: Table, config: RegistryConfig) -> Result<Registry, StoreError> {
        let table = Arc::new(watch::Sender::new(Arc::new(table)));
        let store = Store::open(path, Arc::new(TableCatalog(table.clone())), config.limits)?;
        Ok(Registry::on(store, table, &config.stages, Arc::new(Machine)))
    }

    /// Serves these kinds from what this backend keeps. It writes when the driver is told to, and takes
    /// the time and chance from outside: for tests that can be repeated.
    pub fn driven(
        backend: Box<dyn Backend>,
        table: Table,
        config: RegistryConfig,
        ambient: Arc<dyn Ambient>,
    ) -> Result<(Registry, Driver), StoreError> {
        let table = Arc::new(watch::Sender::new(Arc::new(table)));
        let (store, driver) = Store::driven(backend, Arc::new(TableCatalog(table.clone())), config.limits)?;
        Ok((Registry::on(store, table, &config.stages, ambient), driver))
    }

    fn on(store: Store, table: Kinds, config: &StagesConfig, ambient: Arc<dyn Ambient>) -> Registry {
        let pipeline = Pipeline::new(store.clone(), stages::all(config), ambient);
        Registry(Arc::new(Inner { store, table, pipeline }))
    }

    /// One more stage that writes pass, after the others.
    pub fn add_stage(&self, stage: Arc<dyn Stage>) {
        self.0.pipeline.add_stage(stage);
    }

    /// The store, for indexes that are kept beside it.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The kinds that are served now.
    pub fn kinds(&self) -> Arc<Table> {
        self.0.table.borrow().clone()
    }

    /// The kinds that are served, for those who follow their changes.
    pub fn follow_kinds(&self) -> watch::Receiver<Arc<Table>> {
        self.0.table.subscribe()
    }

    /// Serves one more kind, or serves it in another way: under the same group, version and plural.
    /// Watches of the row that was there end. What the store holds of it already keeps the selectable
    /// fields that it had when it was written, or read at the start, until it is written again.
    pub fn insert(&self, kind: Kind) {
        self.0.table.send_modify(|table| *table = Arc::new(table.with(kind)));
    }

    /// Serves a kind no longer. Its watches end; its objects stay in the store, where nobody sees them.
    pub fn remove(&self, group: &str, version: &str, plural: &str) {
        self.0.table.send_modify(|table| *table = Arc::new(table.without(group, version, plural)));
    }

    /// The time that writes take.
    pub fn now(&self) -> Timestamp {
        self.0.pipeline.ambient().now()
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.0.store.revision()
    }

    /// The objects of one resource as the store holds them, such as `roles.rbac.authorization.k8s.io`:
    /// for indexes that are kept beside it.
    pub fn collection(&self, resource: &str) -> Arc<Collection> {
        self.0.store.collection(resource)
    }

    /// Saves everything; later writes are refused with 503 and watches end.
    pub async fn close(&self) -> Result<(), WriteError> {
        self.0.store.close().await
    }

    /// One object.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Refusal> {
        match self.viewed(kind) {
            None => self.get_stored(kind, namespace, name),
            Some(viewed) => {
                let found = self.get_stored(&viewed.stored, namespace, name);
                let found = found.map_err(|_| Refusal::not_found(kind.resource(), name))?;
                Ok(viewed.shown(kind, &found))
            }
        }
    }
}

fn resource_name(kind: &Kind) -> String {
    kind.resource().to_string()
}

#[cfg(test)]
mod tests;
