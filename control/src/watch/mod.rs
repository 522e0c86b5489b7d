//! Watches: streams of changes of one resource, for any number of watchers.
//!
//! Fed by [`Collection`]s; read by the HTTP side and by the controllers. A watcher is a cursor in
//! the collection's window of events plus its selectors. Events are encoded once and shared. A
//! watcher that lags behind the window is ended with 410, as is one that starts too far back; it
//! never holds up the store or another watcher. What it keeps beside its place in the window is the
//! rest of its first state, which counts for who reads it, and a few events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use proa_api::Refusal;
use proa_api::selector::{FieldSelector, Selector};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::store::{Collection, Event, EventKind, Object, Revision, Store, watch_line};

/// How often an idle watcher that asked for bookmarks gets one.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Events that a watcher takes out of the window at once, and about how many bytes: those that it has
/// taken are kept for it, whether it is read or not. One that is larger is taken alone.
const TAKE: (usize, usize) = (32, 16 << 10);
/// What an object costs beside its bytes.
const OBJECT_COST_BYTES: usize = 400;
/// A last bookmark comes this long before a watch's time is over, so that the next watch starts
/// where this one ended.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// What a watcher gets.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// A change within the watcher's selection.
    Event(EventKind, Arc<Object>, Line),
    /// The watcher has seen everything up to this revision. True marks the end of the initial
    /// state.
    Bookmark(Revision, bool),
    /// The watch cannot go on; nothing follows.
    Error(Refusal),
}

/// A watch event as a line of the stream, encoded when first asked for.
#[derive(Clone, Debug)]
pub struct Line(Source);

#[derive(Clone, Debug)]
enum Source {
    Shared(Arc<Event>, EventKind),
    Own(Arc<Object>),
    Ready(Bytes),
}

impl Line {
    /// `{"type":"ADDED","object":{…}}` and a line feed.
    pub fn bytes(&self) -> Bytes {
        match &self.0 {
            Source::Shared(event, kind) => event.line(*kind),
            Source::Own(object) => watch_line(EventKind::Added, object),
            Source::Ready(bytes) => bytes.clone(),
        }
    }

    /// A line that is already encoded: of an object that is shown in another form than stored.
    pub fn ready(bytes: Bytes) -> Line {
        Line(Source::Ready(bytes))
    }
}

/// The object of a bookmark: of the watched kind, with nothing but a revision.
pub fn bookmark(api_version: &str, kind: &str, revision: Revision, initial_events_end: bool) -> Value {
    let mut metadata = json!({"creationTimestamp": null, "resourceVersion": revision.to_string()});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
}

/// Which objects a watcher wants to see.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// By labels.
    pub labels: Selector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Selection {
    fn selects(&self, object: &Object) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == &*object.key.namespace)
            && object.selected(&self.labels, &self.fields)
    }

    /// The watcher's view of a change: an object that enters the selection is added, one that
    /// leaves it is deleted.
    fn view(&self, event: &Arc<Event>) -> Option<WatchItem> {
        let after = event.kind != EventKind::Deleted && self.selects(&event.object);
        let before = event.previous.as_ref().is_some_and(|previous| self.selects(previous));
        let (kind, object) = match (before, after) {
            (false, false) => return None,
            (false, true) => (EventKind::Added, event.object.clone()),
            (true, true) => (EventKind::Modified, event.object.clone()),
            (true, false) if event.kind == EventKind::Deleted => (EventKind::Deleted, event.object.clone()),
            (true, false) => (EventKind::Deleted, event.left()),
        };
        Some(WatchItem::Event(kind, object, Line(Source::Shared(event.clone(), kind))))
    }
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the state as it is now, each object as an Added event, and then the changes.
    State,
    /// With the changes after this revision.
    After(Revision),
}

/// How a watch goes on.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Sends bookmarks now and then.
    pub bookmarks: bool,
    /// Marks the end of the initial state with a bookmark.
    pub initial_events_end: bool,
    /// Ends after this time.
    pub timeout: Option<Duration>,
    /// Time between bookmarks.
    pub bookmark_interval: Duration,
}

/// A running watch.
pub struct WatchStream {
    items: BoxStream<'static, WatchItem>,
    first: Arc<AtomicUsize>,
}

impl WatchStream {
    fn with(
        self,
        change: impl FnOnce(BoxStream<'static, WatchItem>) -> BoxStream<'static, WatchItem>,
    ) -> Self {
        WatchStream { items: change(self.items), ..self }
    }

    /// About how many bytes are kept for the part of the first state that has not been read.
    pub fn first_bytes(&self) -> Arc<AtomicUsize> {
        self.first.clone()
    }

    /// The same watch with each item seen through `map`.
    pub fn mapped(self, map: impl Fn(WatchItem) -> WatchItem + Send + 'static) -> WatchStream {
        self.with(|items| items.map(map).boxed())
    }

    /// The same watch, at its end once `ends` is.
    pub fn until(self, ends: impl Future<Output = ()> + Send + 'static) -> WatchStream {
        self.with(|items| items.take_until(ends).boxed())
    }
}

impl Stream for WatchStream {
    type Item = WatchItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchItem>> {
        self.items.as_mut().poll_next(context)
    }
}

/// Starts a watch of one resource.
///
/// # Errors
/// 410 if `start` is before the window, 504 if it is a revision that does not exist yet.
pub fn watch(
    store: &Store,
    resource: &str,
    selection: Selection,
    start: Start,
    manner: Manner,
) -> Result<WatchStream, Refusal> {
    let collection = store.collection(resource);
    // Before the state is read: no change between the two is missed.
    let changed = collection.subscribe();
    let mut ready = VecDeque::new();
    let mut first = 0;
    let at = match start {
        Start::State => {
            let at = collection.visit(
                selection.namespace.as_deref(),
                None,
                || store.revision(),
                |object| {
                    if object.selected(&selection.labels, &selection.fields) {
                        first += cost(object);
                        let line = Line(Source::Own(object.clone()));
                        ready.push_back(WatchItem::Event(EventKind::Added, object.clone(), line));
                    }
                    true
                },
            );
            if manner.initial_events_end {
                ready.push_back(WatchItem::Bookmark(at, true));
            }
            at
        }
        Start::After(revision) => {
            let now = store.revision();
            if revision > now {
                return Err(too_large(revision, now));
            }
            collection
                .events_after(revision, 0, || store.revision())
                .map_err(|too_old| expired(revision, too_old.oldest))?;
            revision
        }
    };
    let now = Instant::now();
    let first = Arc::new(AtomicUsize::new(first));
    let watcher = Watcher {
        store: store.clone(),
        collection,
        changed,
        selection,
        ready,
        first: first.clone(),
        at,
        bookmark_at: manner.bookmarks.then(|| now + manner.bookmark_interval),
        bookmark_interval: manner.bookmark_interval,
        last_bookmark_at: manner
            .timeout
            .filter(|timeout| manner.bookmarks && *timeout > LAST_BOOKMARK * 2)
            .map(|timeout| now + timeout - LAST_BOOKMARK),
        end_at: manner.timeout.map(|timeout| now + timeout),
        ended: false,
    };
    let items = futures::stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|item| (item, watcher))
    });
    Ok(WatchStream { items: items.boxed(), first })
}

/// 410 with the text that clients know.
pub fn expired(revision: Revision, oldest: Revision) -> Refusal {
    Refusal::expired(format!("too old resource version: {revision} ({oldest})"))
}

/// 504: the client has seen a revision that this store has not come to.
pub fn too_large(revision: Revision, now: Revision) -> Refusal {
    let mut refusal =
        Refusal::new(504, "Timeout", format!("Too large resource version: {revision}, current: {now}"));
    refusal.0.details = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails {
        causes: Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause {
            reason: Some("ResourceVersionTooLarge".to_owned()),
            message: Some("Too large resource version".to_owned()),
            ..Default::default()
        }]),
        retry_after_seconds: Some(1),
        ..Default::default()
    });
    refusal
}

struct Watcher {
    store: Store,
    collection: Arc<Collection>,
    changed: tokio::sync::watch::Receiver<bool>,
    selection: Selection,
    ready: VecDeque<WatchItem>,
    /// Cost of the objects of the first state in `ready`.
    first: Arc<AtomicUsize>,
    /// Everything up to here is in `ready` or was sent.
    at: Revision,
    bookmark_at: Option<Instant>,
    bookmark_interval: Duration,
    last_bookmark_at: Option<Instant>,
    end_at: Option<Instant>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                if let WatchItem::Event(_, _, Line(Source::Own(object))) = &item {
                    self.first.fetch_sub(cost(object), Ordering::Relaxed);
                }
                return Some(item);
            }
            if self.ended || self.end_at.is_some_and(|end| end <= Instant::now()) {
                return None;
            }
            self.take();
            if !self.ready.is_empty() || self.ended {
                continue;
            }
            if *self.changed.borrow() {
                return None;
            }
            tokio::select! {
                biased;
                () = until(self.end_at) => return None,
                () = until(self.last_bookmark_at) => {
                    self.last_bookmark_at = None;
                    return Some(WatchItem::Bookmark(self.at, false));
                }
                () = until(self.bookmark_at) => {
                    self.bookmark_at = Some(Instant::now() + self.bookmark_interval);
                    return Some(WatchItem::Bookmark(self.at, false));
                }
                changed = self.changed.changed() => changed.ok()?,
            }
        }
    }

    /// Takes events out of the window until some are selected or there are no more.
    fn take(&mut self) {
        self.changed.mark_unchanged();
        while self.ready.is_empty() {
            match self.collection.events_after(self.at, TAKE.0, || self.store.revision()) {
                Ok((events, seen)) if events.is_empty() => {
                    self.at = seen.max(self.at);
                    return;
                }
                Ok((events, _)) => self.choose(&events),
                Err(too_old) => {
                    self.ready.push_back(WatchItem::Error(expired(self.at, too_old.oldest)));
                    self.ended = true;
                }
            }
        }
    }

    /// Takes what is selected of these events, up to the one that would be too much.
    fn choose(&mut self, events: &[Arc<Event>]) {
        let mut bytes = 0;
        for event in events {
            if let Some(item) = self.selection.view(event) {
                bytes += cost(&event.object) + event.previous.as_deref().map_or(0, cost);
                if bytes > TAKE.1 && !self.ready.is_empty() {
                    return;
                }
                self.ready.push_back(item);
            }
            self.at = event.revision;
        }
    }
}

/// About how many bytes an object takes.
fn cost(object: &Object) -> usize {
    OBJECT_COST_BYTES + object.bytes.len()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
