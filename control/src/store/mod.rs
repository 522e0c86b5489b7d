//! The store: all objects in memory, every acknowledged change on disk, one counter of revisions.
//!
//! Fed by the registry through [`Store::write`]; read by the registry and by watches through
//! [`Collection`]. It knows keys, labels, selectable fields and JSON bytes, never kinds.
//!
//! - [`object`]: what is stored, and the events that changes become
//! - [`collection`]: the live objects and recent events of one resource
//! - [`disk`]: the redb file
//! - `queue`: how many writes may wait
//! - `ballast`: room on the disk that is kept for it
//! - [`writer`]: the one thread that changes both

mod ballast;
pub mod collection;
pub mod disk;
pub mod object;
mod queue;
pub mod writer;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use proa_api::Refusal;
use serde_json::Value;
use tokio::sync::oneshot;

pub use collection::{After, Collection, TooOld, WindowLimits};
pub use disk::{DiskLimits, StoreError};
pub use object::{Draft, Event, EventKind, Fields, Key, Object, Revision, watch_line};
pub use queue::QueueLimits;
pub use writer::{Change, Expect, Live, Settle, Write, WriteError};

use disk::Disk;
use queue::Queue;
use writer::{Request, Waiting, Writer};

/// What the store must be told of a resource.
pub trait Catalog: Send + Sync {
    /// True if writes need not be on disk before they are acknowledged. Must not change while a
    /// store is open.
    fn is_lazy(&self, resource: &str) -> bool;
    /// How long objects live after their last change, if they do not live until they are deleted.
    /// Counted anew after a restart.
    fn time_to_live(&self, resource: &str) -> Option<Duration>;
    /// The selectable fields of an object.
    fn fields(&self, resource: &str, object: &Value) -> Fields;
}

/// How much of the past is kept, and how often that is looked after.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The past in memory: how far a watch can lag or go back.
    pub window: WindowLimits,
    /// The past on disk: how far a watch can go back after a restart.
    pub disk: DiskLimits,
    /// Lazy writes wait at most this long.
    pub lazy_age: Duration,
    /// How many writes may wait.
    pub queue: QueueLimits,
    /// How often all this is looked at.
    pub maintenance_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let age = Duration::from_secs(300);
        Limits {
            window: WindowLimits { age, events: 50_000, bytes: 16 << 20 },
            disk: DiskLimits {
                age,
                changes: 50_000,
                change_bytes_min: 2 << 20,
                compact_interval: Duration::from_secs(600),
            },
            lazy_age: Duration::from_secs(300),
            queue: QueueLimits::default(),
            maintenance_interval: Duration::from_secs(30),
        }
    }
}

/// An open store. Clones share it; the last one that is dropped closes it.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
    shared: Arc<Shared>,
    queue: Queue,
    limits: QueueLimits,
}

struct Handle {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers share.
struct Shared {
    catalog: Arc<dyn Catalog>,
    collections: RwLock<HashMap<Arc<str>, Arc<Collection>>>,
    /// The last revision that all collections show.
    published: AtomicU64,
    /// Where the windows of collections begin that the disk knows nothing of.
    compacted: Revision,
    started_at: Revision,
}

impl Shared {
    fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    fn collection(&self, resource: &str) -> Arc<Collection> {
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
    fn floor(&self, resource: &str) -> Revision {
        if self.catalog.is_lazy(resource) { self.started_at } else { self.compacted }
    }

    fn all(&self) -> Vec<Arc<Collection>> {
        self.collections.read().expect("nothing panics under this lock").values().cloned().collect()
    }
}

impl Store {
    /// Opens the store in this file, or makes it.
    pub fn open(path: &Path, catalog: Arc<dyn Catalog>, limits: Limits) -> Result<Store, StoreError> {
        let (disk, loaded) = Disk::open(path, &*catalog, limits.disk)?;
        let shared = Arc::new(Shared {
            catalog,
            collections: RwLock::default(),
            published: AtomicU64::new(loaded.ceiling),
            compacted: loaded.compacted,
            started_at: loaded.ceiling,
        });
        let mut events = loaded.events;
        let mut objects = loaded.objects;
        let mut resources: Vec<Arc<str>> = objects.keys().chain(events.keys()).cloned().collect();
        resources.dedup();
        for resource in resources {
            let (objects, events) = (objects.remove(&resource), events.remove(&resource));
            if objects.is_none() && events.is_none() {
                continue;
            }
            let floor = shared.floor(&resource);
            let collection = Collection::new(floor, objects.unwrap_or_default(), events.unwrap_or_default());
            shared.collections.write().expect("just made").insert(resource, Arc::new(collection));
        }
        let mut writer = Writer::new(shared.clone(), disk, limits, loaded.ceiling);
        writer.start()?;
        let (requests, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let handle = Handle { requests: Mutex::new(Some(requests)), writer: Mutex::new(Some(thread)) };
        Ok(Store { handle: Arc::new(handle), shared, queue: Queue::default(), limits: limits.queue })
    }

    /// Makes one change. Returns once it is visible to all readers and, unless its resource is
    /// lazy, on disk.
    pub async fn write(&self, write: Write) -> Result<Arc<Object>, WriteError> {
        self.write_and_settle(write, Vec::new()).await
    }

    /// The same, with what is decided of it on what is there at that moment. All that comes of it
    /// happens, or nothing.
    pub async fn write_and_settle(
        &self,
        write: Write,
        settle: Vec<Settle>,
    ) -> Result<Arc<Object>, WriteError> {
        let bytes = match &write.change {
            Change::Put(draft) => draft.size(),
            Change::Delete(_) => 0,
        };
        let place = Some(self.queue.enter(bytes, &self.limits).ok_or(WriteError::Busy)?);
        let (answer, answered) = oneshot::channel();
        if !self.handle.send(Request::Write(Waiting { write, settle, answer, _place: place })) {
            return Err(WriteError::Closed);
        }
        answered.await.unwrap_or(Err(WriteError::Closed))
    }

    /// What [`Store::write_and_settle`] would write now, without doing it.
    pub fn settle_dry(&self, mut draft: Draft, settle: &[Settle]) -> Result<Draft, Refusal> {
        let overlay = BTreeMap::new();
        let live = Live::new(&self.shared, &overlay);
        for settle in settle {
            settle(&live, Some(&mut draft))?;
        }
        Ok(draft)
    }

    /// The objects of one resource, `pods` or `deployments.apps`.
    pub fn collection(&self, resource: &str) -> Arc<Collection> {
        self.shared.collection(resource)
    }

    /// The revision of the last change that every reader sees.
    pub fn revision(&self) -> Revision {
        self.shared.published()
    }

    /// Does the upkeep of files and windows now instead of at its time.
    pub async fn maintain(&self) -> Result<(), WriteError> {
        self.ask(Request::Maintain).await
    }

    /// Saves everything and ends the writer; later writes are refused. Watches end.
    pub async fn close(&self) -> Result<(), WriteError> {
        self.ask(Request::Close).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), Arc<StoreError>>>) -> Request,
    ) -> Result<(), WriteError> {
        let (answer, answered) = oneshot::channel();
        if !self.handle.send(request(answer)) {
            return Err(WriteError::Closed);
        }
        answered.await.map_err(|_| WriteError::Closed)?.map_err(WriteError::Fault)
    }
}

impl Handle {
    fn send(&self, request: Request) -> bool {
        let requests = self.requests.lock().expect("nothing panics under this lock");
        requests.as_ref().is_some_and(|requests| requests.send(request).is_ok())
    }
}

impl Drop for Handle {
    /// Waits for the last commit, so that a store can be opened again at once.
    fn drop(&mut self) {
        if let Ok(requests) = self.requests.get_mut() {
            *requests = None;
        }
        let thread = self.writer.get_mut().ok().and_then(Option::take);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[cfg(test)]
mod tests;
