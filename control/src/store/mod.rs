//! The store: all objects in memory, every acknowledged change on disk, one counter of revisions.
//!
//! Fed by the registry through [`Store::write`]; read by the registry and by watches through
//! [`Collection`]. It knows keys, labels, selectable fields and JSON bytes, never kinds.
//!
//! - [`object`]: what is stored, and the events that changes become
//! - [`collection`]: the live objects and recent events of one resource
//! - [`backend`]: what keeps them: [`disk`], a redb file, or [`memory`], for tests
//! - `ballast`: room on the disk that is kept for it
//! - `queue`: how many writes may wait
//! - [`live`]: what is there when a write is decided
//! - [`writer`]: what decides writes, has them committed and shows them

pub mod backend;
mod ballast;
mod catalog;
pub mod collection;
pub mod disk;
pub mod error;
mod limits;
pub mod live;
pub mod memory;
pub mod object;
mod queue;
mod shared;
pub mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use proa_api::Refusal;
use tokio::sync::{Notify, oneshot};

pub use backend::{Backend, Change};
pub use catalog::Catalog;
pub use collection::{After, Collection, TooOld, WindowLimits};
pub use disk::DiskLimits;
pub use error::StoreError;
pub use limits::Limits;
pub use live::{Live, Settle};
pub use object::{Draft, Event, EventKind, Fields, Key, Object, Revision, watch_line};
pub use queue::QueueLimits;
pub use writer::{Expect, Write, WriteError};

use disk::Disk;
use live::Decided;
use queue::Queue;
use shared::Shared;
use writer::{Request, Requests, Waiting, Writer};

/// An open store. Clones share it; the last one that is dropped closes it.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
    shared: Arc<Shared>,
    queue: Queue,
    limits: QueueLimits,
}

struct Handle {
    requests: mpsc::Sender<Request>,
    /// For writes that go before those among the requests.
    ahead: mpsc::Sender<Waiting>,
    /// Where the writer has no thread of its own: that it has been asked for something.
    asked: Arc<Notify>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The writer of a store that works only when it is told to, for tests in which nothing happens by
/// itself.
pub struct Driver {
    writer: Writer,
    requests: Requests,
    asked: Arc<Notify>,
}

impl Store {
    /// Opens the store in this file, or makes it.
    pub fn open(path: &Path, catalog: Arc<dyn Catalog>, limits: Limits) -> Result<Store, StoreError> {
        let disk = Disk::at(path, limits.disk, limits.lazy_age);
        let (store, driver) = Store::driven(Box::new(disk), catalog, limits)?;
        let Driver { writer, requests, .. } = driver;
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&requests))
            .map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        *store.handle.writer.lock().expect("nothing panics under this lock") = Some(thread);
        Ok(store)
    }

    /// Opens the store that this backend keeps. Nothing is written but by the driver.
    pub fn driven(
        mut backend: Box<dyn Backend>,
        catalog: Arc<dyn Catalog>,
        limits: Limits,
    ) -> Result<(Store, Driver), StoreError> {
        let loaded = backend.load(&*catalog)?;
        let shared = Arc::new(Shared::new(catalog, loaded));
        let (requests, waiting) = mpsc::channel();
        let (ahead, waiting_ahead) = mpsc::channel();
        let asked = Arc::new(Notify::new());
        let (others, told) = (requests.clone(), asked.clone());
        backend.watch(Box::new(move || {
            // A store that is closed has no use for it.
            if others.send(Request::Others).is_ok() {
                told.notify_one();
            }
        }));
        let handle = Handle { requests, ahead, asked: asked.clone(), writer: Mutex::new(None) };
        let writer = Writer::new(shared.clone(), backend, limits);
        let store = Store { handle: Arc::new(handle), shared, queue: Queue::default(), limits: limits.queue };
        let requests = Requests { waiting, ahead: waiting_ahead };
        Ok((store, Driver { writer, requests, asked }))
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
        let decided = Decided::default();
        let live = Live::new(&self.shared, &decided);
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

impl Driver {
    /// Waits until the writer has been asked for something.
    pub async fn asked(&mut self) {
        self.asked.notified().await;
    }

    /// Lets the writer work whenever it is asked for something, until the store is closed.
    pub async fn run(mut self) {
        while self.turn() {
            self.asked().await;
        }
    }

    /// Lets the writer do all that it has been asked for. False once the store is closed.
    pub fn turn(&mut self) -> bool {
        self.writer.serve(None, &self.requests).is_continue()
    }
}

impl Handle {
    fn send(&self, request: Request) -> bool {
        let sent = self.requests.send(request).is_ok();
        if sent {
            self.asked.notify_one();
        }
        sent
    }

    fn send_ahead(&self, waiting: Waiting) -> bool {
        self.ahead.send(waiting).is_ok() && self.send(Request::Ahead)
    }
}

impl Drop for Handle {
    /// Waits for the last commit, so that a store can be opened again at once.
    fn drop(&mut self) {
        self.send(Request::Close(oneshot::channel().0));
        let thread = self.writer.get_mut().ok().and_then(Option::take);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[cfg(test)]
mod tests;
