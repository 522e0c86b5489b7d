//! What the control plane and a node say to each other about local paths: two annotations of the
//! Node, by volume.
//!
//! The control plane orders directories to be made and removed, and makes and deletes the
//! PersistentVolumes itself; the node says what has become of its orders. Neither writes the other's
//! annotation, and a word for which there is no order means nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of a Node: the control plane's orders.
pub const ANNOTATION_ORDERS: &str = "proa.dev/local-path-orders";
/// Of a Node: what has become of them.
pub const ANNOTATION_OUTCOMES: &str = "proa.dev/local-path-outcomes";
/// Held on a volume until its directory is removed.
pub const FINALIZER: &str = "proa.dev/local-path";

/// So many orders stand at a time, so that an annotation holds them; the others have their turn later.
pub const MAX_ORDERS: usize = 500;
/// So many characters of an error are told.
pub const MAX_ERROR_CHARS: usize = 200;

/// What a node is to do with the directory of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Make it.
    Make,
    /// Remove it with all that is in it, once no pod has it.
    Remove,
}

/// What has become of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is there, at this path of the node.
    Made(String),
    /// It is not there any more.
    Removed,
    /// Not yet, for this reason; it is tried again.
    Failed(String),
}

/// By the names of volumes.
pub type Orders = BTreeMap<String, Order>;
/// By the names of volumes.
pub type Outcomes = BTreeMap<String, Outcome>;

/// Reads one of the annotations; what cannot be read says nothing.
pub fn read<T: for<'a> Deserialize<'a>>(annotation: Option<&str>) -> BTreeMap<String, T> {
    annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The text of an annotation; `None`, for no annotation, if there is nothing to say.
pub fn write<T: Serialize>(entries: &BTreeMap<String, T>) -> Option<String> {
    (!entries.is_empty()).then(|| serde_json::to_string(entries).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_hold_what_was_written() {
        let orders = Orders::from([("a".to_owned(), Order::Make), ("b".to_owned(), Order::Remove)]);
        let text = write(&orders).unwrap();
        assert_eq!(text, r#"{"a":"make","b":"remove"}"#);
        assert_eq!(read::<Order>(Some(&text)), orders);
        let outcomes = Outcomes::from([
            ("a".to_owned(), Outcome::Made("/x/a".to_owned())),
            ("b".to_owned(), Outcome::Removed),
            ("c".to_owned(), Outcome::Failed("why".to_owned())),
        ]);
        let text = write(&outcomes).unwrap();
        assert_eq!(text, r#"{"a":{"made":"/x/a"},"b":"removed","c":{"failed":"why"}}"#);
        assert_eq!(read::<Outcome>(Some(&text)), outcomes);
        assert_eq!(write(&Orders::new()), None);
        for text in [None, Some(""), Some("[]"), Some(r#"{"a":"other"}"#)] {
            assert_eq!(read::<Order>(text), Orders::new(), "{text:?}");
        }
    }
}
