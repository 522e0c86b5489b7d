//! Feeds: one watch per kind, as one stream of what has happened.
//!
//! Reads the registry's watches and decodes each object once, for the kinds that a controller
//! has a use for. A watch that ends is started anew, with the whole state.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use proa_kinds::{Kind, Table};
use proa_logic::world::{KindName, Object};

use crate::registry::{Registry, WatchOptions};
use crate::store::{EventKind, Object as Stored, Revision};
use crate::watch::WatchItem;

/// How long a watch that cannot be started is left alone.
const RETRY: Duration = Duration::from_millis(200);

/// Something that has happened to a kind, which is named by its index in [`Feeds::kinds`].
#[derive(Debug)]
pub enum News {
    /// An object is there, new or changed.
    Applied(usize, Object, Revision),
    /// An object is gone.
    Deleted(usize, Object, Revision),
    /// This is the whole state.
    Reset(usize, Vec<Object>, Revision),
    /// Nothing has happened up to this revision.
    Passed(usize, Revision),
}

/// A kind that is watched.
pub struct WatchedKind {
    /// Its row.
    pub kind: Arc<Kind>,
    /// Its name as the controllers know it.
    pub name: KindName,
}

/// The watches of all kinds.
pub struct Feeds {
    /// What is watched.
    pub kinds: Vec<WatchedKind>,
    streams: SelectAll<BoxStream<'static, News>>,
}

impl Feeds {
    /// Starts a watch of every kind but Events, which own nothing, belong to nobody and expire
    /// in the store, and views, which are the same objects once more.
    pub fn start(registry: &Registry) -> Self {
        let table: Arc<Table> = registry.kinds();
        let watched = table.iter().filter(|k| k.kind != "Event" && k.view.is_none());
        let kinds: Vec<WatchedKind> = watched
            .map(|kind| WatchedKind {
                kind: kind.clone(),
                name: KindName::new(&kind.api_version(), &kind.kind),
            })
            .collect();
        let streams = kinds
            .iter()
            .enumerate()
            .map(|(index, k)| feed(registry.clone(), index, k.kind.clone(), k.name.clone()).boxed());
        let streams = futures::stream::select_all(streams);
        Feeds { kinds, streams }
    }

    /// The next news; `None` never comes while the server runs.
    pub async fn next(&mut self) -> Option<News> {
        self.streams.next().await
    }

    /// News that is there already.
    pub fn try_next(&mut self) -> Option<News> {
        self.streams.next().now_or_never().flatten()
    }
}

/// The news of one kind, over all watches that it takes.
fn feed(registry: Registry, index: usize, kind: Arc<Kind>, name: KindName) -> impl Stream<Item = News> {
    let watches = futures::stream::unfold((registry, kind, true), |(registry, kind, first)| async move {
        if !first {
            tokio::time::sleep(RETRY).await;
        }
        let options = WatchOptions { bookmarks: true, send_initial_events: true, ..WatchOptions::default() };
        let watch = registry.watch(&kind, None, options);
        if let Err(refusal) = &watch {
            tracing::warn!(kind = kind.kind, %refusal, "the watch was refused");
        }
        Some((watch.ok(), (registry, kind, false)))
    });
    let items = watches.filter_map(|watch| async move { watch }).map(|watch| {
        // A new watch begins with nothing known.
        futures::stream::once(async { None }).chain(watch.map(Some))
    });
    items
        .flatten()
        .scan(Fold::new(index, name), |fold, item| futures::future::ready(Some(fold.news(item))))
        .filter_map(|news| async move { news })
}

/// Gathers the initial state of a watch.
struct Fold {
    index: usize,
    name: KindName,
    /// The state so far; none once it is complete.
    initial: Option<Vec<Object>>,
}

impl Fold {
    fn new(index: usize, name: KindName) -> Self {
        Fold { index, name, initial: Some(Vec::new()) }
    }

    fn news(&mut self, item: Option<WatchItem>) -> Option<News> {
        match item {
            None => {
                self.initial = Some(Vec::new());
                None
            }
            Some(WatchItem::Event(EventKind::Deleted, object, _)) => {
                Some(self.news_of(&object, News::Deleted))
            }
            Some(WatchItem::Event(_, stored, _)) if self.initial.is_some() => {
                let object = self.decode(&stored);
                self.initial.get_or_insert_default().extend(object);
                None
            }
            Some(WatchItem::Event(_, stored, _)) => Some(self.news_of(&stored, News::Applied)),
            Some(WatchItem::Bookmark(revision, end)) => match self.initial.take().filter(|_| end) {
                Some(list) => Some(News::Reset(self.index, list, revision)),
                None => Some(News::Passed(self.index, revision)),
            },
            Some(WatchItem::Error(refusal)) => {
                tracing::warn!(kind = %self.name.kind, %refusal, "the watch ended");
                None
            }
        }
    }

    fn news_of(&self, stored: &Stored, news: fn(usize, Object, Revision) -> News) -> News {
        match self.decode(stored) {
            Some(object) => news(self.index, object, stored.revision),
            None => News::Passed(self.index, stored.revision),
        }
    }

    fn decode(&self, stored: &Stored) -> Option<Object> {
        match Object::decode(&self.name, &stored.bytes) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key = %stored.key, %error, "a stored object is not of its kind");
                None
            }
        }
    }
}
