//! What the verbs that read are asked with, and what they give back.

use std::sync::Arc;
use std::time::Duration;

use proa_api::selector::{FieldSelector, Selector};

use crate::store::{Object, Revision};

/// What a list is to hold.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// By labels.
    pub labels: Selector,
    /// By fields.
    pub fields: FieldSelector,
    /// The most items; 0 for all.
    pub limit: usize,
    /// Where an earlier list was cut.
    pub continue_token: Option<String>,
    /// As the `resourceVersion` parameter.
    pub resource_version: Option<String>,
    /// As the `resourceVersionMatch` parameter.
    pub resource_version_match: Option<String>,
}

/// What a watch is to show.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// By labels.
    pub labels: Selector,
    /// By fields.
    pub fields: FieldSelector,
    /// Where to start: absent, empty or `0` for the state as it is now.
    pub resource_version: Option<String>,
    /// True if the client understands bookmarks.
    pub bookmarks: bool,
    /// Starts with the state and marks its end with a bookmark, or starts without it. If absent, that
    /// depends on where to start.
    pub send_initial_events: Option<bool>,
    /// Ends the watch after this time.
    pub timeout: Option<Duration>,
}

/// A list.
#[derive(Clone, Debug)]
pub struct List {
    /// By namespace and name.
    pub items: Vec<Arc<Object>>,
    /// What the list shows; a watch from here misses nothing.
    pub revision: Revision,
    /// Where the list goes on if it was cut.
    pub continue_token: Option<String>,
    /// How many more there are, if the list was cut and has no selectors.
    pub remaining: Option<u64>,
}
