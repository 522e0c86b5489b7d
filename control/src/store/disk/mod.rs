//! The store's file on this machine, in redb.
//!
//! Lazy changes wait in memory and ride on the next commit. The file holds:
//!
//! | table | key | value |
//! |---|---|---|
//! | `objects` | `resource NUL namespace NUL name` | header, JSON |
//! | `changes` | revision | kind, key, the version before (header, JSON) |
//! | `meta` | name | number |
//!
//! A change holds only the version that it replaced: the one that it made is the one that the
//! next change of the object replaced, or the live one. So a create is written once.
//!
//! - `entry`: how an entry is written and read
//! - `file`: how the file is opened, read at start and written to

mod entry;
mod file;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use file::DiskLimits;

use super::backend::{Backend, Batch, Failed, Loaded};
use super::catalog::Catalog;
use super::error::StoreError;
use super::object::{Event, EventKind, Key, Object, Revision};
use file::{Commit, File};

/// Revisions are reserved in the file in blocks of this many.
const REVISION_BLOCK: Revision = 10_000;
/// Waiting lazy changes above this many bytes are committed.
const LAZY_LIMIT_BYTES: usize = 4 << 20;

/// The store's file. Nobody else writes to it while it is open.
pub struct Disk {
    path: PathBuf,
    limits: DiskLimits,
    /// Lazy changes wait at most this long.
    lazy_age: Duration,
    /// None before it is loaded.
    file: Option<File>,
    /// The last revision that was handed out.
    revision: Revision,
    /// The last that is reserved in the file.
    ceiling: Revision,
    /// Lazy changes that are not in the file, the newest of each object.
    lazy: HashMap<Key, Option<Arc<Object>>>,
    lazy_bytes: usize,
    lazy_since: Option<Instant>,
    /// What a commit that failed may have left in the file all the same. The next one puts it right.
    unsure: BTreeMap<Key, Unsure>,
}

/// An object that a failed commit has changed.
struct Unsure {
    /// As it is.
    object: Option<Arc<Object>>,
    /// The changes that have not happened.
    changes: Vec<Revision>,
}

impl Disk {
    /// The store in this file, which is made if it is not there.
    pub fn at(path: &Path, limits: DiskLimits, lazy_age: Duration) -> Disk {
        Disk {
            path: path.to_owned(),
            limits,
            lazy_age,
            file: None,
            revision: 0,
            ceiling: 0,
            lazy: HashMap::new(),
            lazy_bytes: 0,
            lazy_since: None,
            unsure: BTreeMap::new(),
        }
    }

    fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("it is loaded before anything else")
    }

    /// Writes these changes and all lazy ones that wait. `reserve` is how many revisions beyond the
    /// last one are kept reserved.
    fn save(&mut self, events: &[(Arc<Event>, bool)], reserve: Revision) -> Result<(), StoreError> {
        let mut commit = Commit::default();
        // The newest version of an object that is changed twice in one batch comes last and wins.
        let mut latest: HashMap<&Key, Option<&Object>> = HashMap::new();
        latest.extend(self.unsure.iter().map(|(key, unsure)| (key, unsure.object.as_deref())));
        latest.extend(self.lazy.iter().map(|(key, object)| (key, object.as_deref())));
        for (event, lazy) in events {
            latest.insert(&event.object.key, live(event).map(|object| &**object));
            if !lazy {
                commit.changes.push(event);
            }
        }
        commit.objects.extend(latest);
        commit.forget.extend(self.unsure.values().flat_map(|unsure| unsure.changes.iter().copied()));
        let ceiling = self.revision + reserve;
        if self.revision + reserve / 4 >= self.ceiling || reserve == 0 {
            commit.ceiling = Some(ceiling);
        }
        self.file.as_mut().expect("it is loaded before anything else").commit(&commit)?;
        self.ceiling = commit.ceiling.unwrap_or(self.ceiling);
        self.unsure.clear();
        self.lazy.clear();
        self.lazy_bytes = 0;
        self.lazy_since = None;
        Ok(())
    }

    fn keep_for_later(&mut self, events: &[(Arc<Event>, bool)]) {
        for (event, _) in events {
            self.lazy_bytes += event.object.bytes.len();
            self.lazy.insert(event.object.key.clone(), live(event).cloned());
        }
        if !events.is_empty() {
            self.lazy_since.get_or_insert_with(Instant::now);
        }
    }

    fn mark_unsure(&mut self, events: &[(Arc<Event>, bool)]) {
        for (event, _) in events {
            let as_before = || Unsure { object: event.previous.clone(), changes: Vec::new() };
            let unsure = self.unsure.entry(event.object.key.clone()).or_insert_with(as_before);
            unsure.changes.push(event.revision);
        }
    }
}

impl Backend for Disk {
    fn load(&mut self, catalog: &dyn Catalog) -> Result<Loaded, StoreError> {
        let (file, loaded) = File::open(&self.path, catalog, self.limits)?;
        self.file = Some(file);
        (self.revision, self.ceiling) = (loaded.revision, loaded.revision);
        self.save(&[], REVISION_BLOCK)?;
        Ok(loaded)
    }

    fn commit(&mut self, batch: Batch) -> Result<Vec<Arc<Event>>, Failed> {
        let lazy: Vec<bool> = batch.changes.iter().map(|planned| planned.lazy).collect();
        let events = batch.at(|| {
            self.revision += 1;
            self.revision
        });
        let events: Vec<(Arc<Event>, bool)> = events.into_iter().zip(lazy).collect();
        if events.iter().any(|(_, lazy)| !lazy) || self.revision > self.ceiling {
            if let Err(error) = self.save(&events, REVISION_BLOCK) {
                self.mark_unsure(&events);
                return Err(error.into());
            }
        } else {
            self.keep_for_later(&events);
        }
        Ok(events.into_iter().map(|(event, _)| event).collect())
    }

    fn is_full(&self) -> bool {
        self.file.as_ref().is_some_and(File::is_full)
    }

    fn maintain(&mut self, all: bool) -> Result<(), StoreError> {
        self.file().keep_room();
        let waited = self.lazy_since.is_some_and(|since| since.elapsed() >= self.lazy_age);
        let is_much = self.lazy_bytes > LAZY_LIMIT_BYTES;
        if waited || is_much || self.file().trim_is_due() || all {
            self.save(&[], REVISION_BLOCK)?;
        }
        Ok(())
    }

    /// Gives back the revisions that were reserved and not used.
    fn close(&mut self) -> Result<(), StoreError> {
        self.save(&[], 0)
    }
}

/// The object as it is after a change, if it is there.
fn live(event: &Arc<Event>) -> Option<&Arc<Object>> {
    (event.kind != EventKind::Deleted).then_some(&event.object)
}
