//! Feeds: one watch per kind, as one stream of what has happened.
//!
//! Reads the registry's watches and decodes each object once, for the kinds that a controller
//! has a use for. A watch that ends is started anew, with the whole state. Kinds come and go with
//! the rows of the registry's table.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use proa_kinds::{Kind, ScalePaths, Table};
use proa_logic::world::{KindName, Object};
use tokio::sync::watch;

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
    /// The kind is served no longer.
    Gone(usize),
}

/// A kind that is watched, or was: it has its place for as long as the feeds run.
pub struct WatchedKind {
    /// Its row, when its watch began.
    pub kind: Arc<Kind>,
    /// True while it is watched.
    pub live: bool,
    /// Its name as the controllers know it.
    pub name: KindName,
}

/// The watches of all kinds.
pub struct Feeds {
    /// What is watched.
    pub kinds: Vec<WatchedKind>,
    registry: Registry,
    table: watch::Receiver<Arc<Table>>,
    streams: SelectAll<BoxStream<'static, News>>,
}

impl Feeds {
    /// Starts a watch of every kind but those that expire in the store, which are Events: they own
    /// nothing and belong to nobody; and but views, which are the same objects once more.
    pub fn start(registry: &Registry) -> Self {
        let (registry, table) = (registry.clone(), registry.follow_kinds());
        let mut feeds = Feeds { kinds: Vec::new(), registry, table, streams: SelectAll::new() };
        feeds.follow();
        feeds
    }

    /// The next news; `None` never comes while the server runs.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let news = tokio::select! {
                changed = self.table.changed() => {
                    changed.ok()?;
                    self.follow();
                    continue;
                }
                news = self.streams.next() => news?,
            };
            if let News::Gone(index) = news {
                self.kinds[index].live = false;
                // It may have come back meanwhile.
                self.follow();
            }
            return Some(news);
        }
    }

    /// The kinds that there are.
    pub fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// News that is there already.
    pub fn try_next(&mut self) -> Option<News> {
        self.next().now_or_never().flatten()
    }

    /// Starts the watches that are missing. Those of kinds that are gone end by themselves.
    fn follow(&mut self) {
        let table = self.table.borrow_and_update().clone();
        for kind in table.stored().filter(|kind| kind.time_to_live.is_none()) {
            let name = KindName::new(&kind.api_version(), &kind.kind);
            let index = self.kinds.iter().position(|known| known.name == name);
            if index.is_some_and(|index| self.kinds[index].live) {
                continue;
            }
            let watched = WatchedKind { kind: kind.clone(), live: true, name: name.clone() };
            let index = index.unwrap_or(self.kinds.len());
            match self.kinds.get_mut(index) {
                Some(place) => *place = watched,
                None => self.kinds.push(watched),
            }
            self.streams.push(feed(self.registry.clone(), index, kind.clone(), name).boxed());
        }
    }
}

/// The news of one kind, over all watches that it takes.
fn feed(registry: Registry, index: usize, kind: Arc<Kind>, name: KindName) -> impl Stream<Item = News> {
    let fold = Fold { index, name, scale: kind.scale().cloned(), initial: Some(Vec::new()) };
    let watches = futures::stream::unfold((registry, kind, true), |(registry, kind, first)| async move {
        if !first {
            tokio::time::sleep(RETRY).await;
        }
        if !registry.kinds().has(&kind) {
            return None;
        }
        let options =
            WatchOptions { bookmarks: true, send_initial_events: Some(true), ..WatchOptions::default() };
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
        .scan(fold, |fold, item| futures::future::ready(Some(fold.news(item))))
        .filter_map(|news| async move { news })
        .chain(futures::stream::once(async move { News::Gone(index) }))
}

/// Gathers the initial state of a watch.
struct Fold {
    index: usize,
    name: KindName,
    /// Where the size of its objects is.
    scale: Option<ScalePaths>,
    /// The state so far; none once it is complete.
    initial: Option<Vec<Object>>,
}

impl Fold {
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
        let decoded = Object::decode(&self.name, &stored.bytes);
        let sized = match &self.scale {
            Some(paths) => decoded.and_then(|object| object.sized(paths, &stored.bytes)),
            None => decoded,
        };
        match sized {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key = %stored.key, %error, "a stored object is not of its kind");
                None
            }
        }
    }
}
