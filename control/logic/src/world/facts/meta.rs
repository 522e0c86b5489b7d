//! What every object has: its kind, its name, and what ownership and deletion go by.
//!
//! Made by [`super::Object::decode`]; read everywhere.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::world::plan::Reference;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty outside namespaces.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of these.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

/// API version and kind, shared by all objects of the kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KindName {
    /// `apps/v1`.
    pub api_version: Arc<str>,
    /// `Deployment`.
    pub kind: Arc<str>,
}

impl KindName {
    /// A name of these.
    pub fn new(api_version: &str, kind: &str) -> Self {
        KindName { api_version: api_version.into(), kind: kind.into() }
    }

    /// True if it names this type.
    pub fn is<K: k8s_openapi::Resource>(&self) -> bool {
        &*self.kind == K::KIND && &*self.api_version == K::API_VERSION
    }

    /// True if an owner is named to be of this kind, in whichever version.
    pub fn is_of(&self, owner: &OwnerReference) -> bool {
        let group = |api_version: &str| api_version.split_once('/').map(|(group, _)| group.to_owned());
        *self.kind == *owner.kind && group(&self.api_version) == group(&owner.api_version)
    }
}

/// The metadata of any object, as far as ownership and deletion are concerned.
#[derive(Debug, PartialEq)]
pub struct Meta {
    /// Which kind.
    pub kind: KindName,
    /// Namespace and name.
    pub key: Key,
    /// Unique over all time.
    pub uid: Arc<str>,
    /// The revision seen.
    pub resource_version: Box<str>,
    /// When it was created.
    pub created: Timestamp,
    /// When its deletion was asked for.
    pub deleted: Option<Timestamp>,
    /// What holds its deletion up.
    pub finalizers: Box<[String]>,
    /// Its owners.
    pub owners: Box<[OwnerReference]>,
}

impl Meta {
    /// The facts in an object's metadata.
    pub fn of(kind: &KindName, meta: &ObjectMeta) -> Self {
        Meta {
            kind: kind.clone(),
            key: Key::of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default().into(),
            created: time(&meta.creation_timestamp).unwrap_or(Timestamp::UNIX_EPOCH),
            deleted: time(&meta.deletion_timestamp),
            finalizers: meta.finalizers.clone().unwrap_or_default().into(),
            owners: meta.owner_references.clone().unwrap_or_default().into(),
        }
    }

    /// The reference for actions and Events.
    pub fn reference(&self) -> Reference {
        Reference {
            api_version: self.kind.api_version.clone(),
            kind: self.kind.kind.clone(),
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// The one controller that owns the object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|r| r.controller == Some(true))
    }

    /// True if a finalizer of this name holds the object.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|f| f == name)
    }
}

/// The name of a typed kind.
pub fn kind_of<K: k8s_openapi::Resource>() -> KindName {
    KindName::new(K::API_VERSION, K::KIND)
}

/// The moment in an optional time.
pub(crate) fn time(time: &Option<Time>) -> Option<Timestamp> {
    time.as_ref().map(|t| t.0)
}
