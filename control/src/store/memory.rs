//! A store in memory for tests, which several writers may share, and in which commits fail, or are
//! made and their writer is not told.
//!
//! It outlives the stores that are opened on it: what a crash leaves is what was durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::{Backend, Batch, Failed, Loaded, Reads, Told, Wake};
use super::catalog::Catalog;
use super::error::StoreError;
use super::object::{Event, EventKind, Key, Object, Revision};

/// A list of an empty store has this one: 0 means something else to clients.
const FIRST_REVISION: Revision = 1;

/// The store. Clones share it.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Contents>>);

/// How often something has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A commit was not made.
    pub refused: u64,
    /// A commit was made, and the answer was lost.
    pub unanswered: u64,
    /// What a commit was decided on had changed.
    pub outdated: u64,
}

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not made.
    Refused,
    /// It is made, and the answer is lost.
    Unanswered,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<Key, Arc<Object>>,
    /// What objects were when they were durable, where that is something else.
    durable: BTreeMap<Key, Option<Arc<Object>>>,
    revision: Revision,
    log: Vec<Entry>,
    /// What happens to the next commits.
    faults: VecDeque<Option<Fault>>,
    /// Nobody is told what is new.
    lags: bool,
    counts: Counts,
    /// Who is to be woken, by the number of the writer.
    wakes: BTreeMap<usize, Wake>,
    writers: usize,
}

struct Entry {
    event: Arc<Event>,
    /// The writer that has made it.
    by: usize,
    /// True if that writer knows.
    answered: bool,
}

impl Memory {
    /// One more writer of it.
    pub fn backend(&self) -> Box<dyn Backend> {
        let mut contents = self.contents();
        contents.writers += 1;
        Box::new(Writer { memory: self.clone(), number: contents.writers, read: 0 })
    }

    /// What happens to the next commits that have something durable, in order.
    pub fn fail(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.contents().faults.extend(faults);
    }

    /// From now on no writer is told what others have written, or until one could not commit for that.
    pub fn lag(&self, lags: bool) {
        self.contents().lags = lags;
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.contents().counts
    }

    /// Loses all that is not durable. Whoever has it open may not go on with what it knows.
    pub fn crash(&self) {
        let mut contents = self.contents();
        for (key, object) in std::mem::take(&mut contents.durable) {
            match object {
                Some(object) => contents.objects.insert(key, object),
                None => contents.objects.remove(&key),
            };
        }
        contents.faults.clear();
        contents.wakes.clear();
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Why a batch cannot be committed: what it was decided on has changed.
    fn is_outdated(&self, reads: &Reads) -> bool {
        let revision = |key: &Key| self.objects.get(key).map_or(0, |object| object.revision);
        let newer = self.log.iter().rev().take_while(|entry| entry.event.revision > reads.seen);
        let mut changed = newer.map(|entry| &entry.event.object.key);
        reads.objects.iter().any(|(key, seen)| revision(key) != *seen)
            || changed.any(|key| {
                reads.collections.iter().any(|(resource, namespace)| {
                    *resource == key.resource && namespace.as_ref().is_none_or(|n| *n == key.namespace)
                })
            })
    }

    /// Makes the changes of a batch, for all to see.
    fn make(&mut self, batch: Batch, by: usize, answered: bool) -> Vec<Arc<Event>> {
        let lazy: Vec<bool> = batch.changes.iter().map(|planned| planned.lazy).collect();
        let events = batch.at(|| {
            self.revision = self.revision.max(FIRST_REVISION) + 1;
            self.revision
        });
        for event in &events {
            let key = event.object.key.clone();
            let before = match event.kind {
                EventKind::Deleted => self.objects.remove(&key),
                EventKind::Added | EventKind::Modified => {
                    self.objects.insert(key.clone(), event.object.clone())
                }
            };
            self.durable.entry(key).or_insert(before);
            self.log.push(Entry { event: event.clone(), by, answered });
        }
        // What is lazy rides on the next commit that is not.
        if lazy.iter().any(|lazy| !lazy) {
            self.durable.clear();
        }
        for (_, wake) in self.wakes.iter().filter(|(number, _)| **number != by) {
            wake();
        }
        events
    }
}

/// One writer of it.
struct Writer {
    memory: Memory,
    number: usize,
    /// How much of the log it has been told.
    read: usize,
}

impl Backend for Writer {
    fn load(&mut self, catalog: &dyn Catalog) -> Result<Loaded, StoreError> {
        let contents = self.memory.contents();
        self.read = contents.log.len();
        let mut objects: HashMap<Arc<str>, Vec<Arc<Object>>> = HashMap::new();
        for object in contents.objects.values() {
            let object = Object {
                fields: catalog.fields(&object.key.resource, &object.value()),
                ..object.at_revision(object.revision)
            };
            objects.entry(object.key.resource.clone()).or_default().push(Arc::new(object));
        }
        let revision = contents.revision.max(FIRST_REVISION);
        // Whoever watched before begins anew.
        Ok(Loaded { objects, events: HashMap::new(), compacted: revision, revision })
    }

    fn commit(&mut self, batch: Batch) -> Result<Vec<Arc<Event>>, Failed> {
        let mut contents = self.memory.contents();
        if contents.is_outdated(&batch.reads) {
            contents.counts.outdated += 1;
            contents.lags = false;
            return Err(Failed::Outdated);
        }
        let is_durable = batch.changes.iter().any(|planned| !planned.lazy);
        let fault = if is_durable { contents.faults.pop_front().flatten() } else { None };
        match fault {
            None => return Ok(contents.make(batch, self.number, true)),
            Some(Fault::Refused) => contents.counts.refused += 1,
            Some(Fault::Unanswered) => {
                contents.counts.unanswered += 1;
                contents.make(batch, self.number, false);
            }
        }
        let source = io::Error::other("it was made to fail");
        Err(Failed::Fault(StoreError::Io { path: PathBuf::from("memory"), source }))
    }

    fn others(&mut self, below: Revision) -> Result<Vec<Told>, StoreError> {
        let contents = self.memory.contents();
        let is_own = |entry: &Entry| entry.by == self.number && !entry.answered;
        let is_pressing = below < Revision::MAX || contents.log[self.read..].iter().any(is_own);
        if contents.lags && !is_pressing {
            return Ok(Vec::new());
        }
        let news = contents.log[self.read..].iter().take_while(|entry| entry.event.revision < below);
        let (mut told, mut read) = (Vec::new(), 0);
        for Entry { event, by, answered } in news {
            read += 1;
            let own = *by == self.number;
            if !own || !answered {
                let object = (event.kind != EventKind::Deleted).then(|| event.object.clone());
                told.push(Told { key: event.object.key.clone(), revision: event.revision, object, own });
            }
        }
        self.read += read;
        Ok(told)
    }

    fn watch(&mut self, wake: Wake) {
        self.memory.contents().wakes.insert(self.number, wake);
    }

    fn maintain(&mut self, all: bool) -> Result<(), StoreError> {
        if all {
            self.memory.contents().durable.clear();
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let mut contents = self.memory.contents();
        contents.wakes.remove(&self.number);
        contents.durable.clear();
        Ok(())
    }
}
