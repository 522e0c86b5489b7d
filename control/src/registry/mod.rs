//! The registry: the verbs of the API, the same for every kind.
//!
//! Fed by the HTTP side and by the controllers, who have authenticated and authorized the caller;
//! it writes to the store. The order of every write is: metadata → admission → the kind's hooks →
//! allocation → one write that expects the version it was decided on. It decodes no kind itself.
//!
//! - [`options`]: what verbs take and give
//! - [`metadata`]: what the server keeps of every object
//! - `read`, `create`, `update`, `scale`, `delete`, `pods`, `namespaces`: the verbs
//! - `quota`: what writes take of ResourceQuotas
//! - `views`: one stored form for kinds with two versions
//! - `certificates`: what the server writes into requests for certificates

mod certificates;
mod create;
mod delete;
mod metadata;
mod namespaces;
mod options;
mod pods;
mod quota;
mod read;
mod scale;
mod update;
mod views;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::{Durability, Kind, Table};
use serde_json::Value;

pub use options::{
    Caller, DeleteOptions, Deleted, List, ListOptions, Target, Warnings, WatchOptions, WriteOptions,
};

use crate::admission::{Admission, AdmissionConfig};
use crate::store::{
    Catalog, Collection, Draft, Fields, Key, Limits, Object, Revision, Store, StoreError, WriteError,
};

/// How often a write that lost a race is decided anew before its client is told.
const ATTEMPTS: usize = 16;

/// No object is stored that is larger: what the stock server's store takes by default.
pub const MAX_OBJECT_BYTES: usize = 1_572_864;

/// As long as the stock server keeps events after their last change.
const EVENT_TIME_TO_LIVE: Duration = Duration::from_secs(3600);

/// What the registry is set up with.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// What admission needs to know.
    pub admission: AdmissionConfig,
    /// How much of the past is kept.
    pub limits: Limits,
}

/// All objects and the verbs on them. Clones share one registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    table: Arc<Table>,
    admission: Admission,
}

/// What the store must know of kinds.
struct TableCatalog(Arc<Table>);

impl TableCatalog {
    fn find(&self, resource: &str) -> Option<&Arc<Kind>> {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        self.0.iter().find(|kind| kind.plural == plural && kind.group == group)
    }
}

impl Catalog for TableCatalog {
    fn is_lazy(&self, resource: &str) -> bool {
        self.find(resource).is_some_and(|kind| kind.durability == Durability::Lazy)
    }

    fn time_to_live(&self, resource: &str) -> Option<Duration> {
        (resource == "events").then_some(EVENT_TIME_TO_LIVE)
    }

    fn fields(&self, resource: &str, object: &Value) -> Fields {
        self.find(resource).map(|kind| selectable_fields(kind, object)).unwrap_or_default()
    }
}

fn selectable_fields(kind: &Kind, object: &Value) -> Fields {
    kind.selectable_fields.iter().map(|field| (field.name, (field.value)(object))).collect()
}

/// Why a write did not go through as decided.
enum Unwritten {
    /// The object, or what it belongs to, has changed meanwhile: decide anew.
    Raced,
    /// The answer is no.
    Refused(Refusal),
}

impl From<Refusal> for Unwritten {
    fn from(refusal: Refusal) -> Self {
        Unwritten::Refused(refusal)
    }
}

impl From<WriteError> for Unwritten {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict(_) | WriteError::Guard => Unwritten::Raced,
            WriteError::Refused(refusal) => Unwritten::Refused(refusal),
            WriteError::Closed => Unwritten::Refused(Refusal::unavailable("the server is shutting down")),
            WriteError::Fault(error) => Unwritten::Refused(Refusal::internal(error)),
        }
    }
}

impl Registry {
    /// Opens the store in this file, or makes it, and serves these kinds from it.
    pub fn open(path: &Path, table: Table, config: RegistryConfig) -> Result<Registry, StoreError> {
        let table = Arc::new(table);
        let store = Store::open(path, Arc::new(TableCatalog(table.clone())), config.limits)?;
        let admission = Admission::new(&store, config.admission);
        Ok(Registry(Arc::new(Inner { store, table, admission })))
    }

    /// The kinds that are served.
    pub fn kinds(&self) -> Arc<Table> {
        self.0.table.clone()
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

    /// Creates an object.
    ///
    /// # Errors
    /// 409 if the name is taken, 422 if the object is against its kind's rules, 404 or 403 if its
    /// namespace is not there or on its way out.
    pub async fn create(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        match self.viewed(kind) {
            None => self.create_stored(caller, kind, namespace, body, options).await,
            Some(viewed) => {
                let mut body = metadata::shape(kind, body)?;
                metadata::check_new(kind, &body)?;
                metadata::check_namespace(kind, namespace, &mut body)?;
                let body = viewed.to_stored((kind.hooks.create)(body)?);
                let made = self.create_stored(caller, &viewed.stored, namespace, body, options).await?;
                Ok(viewed.shown(kind, &made))
            }
        }
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

    /// Replaces an object, or one of its subresources. A body with a resourceVersion must have
    /// the current one; one without replaces whatever is there.
    ///
    /// # Errors
    /// 404 if there is no object, 409 if it has changed, 422 if the change is against the rules.
    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    pub async fn update(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        target: Target,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        match self.viewed(kind) {
            None => self.update_stored(caller, kind, namespace, name, target, body, options).await,
            Some(viewed) => {
                let body = viewed.to_stored(body);
                let made = self
                    .update_stored(caller, &viewed.stored, namespace, name, target, body, options)
                    .await?;
                Ok(viewed.shown(kind, &made))
            }
        }
    }

    /// Changes an object, or one of its subresources: `change` makes the new one of the current.
    /// Decided anew after a lost race, unless `change` asks for a resourceVersion of its own.
    ///
    /// # Errors
    /// As for [`Registry::update`], and what `change` refuses.
    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    pub async fn patch(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        target: Target,
        change: &(dyn Fn(&Value) -> Result<Value, Refusal> + Send + Sync),
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        match self.viewed(kind) {
            None => self.patch_stored(caller, kind, namespace, name, target, change, options).await,
            Some(viewed) => {
                let change = |stored: &Value| Ok(viewed.to_stored(change(&viewed.to_view(stored.clone()))?));
                let made = self
                    .patch_stored(caller, &viewed.stored, namespace, name, target, &change, options)
                    .await?;
                Ok(viewed.shown(kind, &made))
            }
        }
    }

    fn key(&self, kind: &Kind, namespace: &str, name: &str) -> Key {
        Key::new(resource_name(kind), if kind.namespaced { namespace } else { "" }, name)
    }

    fn draft(&self, kind: &Kind, key: Key, value: &Value) -> Draft {
        Draft::encode(key, value, selectable_fields(kind, value))
    }

    /// [`Registry::draft`] of what may not be too large to be stored, unless it was so before: an
    /// object that is there can be made smaller step by step, and get its status.
    fn bounded_draft(&self, kind: &Kind, key: Key, value: &Value, before: usize) -> Result<Draft, Refusal> {
        let draft = self.draft(kind, key, value);
        let size = draft.size();
        if size > MAX_OBJECT_BYTES && size > before {
            return Err(Refusal::entity_too_large(format_args!(
                "the object would have {size} bytes when it is stored, limit is {MAX_OBJECT_BYTES}"
            )));
        }
        Ok(draft)
    }
}

fn resource_name(kind: &Kind) -> String {
    kind.resource().to_string()
}

fn now() -> Timestamp {
    Timestamp::now()
}

fn is_core(kind: &Kind, name: &str) -> bool {
    kind.group.is_empty() && kind.kind == name
}

#[cfg(test)]
mod tests;
