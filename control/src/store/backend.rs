//! What keeps the objects of a store: the trait that its writer writes through.
//!
//! [`Disk`](super::disk::Disk) is a file of this machine, [`Memory`](super::memory::Memory) one that
//! tests can let fail and crash. How to add another one stands in `docs/adding-a-store.md`.

use std::collections::HashMap;
use std::sync::Arc;

use super::catalog::Catalog;
use super::error::StoreError;
use super::object::{Draft, Event, EventKind, Key, Object, Revision};

/// Keeps objects. Called by one thread, the writer's, which waits for each answer.
pub trait Backend: Send {
    /// Reads all that is there. Called once, before anything else.
    fn load(&mut self, catalog: &dyn Catalog) -> Result<Loaded, StoreError>;

    /// Makes all changes of a batch, or none, and gives each the revision that it has got, by
    /// [`Batch::at`]. They are durable when this returns, but for those that are lazy.
    fn commit(&mut self, batch: Batch) -> Result<Vec<Arc<Event>>, Failed>;

    /// The changes below `below` that others have made and that have not been told yet, in the order
    /// of their revisions. After a [`Failed::Fault`] they hold what has come of that commit, if it was
    /// made; nothing comes of it later.
    ///
    /// A backend that nobody else writes to has none.
    fn others(&mut self, _below: Revision) -> Result<Vec<Told>, StoreError> {
        Ok(Vec::new())
    }

    /// Takes what is to be called when there is something in [`Backend::others`].
    fn watch(&mut self, _wake: Wake) {}

    /// True while there is room only for what makes room again.
    fn is_full(&self) -> bool {
        false
    }

    /// Does what there is to do now and then, none of which may take long: writes wait. `all` does it
    /// whether or not its time has come, and leaves nothing that is not durable.
    fn maintain(&mut self, all: bool) -> Result<(), StoreError>;

    /// Makes everything durable. Nothing is called after it.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// Tells the writer that others have changed something.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// What is there at the start.
pub struct Loaded {
    /// Live objects per resource.
    pub objects: HashMap<Arc<str>, Vec<Arc<Object>>>,
    /// Recent changes per resource, oldest first.
    pub events: HashMap<Arc<str>, Vec<Arc<Event>>>,
    /// Changes up to this one are gone.
    pub compacted: Revision,
    /// The last revision there has been. None up to it is handed out again.
    pub revision: Revision,
}

/// A change that the writer has not been answered with.
pub struct Told {
    /// Of what.
    pub key: Key,
    /// When.
    pub revision: Revision,
    /// The object as it is since, with this revision; none if it is gone.
    pub object: Option<Arc<Object>>,
    /// True for what has come of this writer's last commit, whose answer was lost.
    pub own: bool,
}

/// Why a batch was not committed.
#[derive(Debug)]
pub enum Failed {
    /// What it was decided on has changed meanwhile: [`Backend::others`] tells what.
    Outdated,
    /// It could not be made, or nobody knows.
    Fault(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Fault(error)
    }
}

/// What a write does to one object.
pub enum Change {
    /// Makes or replaces it.
    Put(Draft),
    /// Removes it.
    Delete(Key),
}

impl Change {
    /// Which one.
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(draft) => draft.key(),
            Change::Delete(key) => key,
        }
    }
}

/// Changes that happen together, in this order.
#[derive(Default)]
pub struct Batch {
    /// An object may be changed more than once.
    pub changes: Vec<Planned>,
    /// What they were decided on. All of it must still be so, unless nobody else writes.
    pub reads: Reads,
}

/// A change that is decided.
pub struct Planned {
    /// What it does.
    pub change: Change,
    /// What is there before it.
    pub previous: Option<Previous>,
    /// True if it need not be durable before it is acknowledged.
    pub lazy: bool,
}

/// What is there before a change.
#[derive(Clone)]
pub enum Previous {
    /// An object that is stored.
    Stored(Arc<Object>),
    /// What this change of the same batch has put there.
    InBatch(usize),
}

/// What has been read of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Objects with their revisions; 0 for one that is not there. One may stand here twice.
    pub objects: Vec<(Key, Revision)>,
    /// All objects of a resource, in one namespace or in all.
    pub collections: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// Of the collections, every change up to this revision was seen.
    pub seen: Revision,
}

impl Batch {
    /// The changes as they are shown, each at the revision that `next` gives.
    ///
    /// # Panics
    /// If the batch removes what is not there, which the writer rules out.
    pub fn at(self, mut next: impl FnMut() -> Revision) -> Vec<Arc<Event>> {
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(self.changes.len());
        for Planned { change, previous, .. } in self.changes {
            let previous = previous.map(|previous| match previous {
                Previous::Stored(object) => object,
                Previous::InBatch(index) => events[index].object.clone(),
            });
            let (kind, object) = match (change, &previous) {
                (Change::Put(draft), None) => (EventKind::Added, draft.at_revision(next())),
                (Change::Put(draft), Some(_)) => (EventKind::Modified, draft.at_revision(next())),
                (Change::Delete(_), previous) => {
                    let last = previous.as_ref().expect("only what is there is removed");
                    (EventKind::Deleted, last.at_revision(next()))
                }
            };
            events.push(Arc::new(Event::new(kind, Arc::new(object), previous)));
        }
        events
    }
}
