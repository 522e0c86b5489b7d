//! The ReplicaSets of a Deployment: which are its own, which one has the template of now, and
//! their revisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use proa_api::names;
use proa_api::owner::{controller_of, controller_reference};
use proa_api::selector::Selector;
use serde_json::{Value, json};

use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;

/// Annotation: the revisions that a set has had before.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// Annotations of a Deployment that are not for its sets.
const NOT_COPIED: [&str; 6] = [
    names::ANNOTATION_LAST_APPLIED,
    names::ANNOTATION_REVISION,
    REVISION_HISTORY,
    names::ANNOTATION_DESIRED_REPLICAS,
    names::ANNOTATION_MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The sets of a Deployment.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// The one with the Deployment's template.
    pub new: Option<Arc<ReplicaSet>>,
    /// The others, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.new.iter().chain(&self.old)
    }
}

/// Finds the sets; the plan gets what is to be adopted and released.
pub(super) fn sets_of(
    seen: &Observed,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    plan: &mut Plan,
) -> Sets {
    let meta = &deployment.metadata;
    let uid = meta.uid.as_deref().unwrap_or_default();
    let selector = Selector::from_object(Some(&spec.selector));
    let mut sets: Vec<Arc<ReplicaSet>> = Vec::new();
    for (_, set) in seen.replica_sets.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
        let matches = selector.matches(set.metadata.labels.as_ref());
        let set_uid = set.metadata.uid.as_deref().unwrap_or_default();
        let going = set.metadata.deletion_timestamp.is_some() || meta.deletion_timestamp.is_some();
        let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
        match controller_of(&set.metadata) {
            Some(owner) if owner.uid == uid && matches => sets.push(set.clone()),
            Some(owner) if owner.uid == uid && !going => {
                owners.retain(|o| o.uid != uid);
                plan.act(set_owners(set, json!(owners)));
            }
            None if matches && !going && !set_uid.is_empty() => {
                owners.push(controller_reference(deployment));
                plan.act(set_owners(set, json!(owners)));
            }
            _ => {}
        }
    }
    sets.sort_by(|a, b| {
        let age = |s: &ReplicaSet| (s.metadata.creation_timestamp.clone(), s.metadata.name.clone());
        age(a).cmp(&age(b))
    });
    let new = sets.iter().position(|s| has_template(s, &spec.template)).map(|at| sets.remove(at));
    Sets { new, old: sets }
}

fn set_owners(set: &ReplicaSet, owners: Value) -> Verb {
    let version = set.metadata.resource_version.as_deref().unwrap_or_default();
    Verb::Patch {
        target: Reference::to(set),
        part: Part::Main,
        guard: Guard::unchanged(version),
        change: Change::Merge(json!({ "metadata": { "ownerReferences": owners } })),
    }
}

/// True if the set's template is this one; the hash label that only the set has does not count.
fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|s| s.template.as_ref()) else { return false };
    own.spec == template.spec && {
        let bare = |t: &PodTemplateSpec| {
            let mut meta = t.metadata.clone().unwrap_or_default();
            meta.creation_timestamp = None;
            if let Some(labels) = &mut meta.labels {
                labels.remove(names::LABEL_POD_TEMPLATE_HASH);
            }
            meta.labels = meta.labels.filter(|l| !l.is_empty());
            meta.annotations = meta.annotations.filter(|a| !a.is_empty());
            meta
        };
        bare(own) == bare(template)
    }
}

/// The set to create for the template.
pub(super) fn body(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    name: &str,
    hash: &str,
    size: i32,
    notes: BTreeMap<String, String>,
) -> Value {
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(names::LABEL_POD_TEMPLATE_HASH.to_owned(), hash.to_owned());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    let matched = selector.match_labels.get_or_insert_default();
    matched.insert(names::LABEL_POD_TEMPLATE_HASH.to_owned(), hash.to_owned());
    let mut annotations = copied_annotations(deployment);
    annotations.extend(notes);
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": deployment.metadata.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [controller_reference(deployment)],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    })
}

fn copied_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let all = deployment.metadata.annotations.iter().flatten();
    all.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A set's revision, 0 if it has none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    let annotation = set.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_REVISION));
    annotation.and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The revision of the new set: above all old ones.
pub(super) fn next_revision(sets: &Sets) -> i64 {
    sets.old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1
}

/// Gives the new set the highest revision, the Deployment's annotations and its
/// `minReadySeconds`, and notes the revision on the Deployment.
pub(super) fn sync_revision(deployment: &Deployment, sets: &Sets, plan: &mut Plan) {
    let Some(set) = &sets.new else { return };
    let own = set.metadata.annotations.clone().unwrap_or_default();
    let old_revision = revision(set);
    let next = next_revision(sets).max(old_revision);
    let mut annotations = copied_annotations(deployment);
    annotations.retain(|key, value| own.get(key) != Some(value));
    if next != old_revision {
        annotations.insert(names::ANNOTATION_REVISION.to_owned(), next.to_string());
        if old_revision > 0 {
            let history = own.get(REVISION_HISTORY).map(|h| format!("{h},")).unwrap_or_default();
            annotations.insert(REVISION_HISTORY.to_owned(), format!("{history}{old_revision}"));
        }
    }
    let wait = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let mut patch = json!({});
    if !annotations.is_empty() {
        patch["metadata"]["annotations"] = json!(annotations);
    }
    if set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) != wait {
        patch["spec"]["minReadySeconds"] = json!(wait);
    }
    if patch.as_object().is_some_and(|p| !p.is_empty()) {
        plan.act(Verb::Patch {
            target: Reference::to(&**set),
            part: Part::Main,
            guard: Guard::NONE,
            change: Change::Merge(patch),
        });
    }
    note_revision(deployment, next, plan);
}

/// Notes the revision on the Deployment.
pub(super) fn note_revision(deployment: &Deployment, revision: i64, plan: &mut Plan) {
    let revision = revision.to_string();
    let noted = deployment.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_REVISION));
    if noted != Some(&revision) {
        plan.act_then(Verb::Patch {
            target: Reference::to(deployment),
            part: Part::Main,
            guard: Guard::NONE,
            change: Change::Merge(
                json!({ "metadata": { "annotations": { names::ANNOTATION_REVISION: revision } } }),
            ),
        });
    }
}
