//! How the objects of an old version become today's, and back.

use serde_json::Value;

/// How an old version differs from today's.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// What is stored for an object of the old version.
    pub(super) to_stored: fn(Value) -> Value,
    /// The object of the old version for one that is stored.
    pub(super) from_stored: fn(Value) -> Value,
}

/// Only in what it is called.
pub(super) const SAME: Form = Form { to_stored: |object| object, from_stored: |object| object };
