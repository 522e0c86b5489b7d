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
mod catalog;
pub mod collection;
pub mod disk;
mod limits;
pub mod object;
mod queue;
mod shared;
pub mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::thread::JoinHandle;

use proa_api::Refusal;
use tokio::sync::oneshot;

pub use catalog::Catalog;
pub use collection::{After, Collection, TooOld, WindowLimits};
pub use disk::{DiskLimits, StoreError};
pub use limits::Limits;
pub use object::{Draft, Event, EventKind, Fields, Key, Object, Revision, watch_line};
pub use queue::QueueLimits;
pub use writer::{Change, Expect, Live, Settle, Write, WriteError};

use disk::Disk;
use queue::Queue;
use shared::Shared;
use writer::{Request, Waiting, Writer};

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
    /// For writes that go before those among the requests.
    ahead: mpsc::Sender<Waiting>,
    writer: Mutex<Option<JoinHandle<()>>>,
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
        let (ahead, waiting_ahead) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&waiting, &waiting_ahead))
            .map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let handle = Handle { requests: Mutex::new(Some(requests)), ahead, writer: Mutex::new(Some(thread)) };
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
        let (key, bytes) = match &write.change {
            Change::Put(draft) => (&draft.key, draft.size()),
            Change::Delete(key) => (key, 0),
        };
        let goes_ahead = self.shared.catalog.goes_ahead(key);
        let place = match goes_ahead {
            true => None,
            false => Some(self.queue.enter(bytes, &self.limits).ok_or(WriteError::Busy)?),
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { write, settle, answer, _place: place };
        let sent = match goes_ahead {
            true => self.handle.send_ahead(waiting),
            false => self.handle.send(Request::Write(waiting)),
        };
        if !sent {
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

    fn send_ahead(&self, waiting: Waiting) -> bool {
        self.ahead.send(waiting).is_ok() && self.send(Request::Ahead)
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
