//! update and patch.

use std::sync::Arc;

use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::{Kind, Part};
use serde_json::{Map, Value};

use super::{
    ATTEMPTS, Caller, Registry, Target, Unwritten, WriteOptions, certificates, is_core, metadata, now, scale,
};
use crate::admission::{node, pod_security};
use crate::store::{Change, Expect, Object, Write};

/// Metadata that a writer of the status may change, as stock controllers do.
const OPEN_TO_STATUS: [&str; 3] = ["labels", "annotations", "finalizers"];

impl Registry {
    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    pub(super) async fn update_stored(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        target: Target,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        tracing::debug!(user = caller.user, kind = kind.kind, namespace, name, ?target, "update");
        for _ in 0..ATTEMPTS {
            let current = self.get_stored(kind, namespace, name)?;
            let new = body.clone();
            let version = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let unconditional = is_any_version(version);
            match self.replace(caller, kind, &current, target, new, options).await {
                Ok(made) => return Ok(made),
                Err(Unwritten::Raced) if unconditional => {}
                Err(Unwritten::Raced) => break,
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(kind.resource(), name))
    }

    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    pub(super) async fn patch_stored(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        target: Target,
        change: &(dyn Fn(&Value) -> Result<Value, Refusal> + Send + Sync),
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        tracing::debug!(user = caller.user, kind = kind.kind, namespace, name, ?target, "patch");
        for _ in 0..ATTEMPTS {
            let current = self.get_stored(kind, namespace, name)?;
            let new = match target {
                Target::Scale => change(&self.scale(kind, &current)?)?,
                Target::Main | Target::Status | Target::Approval => change(&current.value())?,
            };
            match self.replace(caller, kind, &current, target, new, options).await {
                Ok(made) => return Ok(made),
                // A patch that names a version is applied to the next one and refused by it.
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(kind.resource(), name))
    }

    /// Puts `new` in the place of `current`, or of one of its subresources.
    #[allow(clippy::too_many_arguments, reason = "a verb of the API takes what its request holds")]
    async fn replace(
        &self,
        caller: &Caller,
        kind: &Kind,
        current: &Arc<Object>,
        target: Target,
        new: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Unwritten> {
        let (namespace, name) = (&*current.key.namespace, &*current.key.name);
        let mut new = metadata::shape(kind, new)?;
        metadata::check_identity(kind, namespace, name, &mut new)?;
        let version = metadata::text(&new, "resourceVersion");
        if is_any_version(version) {
            // A Scale is no object of its own that could be overwritten.
            if !kind.unconditional_update && target != Target::Scale {
                return Err(unversioned(kind, name).into());
            }
        } else if version != current.revision.to_string() {
            return Err(Refusal::stale(kind.resource(), name).into());
        }
        let old = current.value();
        if target == Target::Scale {
            new = scale::apply(kind, &old, &new)?;
        }
        metadata::check_kept(kind, &old, &mut new)?;
        let part = match target {
            Target::Main | Target::Scale => Part::Main,
            Target::Status => Part::Status,
            Target::Approval => Part::Approval,
        };
        let mut new = match part {
            Part::Main => with_main_of(kind, &old, new),
            Part::Status | Part::Approval => with_status_of(&old, new),
        };
        node::check_update(caller, kind, target, &old, &new)?;
        let admission = &self.0.admission;
        if part == Part::Main {
            admission.before_update(&self.0.store, kind, &old, &mut new)?;
        }
        let mut new = (kind.hooks.update)(&old, new, part)?;
        metadata::keep(&old, &mut new);
        certificates::stamp(kind, &old, &mut new, now());
        admission.check_node_addresses(&self.0.store, caller, kind, Some(&old), &new)?;
        if target == Target::Main {
            pod_security::check_update(&self.0.store, kind, &old, &new, &options.warnings)?;
        }
        let reservation = admission.after_update(&self.0.store, kind, &old, &mut new)?;
        if part == Part::Main {
            metadata::bump_generation(kind, &old, &mut new);
        }
        let written = self.write_over(kind, current, &old, new, options.dry_run).await?;
        if !options.dry_run {
            reservation.keep();
        }
        Ok(written)
    }

    /// Writes `new` if it differs from `old`, or removes the object if it is on its way out and
    /// `new` is held by nothing any more.
    pub(super) async fn write_over(
        &self,
        kind: &Kind,
        current: &Arc<Object>,
        old: &Value,
        mut new: Value,
        dry_run: bool,
    ) -> Result<Arc<Object>, Unwritten> {
        metadata::metadata(&mut new)
            .insert("resourceVersion".to_owned(), current.revision.to_string().into());
        let released = metadata::is_released(&new);
        if !released && &new == old {
            return Ok(current.clone());
        }
        let draft = self.bounded_draft(kind, current.key.clone(), &new, current.bytes.len())?;
        let stays = (!released).then_some(new);
        let settle = self.settlement(kind, &current.key.namespace, Some(current.clone()), stays);
        if dry_run {
            if let Some(settle) = settle {
                self.0.store.settle_dry(settle)?;
            }
            return Ok(Arc::new(draft.at_revision(current.revision)));
        }
        let expect = Expect::Revision(current.revision);
        if released {
            let gone = Write { change: Change::Delete(current.key.clone()), expect, guard: None };
            let gone = self.0.store.write_and_settle(gone, settle).await?;
            self.0.admission.after_delete(kind, &gone);
            return Ok(Arc::new(draft.at_revision(gone.revision)));
        }
        let write = Write { change: Change::Put(draft), expect, guard: None };
        Ok(self.0.store.write_and_settle(write, settle).await?)
    }
}

/// `new` with the parts of `old` that a write of the main resource leaves alone.
fn with_main_of(kind: &Kind, old: &Value, mut new: Value) -> Value {
    if kind.has_status {
        copy(old, &mut new, "status");
    }
    if is_core(kind, "Namespace") {
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

/// True for a version that says: whatever is there.
fn is_any_version(version: &str) -> bool {
    matches!(version, "" | "0")
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
