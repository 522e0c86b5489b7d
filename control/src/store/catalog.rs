//! What the store is told of the resources that it holds.

use std::time::Duration;

use serde_json::Value;

use super::object::{Fields, Key};

/// What the store must be told of a resource. Unless told otherwise, it is kept as safe as can be, for
/// ever, and nothing of it is indexed.
pub trait Catalog: Send + Sync {
    /// True if writes need not be on disk before they are acknowledged. Must not change while a
    /// store is open.
    fn is_lazy(&self, _resource: &str) -> bool {
        false
    }

    /// True if writes of this object go before those that wait, and need no place among them: what all else
    /// hangs on, of which there is little.
    fn goes_ahead(&self, _key: &Key) -> bool {
        false
    }

    /// How long objects live after their last change, if they do not live until they are deleted.
    /// Counted anew after a restart.
    fn time_to_live(&self, _resource: &str) -> Option<Duration> {
        None
    }

    /// The selectable fields of an object.
    fn fields(&self, _resource: &str, _object: &Value) -> Fields {
        Fields::new()
    }
}
