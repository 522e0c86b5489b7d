//! The writer thread: takes all writes that wait, decides them against what is live, makes one
//! durable commit of them, publishes it and answers.
//!
//! It alone owns the disk and changes the collections, so a decision is never outdated. Writes of
//! lazy resources are published without a commit and ride on the next one.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use proa_api::Refusal;
use serde_json::Value;
use tokio::sync::oneshot;

use super::collection::Collection;
use super::disk::{Commit, Disk, StoreError};
use super::limits::Limits;
use super::object::{Draft, Event, EventKind, Key, Object, Revision};
use super::queue::Place;
use super::shared::Shared;

/// The most writes in one commit; the rest waits for the next.
const BATCH_LIMIT: usize = 1024;
/// Revisions are reserved on disk in blocks of this many.
const REVISION_BLOCK: Revision = 10_000;
/// Waiting lazy writes above this many bytes are committed.
const LAZY_LIMIT_BYTES: usize = 4 << 20;

/// What must be so for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No object has the key.
    Absent,
    /// The object is there with this revision.
    Revision(Revision),
}

/// What a write does.
pub enum Change {
    /// Makes or replaces an object.
    Put(Draft),
    /// Removes one.
    Delete(Key),
}

/// One write.
pub struct Write {
    /// What it does.
    pub change: Change,
    /// What must be so.
    pub expect: Expect,
}

/// Decides, at the moment of a write, on what is there then: whether it may be, what it writes (no
/// draft is given where an object is removed), and what else changes with it, which are new versions
/// of objects that are there. Runs on the writer's thread, so it is quick. Can be asked again.
pub type Settle = Box<dyn Fn(&Live<'_>, Option<&mut Draft>) -> Result<Vec<Draft>, Refusal> + Send + Sync>;

/// What is there when a write is decided.
pub struct Live<'w> {
    shared: &'w Shared,
    /// What the writes before it in the same commit make of it.
    overlay: &'w Overlay,
}

/// Objects by key; none for one that is removed.
type Overlay = BTreeMap<Key, Option<Arc<Object>>>;

impl<'w> Live<'w> {
    pub(super) fn new(shared: &'w Shared, overlay: &'w Overlay) -> Self {
        Live { shared, overlay }
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        match self.overlay.get(key) {
            Some(current) => current.clone(),
            None => self.shared.collection(&key.resource).get(&key.namespace, &key.name),
        }
    }

    /// The objects of a resource in a namespace, by name.
    pub fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let mut found: BTreeMap<Arc<str>, Arc<Object>> = BTreeMap::new();
        self.visit(resource, Some(namespace), &mut |object| {
            found.insert(object.key.name.clone(), object.clone());
        });
        found.into_values().collect()
    }

    /// Visits the objects of a resource in one namespace, or in all, in no order.
    pub fn visit(&self, resource: &str, namespace: Option<&str>, visit: &mut dyn FnMut(&Arc<Object>)) {
        let is_wanted = |key: &Key| {
            *key.resource == *resource && namespace.is_none_or(|namespace| *key.namespace == *namespace)
        };
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        let newer = self.overlay.range(first..).take_while(|(key, _)| is_wanted(key));
        newer.filter_map(|(_, object)| object.as_ref()).for_each(&mut *visit);
        let collection = self.shared.collection(resource);
        let stored = |object: &Arc<Object>| {
            if !self.overlay.contains_key(&object.key) {
                visit(object);
            }
            true
        };
        collection.visit(namespace, None, || 0, stored);
    }

    /// An object as it is stored.
    pub fn encode(&self, key: Key, value: &Value) -> Draft {
        let fields = self.shared.catalog.fields(&key.resource, value);
        Draft::encode(key, value, fields)
    }
}

/// Why a write did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// What was expected is not so. Holds the object that is there instead, if one is.
    #[error("the object is not what the write expected")]
    Conflict(Option<Arc<Object>>),
    /// What it has to settle with does not allow it.
    #[error("{0}")]
    Refused(Refusal),
    /// More writes wait than may.
    #[error("too many writes wait")]
    Busy,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk failed. Nothing was changed.
    #[error("{0}")]
    Fault(Arc<StoreError>),
}

/// The answer to a write.
pub type Answer = Result<Arc<Object>, WriteError>;

/// What the writer is asked.
#[expect(clippy::large_enum_variant, reason = "nearly all requests are writes")]
pub(super) enum Request {
    Write(Waiting),
    /// There is a write that goes before the others.
    Ahead,
    /// Trim, flush and compact now as if the time for it had come.
    Maintain(oneshot::Sender<Result<(), Arc<StoreError>>>),
    Close(oneshot::Sender<Result<(), Arc<StoreError>>>),
}

/// A write that waits to be decided.
pub(super) struct Waiting {
    pub(super) write: Write,
    pub(super) settle: Vec<Settle>,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Its place among the writes that may wait.
    pub(super) _place: Option<Place>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
    limits: Limits,
    /// The last revision that was handed out.
    revision: Revision,
    /// The last that is reserved on disk.
    ceiling: Revision,
    /// Lazy writes that are not on disk, the newest of each object.
    lazy: HashMap<Key, Option<Arc<Object>>>,
    lazy_bytes: usize,
    lazy_since: Option<Instant>,
    /// Objects and changes of a commit that failed: it may be on disk all the same, so the next
    /// commit puts right what they are.
    unsure: BTreeMap<Key, Vec<Revision>>,
    maintained_at: Instant,
}

/// A write that is decided and waits for its commit.
struct Accepted {
    event: Arc<Event>,
    lazy: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, disk: Disk, limits: Limits, ceiling: Revision) -> Writer {
        Writer {
            shared,
            disk,
            limits,
            revision: ceiling,
            ceiling,
            lazy: HashMap::new(),
            lazy_bytes: 0,
            lazy_since: None,
            unsure: BTreeMap::new(),
            maintained_at: Instant::now(),
        }
    }

    /// Reserves the first revisions and marks a new file with its format.
    pub(super) fn start(&mut self) -> Result<(), StoreError> {
        self.commit(&[], REVISION_BLOCK)
    }

    /// Runs until the store is closed or dropped.
    pub(super) fn run(mut self, requests: &Receiver<Request>, ahead: &Receiver<Waiting>) {
        loop {
            let wait = self.limits.maintenance_interval.saturating_sub(self.maintained_at.elapsed());
            let first = match requests.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.finish() {
                        tracing::error!(%error, "the last writes of liveness objects were not saved");
                    }
                    return;
                }
            };
            let mut writes: Vec<Waiting> = ahead.try_iter().collect();
            let mut others = Vec::new();
            for request in first.into_iter().chain(requests.try_iter().take(BATCH_LIMIT)) {
                match request {
                    Request::Write(waiting) => writes.push(waiting),
                    // It is among the writes by now.
                    Request::Ahead => {}
                    other => others.push(other),
                }
            }
            self.write(writes);
            if self.maintained_at.elapsed() >= self.limits.maintenance_interval
                && let Err(error) = self.maintain(false)
            {
                tracing::error!(%error, "the store's upkeep failed");
            }
            for other in others {
                match other {
                    Request::Maintain(answer) => {
                        // The asker may have gone away; the upkeep is done all the same.
                        let _ = answer.send(self.maintain(true).map_err(Arc::new));
                    }
                    Request::Close(answer) => {
                        let _ = answer.send(self.finish().map_err(Arc::new));
                        return;
                    }
                    Request::Write(_) | Request::Ahead => unreachable!("writes were sorted out above"),
                }
            }
        }
    }

    /// Decides, commits, publishes and answers.
    fn write(&mut self, writes: Vec<Waiting>) {
        if writes.is_empty() {
            return;
        }
        let mut overlay = Overlay::new();
        let mut accepted: Vec<Accepted> = Vec::new();
        let mut answers = Vec::with_capacity(writes.len());
        for Waiting { write, settle, answer, _place } in writes {
            let decided = self.decide(write, &settle, &overlay);
            let decided = decided.map(|all| {
                let object = all[0].event.object.clone();
                for one in all {
                    let object = &one.event.object;
                    let live = (one.event.kind != EventKind::Deleted).then(|| object.clone());
                    overlay.insert(object.key.clone(), live);
                    accepted.push(one);
                }
                object
            });
            answers.push((answer, decided));
        }
        let mut outcome = Ok(());
        if accepted.iter().any(|one| !one.lazy) || self.revision > self.ceiling {
            outcome = self.commit(&accepted, REVISION_BLOCK).map_err(Arc::new);
        } else {
            self.keep_for_later(&accepted);
        }
        let mut touched = Vec::new();
        match &outcome {
            Ok(()) => touched = self.publish(&accepted),
            Err(error) => {
                tracing::error!(%error, writes = accepted.len(), "a commit failed");
                self.mark_unsure(&accepted);
            }
        }
        for (answer, decided) in answers {
            let decided = match (&outcome, decided) {
                (Err(error), Ok(_)) => Err(WriteError::Fault(error.clone())),
                (_, decided) => decided,
            };
            // A client that went away has still written.
            let _ = answer.send(decided);
        }
        for collection in touched {
            collection.wake();
        }
    }

    /// The write itself comes first, then what changes with it.
    fn decide(
        &mut self,
        mut write: Write,
        settle: &[Settle],
        overlay: &Overlay,
    ) -> Result<Vec<Accepted>, WriteError> {
        let shared = self.shared.clone();
        let live = Live::new(&shared, overlay);
        if write.expect == Expect::Absent && self.disk.is_full() {
            let why = "the disk of the store is full: nothing can be made before there is room again";
            return Err(WriteError::Refused(Refusal::new(507, "InsufficientStorage", why)));
        }
        let key = match &write.change {
            Change::Put(draft) => &draft.key,
            Change::Delete(key) => key,
        };
        let previous = live.get(key);
        let as_expected = match (write.expect, &previous) {
            (Expect::Absent, None) => true,
            (Expect::Revision(revision), Some(previous)) => previous.revision == revision,
            _ => false,
        };
        if !as_expected {
            return Err(WriteError::Conflict(previous));
        }
        let lazy = self.shared.catalog.is_lazy(&key.resource);
        let mut settled = Vec::new();
        for settle in settle {
            let draft = match &mut write.change {
                Change::Put(draft) => Some(draft),
                Change::Delete(_) => None,
            };
            // A rule that panics must not take the store with it.
            let decided = catch_unwind(AssertUnwindSafe(|| settle(&live, draft)));
            let decided =
                decided.map_err(|_| WriteError::Refused(Refusal::internal("settling a write panicked")))?;
            settled.extend(decided.map_err(WriteError::Refused)?);
        }
        self.revision += 1;
        let revision = self.revision;
        let event = match (write.change, previous) {
            (Change::Put(draft), None) => {
                Event::new(EventKind::Added, Arc::new(draft.at_revision(revision)), None)
            }
            (Change::Put(draft), previous) => {
                Event::new(EventKind::Modified, Arc::new(draft.at_revision(revision)), previous)
            }
            (Change::Delete(_), Some(previous)) => {
                let last = Arc::new(previous.at_revision(revision));
                Event::new(EventKind::Deleted, last, Some(previous))
            }
            // A delete expects a revision, so there is something to delete.
            (Change::Delete(_), None) => return Err(WriteError::Conflict(None)),
        };
        let mut all = vec![Accepted { event: Arc::new(event), lazy }];
        for draft in settled {
            let Some(previous) = live.get(&draft.key) else { continue };
            self.revision += 1;
            let lazy = self.shared.catalog.is_lazy(&draft.key.resource);
            let object = Arc::new(draft.at_revision(self.revision));
            let event = Event::new(EventKind::Modified, object, Some(previous));
            all.push(Accepted { event: Arc::new(event), lazy });
        }
        Ok(all)
    }

    /// Writes what is accepted and all lazy writes that wait. `reserve` is how many revisions
    /// beyond the last one are kept reserved.
    fn commit(&mut self, accepted: &[Accepted], reserve: Revision) -> Result<(), StoreError> {
        let mut commit = Commit::default();
        // The newest version of an object that is written twice in one batch comes last and wins.
        let mut latest: HashMap<&Key, Option<&Object>> = HashMap::new();
        let unsure: Vec<_> = self
            .unsure
            .keys()
            .map(|key| (key, self.shared.collection(&key.resource).get(&key.namespace, &key.name)))
            .collect();
        latest.extend(unsure.iter().map(|(key, object)| (*key, object.as_deref())));
        latest.extend(self.lazy.iter().map(|(key, object)| (key, object.as_deref())));
        for one in accepted {
            let object = &one.event.object;
            latest.insert(&object.key, (one.event.kind != EventKind::Deleted).then_some(&**object));
            if !one.lazy {
                commit.changes.push(&one.event);
            }
        }
        commit.objects.extend(latest);
        commit.forget.extend(self.unsure.values().flatten().copied());
        let low = self.revision + reserve / 4 >= self.ceiling;
        let ceiling = self.revision + reserve;
        if low || reserve == 0 {
            commit.ceiling = Some(ceiling);
        }
        self.disk.commit(&commit)?;
        self.ceiling = commit.ceiling.unwrap_or(self.ceiling);
        self.unsure.clear();
        self.lazy.clear();
        self.lazy_bytes = 0;
        self.lazy_since = None;
        Ok(())
    }

    fn publish(&self, accepted: &[Accepted]) -> Vec<Arc<Collection>> {
        let mut by_resource: BTreeMap<&Arc<str>, Vec<Arc<Event>>> = BTreeMap::new();
        for one in accepted {
            by_resource.entry(&one.event.object.key.resource).or_default().push(one.event.clone());
        }
        let mut touched = Vec::with_capacity(by_resource.len());
        for (resource, events) in by_resource {
            let collection = self.shared.collection(resource);
            collection.publish(&events, &self.limits.window);
            touched.push(collection);
        }
        self.shared.published.store(self.revision, Ordering::Release);
        touched
    }

    fn keep_for_later(&mut self, accepted: &[Accepted]) {
        for one in accepted {
            let object = &one.event.object;
            let live = (one.event.kind != EventKind::Deleted).then(|| object.clone());
            self.lazy_bytes += object.bytes.len();
            self.lazy.insert(object.key.clone(), live);
        }
        if !accepted.is_empty() {
            self.lazy_since.get_or_insert_with(Instant::now);
        }
    }

    fn mark_unsure(&mut self, accepted: &[Accepted]) {
        for one in accepted {
            self.unsure.entry(one.event.object.key.clone()).or_default().push(one.event.revision);
        }
    }

    /// Trims the windows, saves lazy writes that have waited long, and compacts the file.
    fn maintain(&mut self, now: bool) -> Result<(), StoreError> {
        self.maintained_at = Instant::now();
        self.disk.keep_room();
        for collection in self.shared.all() {
            collection.trim(&self.limits.window);
        }
        self.expire();
        let waited = self.lazy_since.is_some_and(|since| since.elapsed() >= self.limits.lazy_age);
        if waited || self.lazy_bytes > LAZY_LIMIT_BYTES || self.disk.trim_is_due() || now {
            self.commit(&[], REVISION_BLOCK)?;
        }
        if self.disk.compact_if_worthwhile()? {
            tracing::debug!(live_bytes = self.disk.live_bytes(), "compacted the store");
        }
        Ok(())
    }

    /// Deletes the objects whose time to live is over.
    fn expire(&mut self) {
        let mut expired = Vec::new();
        for collection in self.shared.all() {
            let mut time_to_live = None;
            collection.visit(
                None,
                None,
                || 0,
                |object| {
                    let limit = time_to_live
                        .get_or_insert_with(|| self.shared.catalog.time_to_live(&object.key.resource));
                    if limit.is_some_and(|limit| object.since.elapsed() > limit) {
                        let change = Change::Delete(object.key.clone());
                        let write = Write { change, expect: Expect::Revision(object.revision) };
                        // Nobody waits for the answer.
                        let answer = oneshot::channel().0;
                        expired.push(Waiting { write, settle: Vec::new(), answer, _place: None });
                    }
                    limit.is_some()
                },
            );
        }
        self.write(expired);
    }

    /// Saves all, and gives back the revisions that were reserved and not used.
    fn finish(&mut self) -> Result<(), StoreError> {
        let outcome = self.commit(&[], 0);
        for collection in self.shared.all() {
            collection.close();
        }
        outcome
    }
}
