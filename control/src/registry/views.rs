//! Kinds that are views: another version of what is stored, made from it and back.
//!
//! Which there are, and how they differ, stands in the table of kinds ([`View`]). Objects of a view
//! share key, uid and revision with what is stored.

use std::sync::Arc;

use proa_api::selector::FieldSelector;
use proa_kinds::{Kind, View};
use serde_json::Value;

use super::Registry;
use crate::store::{Draft, Fields, Object};
use crate::watch::{Line, WatchItem};

/// A view together with the kind that is stored for it.
#[derive(Clone)]
pub(super) struct Viewed {
    /// The row of what is stored.
    pub stored: Arc<Kind>,
    view: View,
    api_version: String,
}

impl Registry {
    /// What is stored for a kind that is a view of it.
    pub(super) fn viewed(&self, kind: &Kind) -> Option<Viewed> {
        let view = kind.view.clone()?;
        let stored = self.kinds().by_plural(&view.of.0, &view.of.1, &kind.plural)?.clone();
        Some(Viewed { stored, view, api_version: kind.api_version() })
    }
}

impl Viewed {
    /// What is stored for an object of the view.
    pub fn to_stored(&self, value: Value) -> Value {
        let mut stored = (self.view.to_stored)(value);
        name(&mut stored, &self.stored.api_version());
        stored
    }

    /// The object of the view for one that is stored.
    pub fn to_view(&self, value: Value) -> Value {
        shown_as(&self.view, &self.api_version, value)
    }

    /// A field selector of the view, on the fields of what is stored.
    pub fn to_stored_fields(&self, mut selector: FieldSelector) -> FieldSelector {
        for requirement in &mut selector.0 {
            requirement.field = (self.view.stored_field)(&requirement.field);
        }
        selector
    }

    /// A stored object as the view's clients see it.
    pub fn shown(&self, kind: &Kind, stored: &Object) -> Arc<Object> {
        let value = self.to_view(stored.value());
        let fields = kind.fields(&value);
        Arc::new(seen(stored, &value, fields))
    }
}

fn shown_as(view: &View, api_version: &str, stored: Value) -> Value {
    let mut shown = (view.from_stored)(stored);
    name(&mut shown, api_version);
    shown
}

/// Says which version an object is of. One that says nothing is for those to fill in who know.
fn name(object: &mut Value, api_version: &str) {
    if let Some(said) = object.get_mut("apiVersion") {
        *said = api_version.into();
    }
}

fn seen(stored: &Object, value: &Value, fields: Fields) -> Object {
    let draft = Draft::encode(stored.key.clone(), value, fields);
    if stored.revision == 0 { draft.unwritten() } else { draft.at_revision(stored.revision) }
}

/// An item of a watch as the view's clients see it.
pub(super) fn shown_item(view: &View, api_version: &str, item: WatchItem) -> WatchItem {
    match item {
        WatchItem::Event(kind, object, _) => {
            let value = shown_as(view, api_version, object.value());
            let object = Arc::new(seen(&object, &value, object.fields.clone()));
            let line = Line::ready(crate::store::watch_line(kind, &object));
            WatchItem::Event(kind, object, line)
        }
        other => other,
    }
}
