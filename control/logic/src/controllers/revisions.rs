//! Revisions: the history of a workload's template, one ControllerRevision per template.
//!
//! Read by DaemonSet and StatefulSet, and by `kubectl rollout history` and `undo`: the data of a
//! revision is a strategic merge patch that brings its template back. The revision of the newest
//! template has the highest number, so a roll-back makes an old revision the newest again.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::names;
use proa_api::owner::controller_of;
use serde_json::{Value, json};

use super::claims::Owner;
use super::templates;
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

/// Label of a pod: the revision of its template.
pub(super) const LABEL_REVISION: &str = "controller-revision-hash";

/// The revisions of a workload.
#[derive(Debug)]
pub(super) struct Revisions {
    /// The name of the one with the template of now, which the plan makes if need be.
    pub name: String,
    /// The hash in that name.
    pub hash: String,
    /// All that there are, oldest first.
    pub all: Vec<Arc<ControllerRevision>>,
}

/// The name of the newest revision is taken by another template: the hash has to be made anew,
/// with one more collision counted.
#[derive(Debug)]
pub(super) struct Collision;

/// A template and where it comes from.
pub(super) struct Source<'a> {
    /// The workload.
    pub owner: &'a Owner,
    /// Its metadata.
    pub meta: &'a ObjectMeta,
    /// Its template.
    pub template: &'a PodTemplateSpec,
    /// How often a hash has been taken before.
    pub collisions: i32,
}

/// Finds the revisions of a workload. The plan gets what is to be adopted, made or renumbered.
pub(super) fn sync(seen: &Observed, source: &Source<'_>, plan: &mut Plan) -> Result<Revisions, Collision> {
    let all = history(seen, source, plan);
    let data = data(source.template);
    let newest = all.iter().map(|r| r.revision).max().unwrap_or(0);
    if let Some(equal) = all.iter().rev().find(|r| r.data.as_ref().is_some_and(|d| d.0 == data)) {
        let highest_other = all.iter().filter(|r| !Arc::ptr_eq(r, equal)).map(|r| r.revision).max();
        if highest_other.is_some_and(|highest| highest >= equal.revision) {
            plan.act(patch(equal, json!({ "revision": newest + 1 })));
        }
        let name = equal.metadata.name.clone().unwrap_or_default();
        let hash = name.rsplit('-').next().unwrap_or_default().to_owned();
        return Ok(Revisions { name, hash, all });
    }
    let hash = templates::hash(source.template, source.collisions);
    let owner = &source.owner.reference;
    let name = format!("{}-{hash}", owner.name);
    if seen.controller_revisions.get(&Key::new(&owner.namespace, &name)).is_some() {
        return Err(Collision);
    }
    plan.act(Verb::Create {
        api_version: "apps/v1",
        kind: "ControllerRevision",
        namespace: owner.namespace.to_string(),
        body: body(source, &name, &hash, data, newest + 1),
    });
    Ok(Revisions { name, hash, all })
}

fn history(seen: &Observed, source: &Source<'_>, plan: &mut Plan) -> Vec<Arc<ControllerRevision>> {
    let owner = source.owner;
    let uid = owner.owner_reference.uid.as_str();
    let mut all = Vec::new();
    for (_, revision) in seen.controller_revisions.in_namespace(&owner.reference.namespace) {
        match controller_of(&revision.metadata) {
            Some(other) if other.uid == uid => all.push(revision.clone()),
            Some(_) => {}
            None => {
                let free = revision.metadata.deletion_timestamp.is_none();
                if free && owner.selector.matches(revision.metadata.labels.as_ref()) {
                    let mut owners = revision.metadata.owner_references.clone().unwrap_or_default();
                    owners.push(owner.owner_reference.clone());
                    plan.act(patch(revision, json!({ "metadata": { "ownerReferences": owners } })));
                    all.push(revision.clone());
                }
            }
        }
    }
    all.sort_by_key(|r| (r.revision, r.metadata.creation_timestamp.clone(), r.metadata.name.clone()));
    all
}

/// The patch that brings a template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    sorted(json!({ "spec": { "template": template } }))
}

/// The same with the members of objects in alphabetical order, as kubectl compares the bytes.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members.into_iter().collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().map(|(k, v)| (k, sorted(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// The template that a revision holds.
pub(super) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.pointer("/spec/template")?;
    serde_json::from_value(template.clone()).ok()
}

fn body(source: &Source<'_>, name: &str, hash: &str, data: Value, revision: i64) -> Value {
    let template_labels = source.template.metadata.as_ref().and_then(|m| m.labels.clone());
    let mut labels = template_labels.unwrap_or_default();
    labels.insert(LABEL_REVISION.to_owned(), hash.to_owned());
    let mut annotations = source.meta.annotations.clone().unwrap_or_default();
    annotations.remove(names::ANNOTATION_LAST_APPLIED);
    json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": &*source.owner.reference.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [source.owner.owner_reference],
        },
        "data": data,
        "revision": revision,
    })
}

fn patch(revision: &ControllerRevision, change: Value) -> Verb {
    let version = revision.metadata.resource_version.as_deref().unwrap_or_default();
    Verb::Patch {
        target: Reference::to(revision),
        part: Part::Main,
        guard: Guard::unchanged(version),
        change: Change::Merge(change),
    }
}

/// Deletes the oldest revisions that nobody is made from and that are beyond the limit. `live` has
/// the names and hashes of those that are in use.
pub(super) fn clean_up(revisions: &Revisions, live: &BTreeSet<&str>, limit: Option<i32>, plan: &mut Plan) {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let name = |r: &ControllerRevision| r.metadata.name.clone().unwrap_or_default();
    let unused = revisions.all.iter().filter(|r| {
        let name = name(r);
        let hash = r.metadata.labels.as_ref().and_then(|l| l.get(LABEL_REVISION));
        name != revisions.name
            && !live.contains(name.as_str())
            && hash.is_none_or(|hash| !live.contains(hash.as_str()))
            && r.metadata.deletion_timestamp.is_none()
    });
    let unused: Vec<&Arc<ControllerRevision>> = unused.collect();
    let excess = unused.len().saturating_sub(limit);
    for revision in unused.into_iter().take(excess) {
        plan.act(Verb::Delete {
            target: Reference::to(&**revision),
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
            unless: Vec::new(),
        });
    }
}
