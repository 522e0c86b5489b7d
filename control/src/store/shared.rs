//! What the writer and the readers of a store share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::backend::Loaded;
use super::catalog::Catalog;
use super::collection::Collection;
use super::object::Revision;

/// What the writer and the readers share.
pub(super) struct Shared {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) collections: RwLock<HashMap<Arc<str>, Arc<Collection>>>,
    /// The last revision that all collections show.
    pub(super) published: AtomicU64,
    /// Where the windows of collections begin that the disk knows nothing of.
    pub(super) compacted: Revision,
    pub(super) started_at: Revision,
}

impl Shared {
    pub(super) fn new(catalog: Arc<dyn Catalog>, loaded: Loaded) -> Shared {
        let Loaded { mut objects, mut events, compacted, revision } = loaded;
        let published = AtomicU64::new(revision);
        let shared =
            Shared { catalog, collections: RwLock::default(), published, compacted, started_at: revision };
        let mut resources: Vec<Arc<str>> = objects.keys().chain(events.keys()).cloned().collect();
        resources.sort_unstable();
        resources.dedup();
        for resource in resources {
            let objects = objects.remove(&resource).unwrap_or_default();
            let events = events.remove(&resource).unwrap_or_default();
            let collection = Collection::new(shared.floor(&resource), objects, events);
            shared.collections.write().expect("just made").insert(resource, Arc::new(collection));
        }
        shared
    }

    pub(super) fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    pub(super) fn collection(&self, resource: &str) -> Arc<Collection> {
        let known = self.collections.read().expect("nothing panics under this lock").get(resource).cloned();
        known.unwrap_or_else(|| {
            let mut collections = self.collections.write().expect("nothing panics under this lock");
            let floor = self.floor(resource);
            let make = || Arc::new(Collection::new(floor, Vec::new(), Vec::new()));
            collections.entry(resource.into()).or_insert_with(make).clone()
        })
    }

    /// Changes of lazy resources are not kept on disk: a watch on one cannot go back beyond the
    /// start.
    pub(super) fn floor(&self, resource: &str) -> Revision {
        if self.catalog.is_lazy(resource) { self.started_at } else { self.compacted }
    }

    pub(super) fn all(&self) -> Vec<Arc<Collection>> {
        self.collections.read().expect("nothing panics under this lock").values().cloned().collect()
    }
}
