//! The graph of ownership: every object's metadata, by uid, by owner and by namespace.
//!
//! Kept by [`super::Observed`]; read by the garbage collector, the namespace controller, and
//! whoever looks for what an object owns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::facts::{KindName, Meta};

/// Every object's metadata.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    objects: BTreeMap<Arc<str>, Arc<Meta>>,
    /// Owner's uid and dependent's uid. The owner need not be there.
    owned: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Namespace and uid.
    placed: BTreeSet<(Arc<str>, Arc<str>)>,
    /// The kinds of which every object is known.
    complete: BTreeSet<KindName>,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there.
    Solid,
    /// It is there, being deleted, and waits until its dependents are gone.
    WaitsForDependents,
    /// It is not there.
    Absent,
    /// Its kind is not one that is watched, so nobody can tell.
    Unknown,
}

impl Graph {
    /// The object with this uid.
    pub fn get(&self, uid: &str) -> Option<&Arc<Meta>> {
        self.objects.get(uid)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Meta>> {
        self.objects.values()
    }

    /// What names the object with this uid among its owners.
    pub fn dependents<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Arc<Meta>> {
        pairs(&self.owned, uid).filter_map(|dependent| self.objects.get(dependent))
    }

    /// What lives in this namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Meta>> {
        pairs(&self.placed, namespace).filter_map(|uid| self.objects.get(uid))
    }

    /// What is known of an owner that an object in `namespace` names. An owner is in the same
    /// namespace or in none; a reference to any other counts as absent.
    pub fn owner_state(&self, namespace: &str, owner: &OwnerReference) -> OwnerState {
        if let Some(meta) = self.objects.get(owner.uid.as_str()) {
            let reachable = meta.key.namespace.is_empty() || &*meta.key.namespace == namespace;
            return if !reachable {
                OwnerState::Absent
            } else if waits_for_dependents(meta) {
                OwnerState::WaitsForDependents
            } else {
                OwnerState::Solid
            };
        }
        let known = self.complete.iter().any(|kind| kind.is_of(owner));
        if known { OwnerState::Absent } else { OwnerState::Unknown }
    }

    /// What names an object of this kind among its owners.
    pub fn owned_by_kind<'a>(&'a self, kind: &'a KindName) -> impl Iterator<Item = &'a Arc<Meta>> {
        self.objects.values().filter(|object| object.owners.iter().any(|owner| kind.is_of(owner)))
    }

    /// Says that every object of this kind has been put in.
    pub fn complete(&mut self, kind: &KindName) {
        self.complete.insert(kind.clone());
    }

    /// Says that objects of this kind are there, or not, without anybody knowing.
    pub fn incomplete(&mut self, kind: &KindName) {
        self.complete.remove(kind);
    }

    /// Puts an object in and gives what was in its place.
    pub fn insert(&mut self, meta: Arc<Meta>) -> Option<Arc<Meta>> {
        let old = self.remove(&meta.uid);
        for owner in &meta.owners {
            let uid = self.objects.get_key_value(owner.uid.as_str()).map(|(uid, _)| uid.clone());
            let uid = uid.unwrap_or_else(|| owner.uid.as_str().into());
            self.owned.insert((uid, meta.uid.clone()));
        }
        if !meta.key.namespace.is_empty() {
            self.placed.insert((meta.key.namespace.clone(), meta.uid.clone()));
        }
        self.objects.insert(meta.uid.clone(), meta);
        old
    }

    /// Takes an object out.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Meta>> {
        let meta = self.objects.remove(uid)?;
        for owner in &meta.owners {
            self.owned.remove(&(owner.uid.as_str().into(), meta.uid.clone()));
        }
        self.placed.remove(&(meta.key.namespace.clone(), meta.uid.clone()));
        Some(meta)
    }
}

/// True for an object in foreground deletion.
pub fn waits_for_dependents(meta: &Meta) -> bool {
    meta.deleted.is_some() && meta.has_finalizer(proa_api::names::FINALIZER_FOREGROUND)
}

/// The second halves of the pairs whose first half is `first`.
pub(super) fn pairs<'a>(
    set: &'a BTreeSet<(Arc<str>, Arc<str>)>,
    first: &'a str,
) -> impl Iterator<Item = &'a Arc<str>> {
    let start: (Arc<str>, Arc<str>) = (first.into(), "".into());
    set.range(start..).take_while(move |(f, _)| **f == *first).map(|(_, second)| second)
}
