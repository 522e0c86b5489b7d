//! What stands in one entry of the file: objects and changes, written and read.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::store::catalog::Catalog;
use crate::store::error::StoreError;
use crate::store::object::{Event, EventKind, Key, Object, Revision, indexed};

/// Revision (8 bytes) and where it stands in the JSON (4 bytes).
const HEADER_BYTES: usize = 12;

pub(super) fn key_text(key: &Key) -> String {
    [&*key.resource, "\0", &*key.namespace, "\0", &*key.name].concat()
}

pub(super) fn entry_bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

pub(super) fn write_object(buffer: &mut Vec<u8>, object: &Object) {
    buffer.clear();
    append_object(buffer, object);
}

fn append_object(buffer: &mut Vec<u8>, object: &Object) {
    let revision_at = u32::try_from(object.revision_at).expect("a request body is far below 4 GiB");
    buffer.extend_from_slice(&object.revision.to_le_bytes());
    buffer.extend_from_slice(&revision_at.to_le_bytes());
    buffer.extend_from_slice(&object.bytes);
}

pub(super) fn write_change(buffer: &mut Vec<u8>, event: &Event) {
    let key = key_text(&event.object.key);
    let length = u16::try_from(key.len()).expect("names are at most a few hundred bytes");
    buffer.clear();
    buffer.push(event.kind as u8);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(key.as_bytes());
    if let Some(previous) = &event.previous {
        append_object(buffer, previous);
    }
}

/// Reads entries.
pub(super) struct Reader<'r> {
    /// Of this file.
    pub path: &'r Path,
    pub catalog: &'r dyn Catalog,
    /// When.
    pub since: Instant,
}

impl Reader<'_> {
    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), what }
    }

    pub fn read_object(&self, key: &str, value: &[u8]) -> Result<Object, StoreError> {
        let damaged = |what: &str| self.damaged(format!("{}: {what}", key.replace('\0', "/")));
        let mut parts = key.split('\0');
        let (Some(resource), Some(namespace), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(damaged("the key has not three parts"));
        };
        let Some((header, json)) = value.split_at_checked(HEADER_BYTES) else {
            return Err(damaged("the entry is too short"));
        };
        let revision = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
        let revision_at = u32::from_le_bytes(header[8..].try_into().expect("four bytes")) as usize;
        let parsed: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        let digits = revision.to_string();
        if json.get(revision_at..revision_at + digits.len()) != Some(digits.as_bytes()) {
            return Err(damaged("its revision is not where the header says"));
        }
        let (labels, uid, deleting) = indexed(&parsed);
        Ok(Object {
            key: Key::new(resource, namespace, name),
            revision,
            bytes: Bytes::copy_from_slice(json),
            labels,
            fields: self.catalog.fields(resource, &parsed),
            uid,
            deleting,
            revision_at,
            since: self.since,
        })
    }

    /// Reads a change; `newest` holds each object as it was after it, and then before it.
    pub fn read_change(
        &self,
        revision: Revision,
        value: &[u8],
        newest: &mut HashMap<Key, Arc<Object>>,
    ) -> Result<Event, StoreError> {
        let damaged = || self.damaged(format!("change {revision} cannot be read"));
        let (&[kind, low, high], rest) = value.split_first_chunk::<3>().ok_or_else(damaged)?;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (key, previous) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let key = std::str::from_utf8(key).map_err(|_| damaged())?;
        let previous = match previous {
            [] => None,
            bytes => Some(Arc::new(self.read_object(key, bytes)?)),
        };
        let object_key = match &previous {
            Some(previous) => previous.key.clone(),
            None => {
                let mut parts = key.splitn(3, '\0').map(str::to_owned);
                let mut part = || parts.next().unwrap_or_default();
                Key::new(part(), &part(), &part())
            }
        };
        let kind = match kind {
            0 => EventKind::Added,
            1 => EventKind::Modified,
            2 => EventKind::Deleted,
            _ => return Err(damaged()),
        };
        let object = match (kind, &previous) {
            (EventKind::Deleted, Some(previous)) => Arc::new(previous.at_revision(revision)),
            _ => newest.get(&object_key).filter(|o| o.revision == revision).cloned().ok_or_else(damaged)?,
        };
        match &previous {
            Some(previous) => newest.insert(object_key, previous.clone()),
            None => newest.remove(&object_key),
        };
        Ok(Event::new(kind, object, previous))
    }
}
