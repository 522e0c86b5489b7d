//! update and patch, and what the server itself changes.

use std::sync::Arc;

use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::{Kind, Part, Write};
use serde_json::Value;

use super::stage::Operation;
use super::{Changer, Intent, Outcome, Pipeline, Unwritten, metadata, scale};
use crate::store::Object;

impl Pipeline {
    pub(super) async fn update(
        &self,
        intent: &Intent,
        part: &Part,
        change: &Changer,
    ) -> Result<Outcome, Unwritten> {
        let kind = &intent.kind;
        let current = self.load(intent)?;
        let old = current.value();
        let new = metadata::shape(kind, change(&current, &old)?)?;
        let (written, new) = wanted(intent, &current, &old, part, new)?;
        let attempt = self.attempt(intent, &intent.name, Operation::Update(part.clone()), Some(&old));
        let stages = self.stages(kind);
        let mut new = self.judge(&attempt, &stages, Write::Update(&old, written), new).await?;
        metadata::keep(&old, &mut new);
        self.validate(&attempt, &stages, &new).await?;
        if *written == Part::Main {
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
        let new = intent.kind.apply_rules(Write::Connect(&old), change(&current, &old)?)?;
        let attempt = self.attempt(intent, &intent.name, Operation::Connect(part), Some(&old));
        let stages = self.stages(&intent.kind);
        self.validate(&attempt, &stages, &new).await?;
        self.commit(&attempt, &stages, Some(&current), new).await
    }
}

/// What a client wants to be written, once it is about the object that is there, and of which part.
fn wanted<'a>(
    intent: &Intent,
    current: &Arc<Object>,
    old: &Value,
    part: &'a Part,
    mut new: Value,
) -> Result<(&'a Part, Value), Refusal> {
    let (kind, name) = (&intent.kind, &intent.name);
    metadata::check_named(name, &new)?;
    metadata::check_identity(kind, &intent.namespace, name, &mut new)?;
    // A Scale is no object of its own that could be overwritten.
    let is_scale = *part == Part::SCALE;
    let version = metadata::text(&new, "resourceVersion");
    if metadata::is_any_version(version) {
        if !kind.unconditional_update && !is_scale {
            return Err(unversioned(kind, name));
        }
    } else if version != current.revision.to_string() {
        return Err(Refusal::stale(kind.resource(), name));
    }
    if is_scale {
        new = scale::apply(kind, old, &new)?;
    }
    metadata::check_kept(kind, old, &mut new)?;
    Ok((if is_scale { &Part::Main } else { part }, new))
}

fn unversioned(kind: &Kind, name: &str) -> Refusal {
    let mut errors = FieldErrors::new();
    let path = Path::root("metadata");
    errors.invalid_unsigned(&path.field("resourceVersion"), 0, "must be specified for an update");
    Refusal::invalid(&kind.group, &kind.plural, name, &errors)
}
