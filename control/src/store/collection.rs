//! The live objects of one resource and the window of its recent changes, in memory.
//!
//! Written by the store's writer thread alone; read by lists and watches. A watch is a cursor in
//! the window, so a slow watcher holds up nobody: it falls out of the window.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::watch;

use super::object::{Event, EventKind, Object, Revision};

/// What one event costs beside the version that only it keeps alive.
const EVENT_COST_BYTES: usize = 400;

/// How much of the past a collection keeps.
#[derive(Clone, Copy, Debug)]
pub struct WindowLimits {
    /// Events older than this go.
    pub age: std::time::Duration,
    /// The most events of one collection.
    pub events: usize,
    /// The most bytes of superseded versions of one collection.
    pub bytes: usize,
}

/// The objects of one resource. Readers see whole commits of the collection, never half of one.
pub struct Collection {
    contents: RwLock<Contents>,
    /// The revision of the last change, for those who only ask whether there was one.
    last: AtomicU64,
    /// True once the store is closed.
    changed: watch::Sender<bool>,
}

type ByName = BTreeMap<Arc<str>, Arc<Object>>;

#[derive(Default)]
struct Contents {
    objects: BTreeMap<Arc<str>, ByName>,
    window: VecDeque<(Instant, Arc<Event>)>,
    /// Cost of the window.
    window_bytes: usize,
    /// Changes up to and including this revision are not in the window.
    floor: Revision,
    /// The revision of the last change.
    last: Revision,
}

/// Why a past state or a watch from it cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision that can still be asked for.
    pub oldest: Revision,
}

/// Where a list goes on: after this namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// The last one's namespace.
    pub namespace: String,
    /// The last one's name.
    pub name: String,
}

impl Collection {
    /// A collection with what the disk holds: `events` in order of their revisions.
    pub fn new(floor: Revision, objects: Vec<Arc<Object>>, events: Vec<Arc<Event>>) -> Collection {
        let mut contents = Contents { floor, last: floor, ..Contents::default() };
        let now = Instant::now();
        for object in objects {
            contents.last = contents.last.max(object.revision);
            contents.put(object);
        }
        for event in events {
            contents.last = contents.last.max(event.revision);
            contents.remember(now, event);
        }
        let last = AtomicU64::new(contents.last);
        Collection { contents: RwLock::new(contents), last, changed: watch::Sender::new(false) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().expect("the writer never panics while it holds a collection")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().expect("the writer never panics while it holds a collection")
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().objects.get(namespace)?.get(name).cloned()
    }

    /// The revision of the last change that readers see.
    pub fn last(&self) -> Revision {
        self.last.load(Ordering::Acquire)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.values().map(BTreeMap::len).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.read().objects.is_empty()
    }

    /// The objects of one namespace, or of all, by namespace and name. They are read after the
    /// collection is free again.
    pub fn all(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let mut all = Vec::new();
        let keep = |object: &Arc<Object>| {
            all.push(object.clone());
            true
        };
        self.visit(namespace, None, || 0, keep);
        all
    }

    /// Visits the objects of one namespace, or of all, by namespace and name, until `visit` says
    /// to stop. Gives the revision of what was seen; `published` is the store's, read inside.
    pub fn visit(
        &self,
        namespace: Option<&str>,
        after: Option<&After>,
        published: impl Fn() -> Revision,
        mut visit: impl FnMut(&Arc<Object>) -> bool,
    ) -> Revision {
        let contents = self.read();
        let revision = published().max(contents.last);
        contents.visit(namespace, after, &mut visit);
        revision
    }

    /// [`Collection::visit`] of the state at `revision`, which is not above the store's.
    pub fn visit_at(
        &self,
        revision: Revision,
        namespace: Option<&str>,
        after: Option<&After>,
        mut visit: impl FnMut(&Arc<Object>) -> bool,
    ) -> Result<(), TooOld> {
        let contents = self.read();
        if revision < contents.floor {
            return Err(TooOld { oldest: contents.floor });
        }
        if contents.last <= revision {
            contents.visit(namespace, after, &mut visit);
            return Ok(());
        }
        let past = contents.at(revision);
        drop(contents);
        let start = after.map(|after| (after.namespace.as_str(), after.name.as_str()));
        for object in past {
            let place = (&*object.key.namespace, &*object.key.name);
            let wanted = namespace.is_none_or(|wanted| wanted == place.0);
            if wanted && start.is_none_or(|start| place > start) && !visit(&object) {
                break;
            }
        }
        Ok(())
    }

    /// A signal that fires after each change of the collection; its value is true once the store
    /// is closed.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    /// Up to `limit` events after `revision`. With none, the revision up to which there are none.
    pub fn events_after(
        &self,
        revision: Revision,
        limit: usize,
        published: impl Fn() -> Revision,
    ) -> Result<(Vec<Arc<Event>>, Revision), TooOld> {
        let contents = self.read();
        if revision < contents.floor {
            return Err(TooOld { oldest: contents.floor });
        }
        let events: Vec<_> = contents.after(revision).take(limit).cloned().collect();
        let seen = events.last().map_or_else(|| published().max(contents.last), |event| event.revision);
        Ok((events, seen))
    }

    /// Makes the changes of one commit visible. Watchers are woken by [`Collection::wake`].
    pub(super) fn publish(&self, events: &[Arc<Event>], limits: &WindowLimits) {
        let now = Instant::now();
        let mut contents = self.write();
        for event in events {
            match event.kind {
                EventKind::Deleted => contents.remove(&event.object),
                EventKind::Added | EventKind::Modified => contents.put(event.object.clone()),
            }
            contents.last = event.revision;
            contents.remember(now, event.clone());
        }
        self.last.store(contents.last, Ordering::Release);
        contents.trim(now, limits);
    }

    /// Wakes all watchers.
    pub(super) fn wake(&self) {
        self.changed.send_modify(|_| {});
    }

    /// Tells all watchers that there will be no more.
    pub(super) fn close(&self) {
        self.changed.send_replace(true);
    }

    /// Forgets what is over the limits.
    pub(super) fn trim(&self, limits: &WindowLimits) {
        self.write().trim(Instant::now(), limits);
    }
}

impl Contents {
    fn visit(
        &self,
        namespace: Option<&str>,
        after: Option<&After>,
        visit: &mut impl FnMut(&Arc<Object>) -> bool,
    ) {
        let start = match (namespace, after) {
            (Some(namespace), _) => Bound::Included(namespace),
            (None, Some(after)) => Bound::Included(after.namespace.as_str()),
            (None, None) => Bound::Unbounded,
        };
        for (space, names) in self.objects.range::<str, _>((start, Bound::Unbounded)) {
            if namespace.is_some_and(|wanted| wanted != &**space) {
                break;
            }
            let from = match after {
                Some(after) if after.namespace == **space => Bound::Excluded(after.name.as_str()),
                _ => Bound::Unbounded,
            };
            for object in names.range::<str, _>((from, Bound::Unbounded)).map(|(_, object)| object) {
                if !visit(object) {
                    return;
                }
            }
        }
    }

    /// All objects as they were at `revision`, by namespace and name.
    fn at(&self, revision: Revision) -> Vec<Arc<Object>> {
        // The first change after the revision tells what each object was at it.
        let mut then: HashMap<(&str, &str), Option<&Arc<Object>>> = HashMap::new();
        for event in self.after(revision) {
            let key = &event.object.key;
            then.entry((&key.namespace, &key.name)).or_insert(event.previous.as_ref());
        }
        let live = self.objects.values().flat_map(BTreeMap::values);
        let mut objects: Vec<Arc<Object>> = live
            .filter(|object| !then.contains_key(&(&*object.key.namespace, &*object.key.name)))
            .chain(then.values().copied().flatten())
            .cloned()
            .collect();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    fn put(&mut self, object: Arc<Object>) {
        match self.objects.get_mut(&object.key.namespace) {
            Some(names) => {
                names.insert(object.key.name.clone(), object);
            }
            None => {
                let names = BTreeMap::from([(object.key.name.clone(), object.clone())]);
                self.objects.insert(object.key.namespace.clone(), names);
            }
        }
    }

    fn remove(&mut self, object: &Object) {
        if let Some(names) = self.objects.get_mut(&object.key.namespace) {
            names.remove(&object.key.name);
            if names.is_empty() {
                self.objects.remove(&object.key.namespace);
            }
        }
    }

    fn remember(&mut self, now: Instant, event: Arc<Event>) {
        self.window_bytes += cost(&event);
        self.window.push_back((now, event));
    }

    fn trim(&mut self, now: Instant, limits: &WindowLimits) {
        while let Some((since, event)) = self.window.front() {
            let fits = self.window.len() <= limits.events && self.window_bytes <= limits.bytes;
            if fits && now.duration_since(*since) <= limits.age {
                break;
            }
            self.window_bytes -= cost(event);
            self.floor = event.revision;
            self.window.pop_front();
        }
    }

    fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.window.partition_point(|(_, event)| event.revision <= revision);
        self.window.range(start..).map(|(_, event)| event)
    }
}

/// Bytes that only this event keeps alive. A live version is not counted: the collection holds
/// it anyway. The event of a deletion holds two versions.
fn cost(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |previous| previous.bytes.len());
    let last = if event.kind == EventKind::Deleted { event.object.bytes.len() } else { 0 };
    EVENT_COST_BYTES + previous + last
}
