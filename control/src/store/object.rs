//! Objects as the store holds them: canonical JSON bytes and the few things that are indexed.
//!
//! Fed by the registry (a [`Draft`] per write) and by the disk at start; read by everything that
//! lists or watches. It never decodes an object into its kind's type.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use proa_api::selector::{FieldSelector, Labels, Selector};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One counter for all changes of a store.
pub type Revision = u64;

/// Selectable fields with their values.
pub type Fields = Vec<(Arc<str>, String)>;

/// What an object is stored under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `pods`, `deployments.apps`.
    pub resource: Arc<str>,
    /// Empty for cluster-scoped resources.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Key {
    /// The key of one object.
    pub fn new(resource: impl Into<Arc<str>>, namespace: &str, name: &str) -> Self {
        Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.resource, self.name)
        } else {
            write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

/// One version of an object. Never changes; a write makes a new one.
pub struct Object {
    /// What it is stored under.
    pub key: Key,
    /// The revision of the write that made it; 0 for one that a dry run made.
    pub revision: Revision,
    /// Canonical JSON with `apiVersion`, `kind` and `metadata.resourceVersion`.
    pub bytes: Bytes,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Selectable fields other than `metadata.name` and `metadata.namespace`.
    pub fields: Fields,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// True if `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Where the digits of `metadata.resourceVersion` begin in `bytes`; 0 if there are none.
    pub(super) revision_at: usize,
    /// When this process made or read this version.
    pub(super) since: Instant,
}

impl Object {
    /// The object as JSON.
    ///
    /// # Panics
    /// If the bytes are not JSON, which the store's own encoder and the check at start rule out.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the store holds only what was encoded as JSON")
    }

    /// The object as a type of `k8s-openapi` or another that can be read from its JSON.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }

    /// True if both selectors select the object.
    pub fn selected(&self, labels: &Selector, fields: &FieldSelector) -> bool {
        labels.matches(Some(&self.labels)) && fields.matches_with(|name| self.field(name))
    }

    /// The value of a selectable field; `None` if the kind has no such field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.key.name),
            "metadata.namespace" => Some(&self.key.namespace),
            _ => self.fields.iter().find(|(field, _)| **field == *name).map(|(_, value)| value.as_str()),
        }
    }

    /// The same object with another revision, also in its bytes: what a Deleted event carries.
    pub fn at_revision(&self, revision: Revision) -> Object {
        let digits = revision.to_string();
        let bytes = if self.revision_at == 0 {
            self.bytes.clone()
        } else {
            let end = self.revision_at + self.revision.to_string().len();
            let mut bytes = Vec::with_capacity(self.bytes.len() + digits.len());
            bytes.extend_from_slice(&self.bytes[..self.revision_at]);
            bytes.extend_from_slice(digits.as_bytes());
            bytes.extend_from_slice(&self.bytes[end..]);
            bytes.into()
        };
        Object {
            key: self.key.clone(),
            revision,
            bytes,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            uid: self.uid.clone(),
            deleting: self.deleting,
            revision_at: self.revision_at,
            since: self.since,
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

/// An object that is encoded but has no revision yet. The writer splices that in, so that an
/// object is encoded once and outside the writer.
#[derive(Clone)]
pub struct Draft {
    pub(super) key: Key,
    /// The JSON without `metadata.resourceVersion`.
    bytes: Vec<u8>,
    /// Where in `bytes` the member `resourceVersion` goes.
    splice_at: usize,
    labels: Labels,
    fields: Fields,
    uid: Arc<str>,
    deleting: bool,
}

impl Draft {
    /// Encodes `value`. Its own `metadata.resourceVersion` is left out.
    ///
    /// # Panics
    /// If `value` or its metadata is not an object; every write passes the registry, which makes
    /// sure of both.
    pub fn encode(key: Key, value: &Value, fields: Fields) -> Draft {
        let object = value.as_object().expect("an object of the API is a JSON object");
        let metadata = value.get("metadata").and_then(Value::as_object);
        let metadata = metadata.expect("an object of the API has metadata");
        let mut bytes = Vec::with_capacity(1024);
        let mut splice_at = 0;
        bytes.push(b'{');
        for (at, (name, member)) in object.iter().enumerate() {
            comma(&mut bytes, at > 0);
            write_json(&mut bytes, name);
            bytes.push(b':');
            if name != "metadata" {
                write_json(&mut bytes, member);
                continue;
            }
            bytes.push(b'{');
            for (name, member) in metadata {
                if name != "resourceVersion" {
                    write_json(&mut bytes, name);
                    bytes.push(b':');
                    write_json(&mut bytes, member);
                    bytes.push(b',');
                }
            }
            // The member goes last; the comma before it is already there.
            if bytes.last() == Some(&b',') {
                bytes.pop();
            }
            splice_at = bytes.len();
            bytes.push(b'}');
        }
        bytes.push(b'}');
        let (labels, uid, deleting) = indexed(value);
        Draft { key, bytes, splice_at, labels, fields, uid, deleting }
    }

    /// What it is to be stored under.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The object as JSON, without a revision.
    ///
    /// # Panics
    /// Never: the bytes were encoded by [`Draft::encode`].
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a draft is encoded as JSON")
    }

    /// How many bytes are stored, but for the revision.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The object with its revision in its bytes.
    pub fn at_revision(self, revision: Revision) -> Object {
        let digits = revision.to_string();
        let comma = self.bytes[self.splice_at - 1] != b'{';
        let member: &[u8] = if comma { b",\"resourceVersion\":\"" } else { b"\"resourceVersion\":\"" };
        let mut bytes = Vec::with_capacity(self.bytes.len() + member.len() + digits.len() + 1);
        bytes.extend_from_slice(&self.bytes[..self.splice_at]);
        bytes.extend_from_slice(member);
        let revision_at = bytes.len();
        bytes.extend_from_slice(digits.as_bytes());
        bytes.push(b'"');
        bytes.extend_from_slice(&self.bytes[self.splice_at..]);
        Object {
            key: self.key,
            revision,
            bytes: bytes.into(),
            labels: self.labels,
            fields: self.fields,
            uid: self.uid,
            deleting: self.deleting,
            revision_at,
            since: Instant::now(),
        }
    }

    /// The object as a dry run of a create shows it: with no revision.
    pub fn unwritten(self) -> Object {
        Object {
            key: self.key,
            revision: 0,
            bytes: self.bytes.into(),
            labels: self.labels,
            fields: self.fields,
            uid: self.uid,
            deleting: self.deleting,
            revision_at: 0,
            since: Instant::now(),
        }
    }
}

fn comma(bytes: &mut Vec<u8>, wanted: bool) {
    if wanted {
        bytes.push(b',');
    }
}

fn write_json(bytes: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(bytes, value).expect("JSON values and strings always encode into memory");
}

/// What the store indexes of an object's metadata.
pub(super) fn indexed(value: &Value) -> (Labels, Arc<str>, bool) {
    let metadata = &value["metadata"];
    let labels = metadata["labels"].as_object().map(|labels| {
        labels.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
    });
    let uid = metadata["uid"].as_str().unwrap_or_default();
    (labels.unwrap_or_default(), uid.into(), metadata["deletionTimestamp"].is_string())
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is new, or new to a watcher's selection.
    Added,
    /// It is another version of one that the watcher knows.
    Modified,
    /// It is gone, or gone from a watcher's selection.
    Deleted,
}

impl EventKind {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

/// One change, as all watchers share it.
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The revision of the change.
    pub revision: Revision,
    /// The new version; for Deleted the last one, with the revision of the deletion.
    pub object: Arc<Object>,
    /// The version before, if there was one.
    pub previous: Option<Arc<Object>>,
    lines: [OnceLock<Bytes>; 3],
    left: OnceLock<Arc<Object>>,
}

impl Event {
    /// A change that no watcher has seen yet.
    pub fn new(kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Event {
        let revision = object.revision;
        Event { kind, revision, object, previous, lines: Default::default(), left: OnceLock::new() }
    }

    /// The previous version with this change's revision: what a watcher is shown as deleted whose
    /// selection the object has left.
    pub fn left(&self) -> Arc<Object> {
        let previous = self.previous.as_ref().unwrap_or(&self.object);
        self.left.get_or_init(|| Arc::new(previous.at_revision(self.revision))).clone()
    }

    /// The line of a watch stream, encoded for the first watcher that asks. `kind` is the
    /// watcher's view of the change, which its selectors may make differ from [`Event::kind`].
    pub fn line(&self, kind: EventKind) -> Bytes {
        let line = || match kind {
            EventKind::Deleted if self.kind != EventKind::Deleted => watch_line(kind, &self.left()),
            _ => watch_line(kind, &self.object),
        };
        self.lines[kind as usize].get_or_init(line).clone()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.word(), self.object)
    }
}

/// `{"type":"ADDED","object":{…}}` and a line feed.
pub fn watch_line(kind: EventKind, object: &Object) -> Bytes {
    let mut line = Vec::with_capacity(object.bytes.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.word().as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(&object.bytes);
    line.extend_from_slice(b"}\n");
    line.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn draft(value: &Value) -> Draft {
        Draft::encode(Key::new("pods", "default", "a"), value, Vec::new())
    }

    #[test]
    fn the_revision_is_spliced_into_the_metadata() {
        for metadata in [
            json!({}),
            json!({"resourceVersion": "3"}),
            json!({"name": "a"}),
            json!({"name": "a", "resourceVersion": "7", "uid": "u", "labels": {"metadata": "}"}}),
            json!({"resourceVersion": "7", "uid": "u"}),
        ] {
            let value = json!({"apiVersion": "v1", "metadata": metadata, "spec": {"metadata": {}}});
            let object = draft(&value).at_revision(41);
            let mut expected = value.clone();
            expected["metadata"]["resourceVersion"] = "41".into();
            assert_eq!(object.value(), expected);
            let later = object.at_revision(1000);
            expected["metadata"]["resourceVersion"] = "1000".into();
            assert_eq!(later.value(), expected);
            expected["metadata"]["resourceVersion"] = "5".into();
            assert_eq!(later.at_revision(5).value(), expected);
        }
    }

    #[test]
    fn a_dry_run_has_no_revision() {
        let object = draft(&json!({"metadata": {"resourceVersion": "1", "name": "a"}})).unwritten();
        assert_eq!(object.value(), json!({"metadata": {"name": "a"}}));
    }

    #[test]
    fn what_is_indexed() {
        let value = json!({"metadata": {
            "uid": "u", "labels": {"a": "b"}, "deletionTimestamp": "2024-01-01T00:00:00Z"}});
        let object = draft(&value).at_revision(1);
        assert_eq!(object.labels.get("a").map(String::as_str), Some("b"));
        assert_eq!(&*object.uid, "u");
        assert!(object.deleting);
        assert!(object.selected(&Selector::parse("a=b").unwrap(), &FieldSelector::default()));
        assert!(object.selected(
            &Selector::everything(),
            &FieldSelector::parse("metadata.name=a,metadata.namespace=default").unwrap()
        ));
    }
}
