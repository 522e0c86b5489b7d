//! The writer: takes all writes that wait, decides them against what is live, has them committed
//! together, publishes them and answers.
//!
//! It alone owns the backend and changes the collections. Where others write to the same store, what
//! they have changed is published before anything is decided; what they change after that, the
//! backend tells when it commits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use proa_api::Refusal;
use tokio::sync::oneshot;

use super::backend::{Backend, Change, Failed, Planned, Previous, Told};
use super::collection::Collection;
use super::error::StoreError;
use super::limits::Limits;
use super::live::{Decided, Live, Settle};
use super::object::{Event, EventKind, Object, Revision};
use super::queue::Place;
use super::shared::Shared;

/// The most writes in one commit; the rest waits for the next.
const BATCH_LIMIT: usize = 1024;

/// What must be so for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No object has the key.
    Absent,
    /// The object is there with this revision.
    Revision(Revision),
}

/// One write.
pub struct Write {
    /// What it does.
    pub change: Change,
    /// What must be so.
    pub expect: Expect,
}

/// Why a write did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// What was expected is not so. Holds the object that is there instead, if one is.
    #[error("the object is not what the write expected")]
    Conflict(Option<Arc<Object>>),
    /// Another writer of the store has changed what it was decided on.
    #[error("what the write was decided on has changed")]
    Outdated,
    /// What it has to settle with does not allow it.
    #[error("{0}")]
    Refused(Refusal),
    /// More writes wait than may.
    #[error("too many writes wait")]
    Busy,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The backend failed. Nothing was changed, as far as anybody knows.
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
    /// Others have changed something.
    Others,
    /// Trim, flush and expire now as if the time for it had come.
    Maintain(oneshot::Sender<Result<(), Arc<StoreError>>>),
    Close(oneshot::Sender<Result<(), Arc<StoreError>>>),
}

/// All that the writer is asked.
pub(super) struct Requests {
    pub(super) waiting: Receiver<Request>,
    /// The writes that go before those among the others. Each is followed by a request that says so.
    pub(super) ahead: Receiver<Waiting>,
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
    backend: Box<dyn Backend>,
    limits: Limits,
    maintained_at: Instant,
}

/// The events of a commit.
type Committed = Result<Vec<Arc<Event>>, WriteError>;

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, backend: Box<dyn Backend>, limits: Limits) -> Writer {
        Writer { shared, backend, limits, maintained_at: Instant::now() }
    }

    /// Runs until the store is closed.
    pub(super) fn run(mut self, requests: &Requests) {
        loop {
            let first = match requests.waiting.recv_timeout(self.until_maintenance()) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.serve(first, requests).is_break() {
                return;
            }
        }
    }

    fn until_maintenance(&self) -> Duration {
        self.limits.maintenance_interval.saturating_sub(self.maintained_at.elapsed())
    }

    /// Does what it is asked for by now. It ends when the store is closed.
    pub(super) fn serve(&mut self, first: Option<Request>, requests: &Requests) -> ControlFlow<()> {
        let mut waiting = Vec::new();
        let mut others = Vec::new();
        for request in first.into_iter().chain(requests.waiting.try_iter().take(BATCH_LIMIT)) {
            match request {
                Request::Write(write) => waiting.push(write),
                other => others.push(other),
            }
        }
        // Taken after the requests, or one could be left behind whose request is already gone.
        let mut writes: Vec<Waiting> = requests.ahead.try_iter().collect();
        writes.append(&mut waiting);
        self.publish_others(Revision::MAX);
        self.write(writes);
        if self.until_maintenance().is_zero()
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
                    let outcome = self.finish();
                    if let Err(error) = &outcome {
                        tracing::error!(%error, "the last writes of liveness objects were not saved");
                    }
                    // Nobody waits where the store was dropped.
                    let _ = answer.send(outcome.map_err(Arc::new));
                    return ControlFlow::Break(());
                }
                // They have been published above, or are among the writes.
                Request::Others | Request::Ahead => {}
                Request::Write(_) => unreachable!("writes were sorted out above"),
            }
        }
        ControlFlow::Continue(())
    }

    /// Decides, commits, publishes and answers.
    fn write(&mut self, writes: Vec<Waiting>) {
        if writes.is_empty() {
            return;
        }
        let mut decided = Decided::default();
        let mut answers = Vec::with_capacity(writes.len());
        for Waiting { write, settle, answer, _place } in writes {
            answers.push((answer, self.decide(write, &settle, &mut decided)));
        }
        let (outcome, touched) = self.commit(decided);
        for (answer, place) in answers {
            let answered = place.and_then(|place| match &outcome {
                Ok(events) => Ok(events[place].object.clone()),
                Err(error) => Err(error.clone()),
            });
            // A client that went away has still written.
            let _ = answer.send(answered);
        }
        wake(&touched);
    }

    /// Decides one write and gives its place. The write itself comes first, then what changes with it.
    fn decide(
        &self,
        mut write: Write,
        settle: &[Settle],
        decided: &mut Decided,
    ) -> Result<usize, WriteError> {
        let live = Live::new(&self.shared, decided);
        if write.expect == Expect::Absent && self.backend.is_full() {
            let why = "the disk of the store is full: nothing can be made before there is room again";
            return Err(WriteError::Refused(Refusal::new(507, "InsufficientStorage", why)));
        }
        let previous = live.previous(write.change.key());
        let as_expected = match (write.expect, &previous) {
            (Expect::Absent, None) => true,
            (Expect::Revision(revision), Some(Previous::Stored(object))) => object.revision == revision,
            _ => false,
        };
        if !as_expected {
            return Err(WriteError::Conflict(previous.map(|previous| live.object(&previous))));
        }
        let mut settled = Vec::new();
        for settle in settle {
            let draft = match &mut write.change {
                Change::Put(draft) => Some(draft),
                Change::Delete(_) => None,
            };
            // A rule that panics must not take the store with it.
            let said = catch_unwind(AssertUnwindSafe(|| settle(&live, draft)));
            let said =
                said.map_err(|_| WriteError::Refused(Refusal::internal("settling a write panicked")))?;
            settled.extend(said.map_err(WriteError::Refused)?);
        }
        let settled: Vec<_> =
            settled.into_iter().filter_map(|draft| Some((live.previous(draft.key())?, draft))).collect();
        let reads = live.into_reads();
        decided.note(reads);
        let is_lazy = |change: &Change| self.shared.catalog.is_lazy(&change.key().resource);
        let lazy = is_lazy(&write.change);
        let place = decided.push(Planned { change: write.change, previous, lazy });
        for (previous, draft) in settled {
            let change = Change::Put(draft);
            let lazy = is_lazy(&change);
            decided.push(Planned { change, previous: Some(previous), lazy });
        }
        Ok(place)
    }

    /// Commits what is decided, and publishes what has become of it. Gives the collections whose
    /// watchers are to be woken.
    fn commit(&mut self, decided: Decided) -> (Committed, Vec<Arc<Collection>>) {
        if decided.is_empty() {
            return (Ok(Vec::new()), Vec::new());
        }
        let mut batch = decided.into_batch();
        batch.reads.seen = self.shared.published();
        let changes = batch.changes.len();
        let error = match self.backend.commit(batch) {
            Ok(events) => {
                self.publish_others(events.first().map_or(Revision::MAX, |event| event.revision));
                let touched = self.publish(&events);
                return (Ok(events), touched);
            }
            Err(Failed::Outdated) => {
                self.publish_others(Revision::MAX);
                return (Err(WriteError::Outdated), Vec::new());
            }
            Err(Failed::Fault(error)) => error,
        };
        // The answer may be all that was lost.
        let made = self.publish_others(Revision::MAX);
        if made.len() == changes {
            tracing::warn!(%error, changes, "a commit was made, though it was said to have failed");
            return (Ok(made), Vec::new());
        }
        tracing::error!(%error, changes, "a commit failed");
        (Err(WriteError::Fault(Arc::new(error))), Vec::new())
    }

    /// Shows what others have changed, and gives what turns out to be this writer's own.
    fn publish_others(&mut self, below: Revision) -> Vec<Arc<Event>> {
        let told = self.backend.others(below).unwrap_or_else(|error| {
            tracing::error!(%error, "what others have changed is not known");
            Vec::new()
        });
        let mut made = Vec::new();
        for Told { key, revision, object, own } in told {
            let previous = self.shared.collection(&key.resource).get(&key.namespace, &key.name);
            let (kind, object) = match (object, &previous) {
                (Some(object), None) => (EventKind::Added, object),
                (Some(object), Some(_)) => (EventKind::Modified, object),
                (None, Some(previous)) => (EventKind::Deleted, Arc::new(previous.at_revision(revision))),
                // It came and went unseen.
                (None, None) => continue,
            };
            let event = Arc::new(Event::new(kind, object, previous));
            wake(&self.publish(std::slice::from_ref(&event)));
            made.extend(own.then_some(event));
        }
        made
    }

    /// Shows changes, in the order of their revisions. Gives the collections whose watchers are to be
    /// woken.
    fn publish(&self, events: &[Arc<Event>]) -> Vec<Arc<Collection>> {
        let Some(last) = events.last() else { return Vec::new() };
        let mut by_resource: BTreeMap<&Arc<str>, Vec<Arc<Event>>> = BTreeMap::new();
        for event in events {
            by_resource.entry(&event.object.key.resource).or_default().push(event.clone());
        }
        let mut touched = Vec::with_capacity(by_resource.len());
        for (resource, events) in by_resource {
            let collection = self.shared.collection(resource);
            collection.publish(&events, &self.limits.window);
            touched.push(collection);
        }
        self.shared.published.store(last.revision, Ordering::Release);
        touched
    }

    /// Trims the windows, deletes what has lived for its time, and does the backend's upkeep.
    fn maintain(&mut self, all: bool) -> Result<(), StoreError> {
        self.maintained_at = Instant::now();
        for collection in self.shared.all() {
            collection.trim(&self.limits.window);
        }
        self.expire();
        self.backend.maintain(all)
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

    /// Saves all, and ends the watches.
    fn finish(&mut self) -> Result<(), StoreError> {
        let outcome = self.backend.close();
        for collection in self.shared.all() {
            collection.close();
        }
        outcome
    }
}

fn wake(collections: &[Arc<Collection>]) {
    collections.iter().for_each(|collection| collection.wake());
}
