//! update and patch, and what the server itself changes.

use std::sync::Arc;

use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::{Kind, Part};
use serde_json::{Map, Value};

use super::request::Target;
use super::stage::{Operation, is};
use super::{Changer, Intent, Outcome, Pipeline, Unwritten, metadata, scale};
use crate::store::Object;

/// Metadata that a writer of the status may change, as stock controllers do.
const OPEN_TO_STATUS: [&str; 3] = ["labels", "annotations", "finalizers"];

impl Pipeline {
    pub(super) async fn update(
        &self,
        intent: &Intent,
        target: Target,
        change: &Changer,
    ) -> Result<Outcome, Unwritten> {
        let kind = &intent.kind;
        let current = self.load(intent)?;
        let old = current.value();
        let new = metadata::shape(kind, change(&current, &old)?)?;
        let (part, new) = merged(intent, &current, &old, target, new)?;
        let attempt = self.attempt(intent, &intent.name, Operation::Update(target), Some(&old));
        let stages = self.stages(kind);
        let new = self.mutate(&attempt, &stages, new).await?;
        let mut new = (kind.hooks.update)(&old, new, part)?;
        metadata::keep(&old, &mut new);
        self.validate(&attempt, &stages, &new).await?;
        if part == Part::Main {
            metadata::bump_generation(kind, &old, &mut new);
        }
        self.commit(&attempt, &stages, Some(&current), new).await
    }

    /// What the server makes of what is stored is not under the rules of what clients may change, but
    /// it holds what clients have sent: it must still be an object of its kind.
    pub(super) async fn connect(
        &self,
        intent: &Intent,
        part: &'static str,
        change: &Changer,
    ) -> Result<Outcome, Unwritten> {
        let current = self.load(intent)?;
        let old = current.value();
        let new = (intent.kind.hooks.connect)(&old, change(&current, &old)?)?;
        let attempt = self.attempt(intent, &intent.name, Operation::Connect(part), Some(&old));
        let stages = self.stages(&intent.kind);
        self.validate(&attempt, &stages, &new).await?;
        self.commit(&attempt, &stages, Some(&current), new).await
    }
}

/// The whole object that a change of one of its parts asks for.
fn merged(
    intent: &Intent,
    current: &Arc<Object>,
    old: &Value,
    target: Target,
    mut new: Value,
) -> Result<(Part, Value), Refusal> {
    let (kind, name) = (&intent.kind, &intent.name);
    metadata::check_named(name, &new)?;
    metadata::check_identity(kind, &intent.namespace, name, &mut new)?;
    let version = metadata::text(&new, "resourceVersion");
    if metadata::is_any_version(version) {
        // A Scale is no object of its own that could be overwritten.
        if !kind.unconditional_update && target != Target::Scale {
            return Err(unversioned(kind, name));
        }
    } else if version != current.revision.to_string() {
        return Err(Refusal::stale(kind.resource(), name));
    }
    if target == Target::Scale {
        new = scale::apply(kind, old, &new)?;
    }
    metadata::check_kept(kind, old, &mut new)?;
    Ok(match target {
        Target::Main | Target::Scale => (Part::Main, with_main_of(kind, old, new)),
        Target::Status => (Part::Status, with_status_of(old, new)),
        Target::Approval => (Part::Approval, with_status_of(old, new)),
    })
}

/// `new` with the parts of `old` that a write of the main resource leaves alone.
fn with_main_of(kind: &Kind, old: &Value, mut new: Value) -> Value {
    if kind.has_status {
        copy(old, &mut new, "status");
    }
    if is(kind, "", "Namespace") {
        // Only the finalize subresource changes these.
        let finalizers = old["spec"]["finalizers"].clone();
        if let (Some(object), false) = (new.as_object_mut(), finalizers.is_null()) {
            let spec = object.entry("spec").or_insert_with(|| Value::Object(Map::new()));
            if let Some(spec) = spec.as_object_mut() {
                spec.insert("finalizers".to_owned(), finalizers);
            }
        }
    }
    new
}

/// `old` with the status of `new`, and with what of the metadata goes with it.
fn with_status_of(old: &Value, new: Value) -> Value {
    let mut result = old.clone();
    copy(&new, &mut result, "status");
    for member in OPEN_TO_STATUS {
        match new["metadata"].get(member) {
            Some(value) => metadata::metadata(&mut result).insert(member.to_owned(), value.clone()),
            None => metadata::metadata(&mut result).remove(member),
        };
    }
    result
}

fn unversioned(kind: &Kind, name: &str) -> Refusal {
    let mut errors = FieldErrors::new();
    let path = Path::root("metadata");
    errors.invalid_unsigned(&path.field("resourceVersion"), 0, "must be specified for an update");
    Refusal::invalid(&kind.group, &kind.plural, name, &errors)
}

fn copy(from: &Value, to: &mut Value, member: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(member) {
        Some(value) => to.insert(member.to_owned(), value.clone()),
        None => to.remove(member),
    };
}
