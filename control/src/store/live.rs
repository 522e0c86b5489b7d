//! What is there when a write is decided, and what its decision has asked of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use proa_api::Refusal;
use serde_json::Value;

use super::backend::{Batch, Change, Planned, Previous, Reads};
use super::object::{Draft, Key, Object};
use super::shared::Shared;

/// Decides, at the moment of a write, on what is there then: whether it may be, what it writes (no
/// draft is given where an object is removed), and what else changes with it, which are new versions
/// of objects that are there. Runs on the writer's thread, so it is quick. Can be asked again.
pub type Settle = Box<dyn Fn(&Live<'_>, Option<&mut Draft>) -> Result<Vec<Draft>, Refusal> + Send + Sync>;

/// What is there when a write is decided. It notes what of the store it is asked for: another writer
/// of the same store may change it before the write is committed.
pub struct Live<'w> {
    shared: &'w Shared,
    decided: &'w Decided,
    reads: RefCell<Reads>,
}

/// The changes that are decided and not committed.
#[derive(Default)]
pub(super) struct Decided {
    changes: Vec<Planned>,
    /// The last change of each object.
    last: BTreeMap<Key, usize>,
    reads: Reads,
}

impl Decided {
    /// Takes one more, and gives its place.
    pub(super) fn push(&mut self, planned: Planned) -> usize {
        let index = self.changes.len();
        self.last.insert(planned.change.key().clone(), index);
        self.changes.push(planned);
        index
    }

    /// Takes note of what it was decided on.
    pub(super) fn note(&mut self, reads: Reads) {
        self.reads.objects.extend(reads.objects);
        self.reads.collections.extend(reads.collections);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn into_batch(self) -> Batch {
        Batch { changes: self.changes, reads: self.reads }
    }
}

impl<'w> Live<'w> {
    pub(super) fn new(shared: &'w Shared, decided: &'w Decided) -> Self {
        Live { shared, decided, reads: RefCell::default() }
    }

    /// What it has been asked for.
    pub(super) fn into_reads(self) -> Reads {
        self.reads.into_inner()
    }

    /// What a change of this object replaces.
    pub(super) fn previous(&self, key: &Key) -> Option<Previous> {
        match self.decided.last.get(key) {
            Some(index) if matches!(self.decided.changes[*index].change, Change::Delete(_)) => None,
            Some(index) => Some(Previous::InBatch(*index)),
            None => {
                let stored = self.shared.collection(&key.resource).get(&key.namespace, &key.name);
                let revision = stored.as_ref().map_or(0, |object| object.revision);
                self.reads.borrow_mut().objects.push((key.clone(), revision));
                stored.map(Previous::Stored)
            }
        }
    }

    /// One object. One that is decided and not committed has no revision yet.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.previous(key).map(|previous| self.object(&previous))
    }

    pub(super) fn object(&self, previous: &Previous) -> Arc<Object> {
        match previous {
            Previous::Stored(object) => object.clone(),
            Previous::InBatch(index) => match &self.decided.changes[*index].change {
                Change::Put(draft) => Arc::new(draft.clone().unwritten()),
                Change::Delete(key) => unreachable!("{key} is removed"),
            },
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
        self.reads.borrow_mut().collections.push((resource.into(), namespace.map(Arc::from)));
        let is_wanted = |key: &Key| {
            *key.resource == *resource && namespace.is_none_or(|namespace| *key.namespace == *namespace)
        };
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        let last = &self.decided.last;
        for (_, index) in last.range(first..).take_while(|(key, _)| is_wanted(key)) {
            if matches!(self.decided.changes[*index].change, Change::Put(_)) {
                visit(&self.object(&Previous::InBatch(*index)));
            }
        }
        let stored = |object: &Arc<Object>| {
            if !last.contains_key(&object.key) {
                visit(object);
            }
            true
        };
        self.shared.collection(resource).visit(namespace, None, || 0, stored);
    }

    /// An object as it is stored.
    pub fn encode(&self, key: Key, value: &Value) -> Draft {
        let fields = self.shared.catalog.fields(&key.resource, value);
        Draft::encode(key, value, fields)
    }
}
