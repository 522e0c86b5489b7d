//! Parts of objects: what a write is about, and what is written by it alone.
//!
//! The table says which members of an object its subresources own. A write of one of them changes
//! nothing else; a write of the object itself leaves them alone.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::selector::{Labels, Selector};
use serde_json::{Map, Value};

use crate::schema::Text;

/// Metadata that a writer of any part may change, as stock controllers do.
const OPEN: [&str; 3] = ["labels", "annotations", "finalizers"];
const MEMBER_VERBS: &[&str] = &["get", "patch", "update"];

/// The verbs of `proxy`, one for each method that is carried.
pub const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// What of an object is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All that no subresource owns.
    Main,
    /// What the subresource of this name owns.
    Sub(Text),
}

impl Part {
    /// The status.
    pub const STATUS: Part = Part::Sub(Cow::Borrowed("status"));
    /// What was decided about a CertificateSigningRequest.
    pub const APPROVAL: Part = Part::Sub(Cow::Borrowed("approval"));
    /// What holds a namespace that is to go.
    pub const FINALIZE: Part = Part::Sub(Cow::Borrowed("finalize"));
    /// The size: what is written is an `autoscaling/v1 Scale`.
    pub const SCALE: Part = Part::Sub(Cow::Borrowed("scale"));
}

/// A subresource: a part of an object, or something to do with it, that has a path of its own.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `log`.
    pub name: Text,
    /// Group, version and kind of what it takes and gives, if that is not the object itself.
    pub takes: Option<(Text, Text, Text)>,
    /// `get`, `create`, …
    pub verbs: &'static [&'static str],
    /// What it shows of the object, or does with it.
    pub facet: Facet,
}

/// What a subresource shows of an object, or does with it.
#[derive(Clone, Debug)]
pub enum Facet {
    /// Members of the object.
    Members {
        /// Where they stand, as JSON pointers.
        pointers: Vec<Text>,
        /// True if whoever makes the object may set them too.
        at_create: bool,
    },
    /// The object's size, as an `autoscaling/v1 Scale`.
    Scale(ScalePaths),
    /// Something to do with it: the API server knows what.
    Action,
}

/// Where a kind keeps what `autoscaling/v1 Scale` shows, as JSON pointers.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// `/spec/replicas`.
    pub spec_replicas: Text,
    /// `/status/replicas`.
    pub status_replicas: Text,
    /// `/spec/selector`; a LabelSelector object, a plain map or the text of a selector.
    pub selector: Text,
}

/// The size of an object, as an `autoscaling/v1 Scale` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Replicas that are wanted.
    pub wanted: i64,
    /// Replicas that there are.
    pub there: i64,
    /// What selects their pods, as text; empty if nothing does.
    pub selector: String,
}

impl ScalePaths {
    /// The size of an object.
    pub fn read(&self, object: &Value) -> Size {
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        Size {
            wanted: number(&self.spec_replicas),
            there: number(&self.status_replicas),
            selector: object.pointer(&self.selector).map(selector_text).unwrap_or_default(),
        }
    }

    /// Where the built-in workloads keep them.
    pub const OF_WORKLOADS: ScalePaths = ScalePaths {
        spec_replicas: Cow::Borrowed("/spec/replicas"),
        status_replicas: Cow::Borrowed("/status/replicas"),
        selector: Cow::Borrowed("/spec/selector"),
    };
}

impl Subresource {
    /// The status, which only its own writers write.
    pub fn status() -> Self {
        Subresource::members("status", ["/status"])
    }

    /// The members at these pointers, which whoever makes an object has no say in.
    pub fn members<const N: usize>(name: impl Into<Text>, pointers: [&'static str; N]) -> Self {
        let facet = Facet::Members { pointers: pointers.map(Text::from).to_vec(), at_create: false };
        Subresource { name: name.into(), takes: None, verbs: MEMBER_VERBS, facet }
    }

    /// The same members, which whoever makes an object may set too.
    pub fn and_at_create(mut self) -> Self {
        if let Facet::Members { at_create, .. } = &mut self.facet {
            *at_create = true;
        }
        self
    }

    /// The size of what has replicas.
    pub fn scale(paths: ScalePaths) -> Self {
        let takes = Some(("autoscaling".into(), "v1".into(), "Scale".into()));
        Subresource { name: "scale".into(), takes, verbs: MEMBER_VERBS, facet: Facet::Scale(paths) }
    }

    /// Something to do with an object.
    pub fn action(
        name: &'static str,
        takes: Option<(&'static str, &'static str, &'static str)>,
        verbs: &'static [&'static str],
    ) -> Self {
        let takes = takes.map(|(group, version, kind)| (group.into(), version.into(), kind.into()));
        Subresource { name: name.into(), takes, verbs, facet: Facet::Action }
    }
}

/// A new object without what only these subresources write.
pub(crate) fn without_parts(subresources: &[Subresource], mut new: Value) -> Value {
    for subresource in subresources {
        if let Facet::Members { pointers, at_create: false } = &subresource.facet {
            pointers.iter().for_each(|pointer| set(&mut new, pointer, None));
        }
    }
    new
}

/// The whole object that a write of one part asks for, among these subresources.
pub(crate) fn with_part(subresources: &[Subresource], part: &Part, old: &Value, mut new: Value) -> Value {
    let members = subresources.iter().filter_map(|subresource| match &subresource.facet {
        Facet::Members { pointers, .. } => Some((&subresource.name, pointers)),
        _ => None,
    });
    let Part::Sub(name) = part else {
        members.for_each(|(_, pointers)| copy(old, &mut new, pointers));
        return new;
    };
    let mut whole = old.clone();
    members.filter(|(of, _)| *of == name).for_each(|(_, pointers)| copy(&new, &mut whole, pointers));
    for member in OPEN {
        let pointer = format!("/metadata/{member}");
        set(&mut whole, &pointer, new.pointer(&pointer).cloned());
    }
    whole
}

fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let plain: Result<Labels, _> = serde_json::from_value(selector.clone());
    match plain {
        Ok(map) => Selector::from_map(&map).to_string(),
        Err(_) => match serde_json::from_value::<LabelSelector>(selector.clone()) {
            Ok(selector) => Selector::from_object(Some(&selector)).to_string(),
            Err(_) => String::new(),
        },
    }
}

fn copy(from: &Value, to: &mut Value, pointers: &[Text]) {
    pointers.iter().for_each(|pointer| set(to, pointer, from.pointer(pointer).cloned()));
}

/// Sets or removes the member at a pointer. What stands in the way and is no object is left alone:
/// decoding refuses it.
fn set(object: &mut Value, pointer: &str, value: Option<Value>) {
    let mut place = object;
    let mut steps = pointer.split('/').skip(1).peekable();
    while let Some(step) = steps.next() {
        if place.is_null() && value.is_some() {
            *place = Value::Object(Map::new());
        }
        let Some(members) = place.as_object_mut() else { return };
        if steps.peek().is_none() {
            match value {
                Some(value) => members.insert(step.to_owned(), value),
                None => members.remove(step),
            };
            return;
        }
        place = members.entry(step).or_insert(Value::Null);
    }
}
