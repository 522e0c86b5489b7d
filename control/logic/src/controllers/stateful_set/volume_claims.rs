//! The claims of a StatefulSet: made before the pods that mount them, and kept or given away as
//! its `persistentVolumeClaimRetentionPolicy` says.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#stable-storage>
//! and the section on retention there. Nothing here deletes a claim: it is owned by what takes it
//! along, and the garbage collector does the rest.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proa_api::owner::{controller_of, controller_reference, refers_to};
use serde_json::{Value, json};

use super::view::View;
use crate::controllers::claims::Owner;
use crate::world::facts::{Key, Phase, Pod};
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Verb};
use proa_kinds::Part;

fn templates<'a>(view: &View<'a>) -> impl Iterator<Item = &'a PersistentVolumeClaim> + use<'a> {
    view.spec.volume_claim_templates.iter().flatten()
}

fn template_name(template: &PersistentVolumeClaim) -> &str {
    template.metadata.name.as_deref().unwrap_or_default()
}

fn claim_name(view: &View<'_>, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template_name(template), set_name(view))
}

fn set_name<'a>(view: &View<'a>) -> &'a str {
    view.set.metadata.name.as_deref().unwrap_or_default()
}

fn claim<'a>(view: &View<'a>, name: &str) -> Option<&'a Arc<PersistentVolumeClaim>> {
    let namespace = view.set.metadata.namespace.as_deref().unwrap_or_default();
    view.seen.persistent_volume_claims.get(&Key::new(namespace, name))
}

/// Gives a new pod the volumes of its claims, which go before volumes of their names.
pub(super) fn add_volumes(view: &View<'_>, ordinal: i32, pod: &mut Value) {
    let own: Vec<Value> = templates(view)
        .map(|template| {
            json!({
                "name": template_name(template),
                "persistentVolumeClaim": { "claimName": claim_name(view, template, ordinal) },
            })
        })
        .collect();
    if own.is_empty() {
        return;
    }
    let others = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let others = others.into_iter().filter(|v| !own.iter().any(|o| o["name"] == v["name"]));
    pod["spec"]["volumes"] = own.iter().cloned().chain(others).collect();
}

/// Makes the claims that a pod needs. False if the pod has to wait for one to go first.
pub(super) fn ensure(view: &View<'_>, owner: &Owner, ordinal: i32, plan: &mut Plan) -> bool {
    let pod = format!("{}-{ordinal}", set_name(view));
    for template in templates(view) {
        let name = claim_name(view, template, ordinal);
        let Some(claim) = claim(view, &name) else { continue };
        if claim.metadata.deletion_timestamp.is_some() {
            let set = set_name(view);
            plan.problems.push(Problem {
                about: owner.reference.clone(),
                warning: true,
                reason: "FailedCreate",
                message: format!(
                    "create Pod {pod} in StatefulSet {set} failed error: pvc {name} is being deleted"
                ),
            });
            return false;
        }
        // It goes with a pod of this name that was too many once.
        let owners = claim.metadata.owner_references.iter().flatten();
        if owners.into_iter().any(|o| refers_to::<core::Pod>(o) && o.name == pod) {
            return false;
        }
    }
    create_missing(view, owner, ordinal, plan);
    true
}

/// Makes those claims of a pod that are not there.
pub(super) fn create_missing(view: &View<'_>, owner: &Owner, ordinal: i32, plan: &mut Plan) {
    let (set, pod) = (set_name(view), format!("{}-{ordinal}", set_name(view)));
    for template in templates(view) {
        let name = claim_name(view, template, ordinal);
        if claim(view, &name).is_some() {
            continue;
        }
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(view.spec.selector.match_labels.clone().unwrap_or_default());
        let mut body = json!({
            "metadata": {
                "name": name,
                "namespace": view.set.metadata.namespace,
                "labels": labels,
                "annotations": template.metadata.annotations.clone().unwrap_or_default(),
            },
            "spec": template.spec,
        });
        if deletes(view).when_deleted {
            body["metadata"]["ownerReferences"] = json!([controller_reference(view.set)]);
        }
        let verb = Verb::Create {
            api_version: "v1",
            kind: "PersistentVolumeClaim",
            namespace: owner.reference.namespace.to_string(),
            body,
        };
        let done =
            ("SuccessfulCreate", format!("create Claim {name} Pod {pod} in StatefulSet {set} success"));
        let failed = (
            "FailedCreate",
            format!("create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {{}}"),
        );
        plan.act_and_report(verb, owner.report(done, failed));
    }
}

/// What takes claims along.
struct Deletes {
    when_deleted: bool,
    when_scaled: bool,
}

fn deletes(view: &View<'_>) -> Deletes {
    let policy = view.spec.persistent_volume_claim_retention_policy.as_ref();
    let delete = |policy: Option<&String>| policy.is_some_and(|p| p == "Delete");
    Deletes {
        when_deleted: delete(policy.and_then(|p| p.when_deleted.as_ref())),
        when_scaled: delete(policy.and_then(|p| p.when_scaled.as_ref())),
    }
}

/// Brings the owners of claims in line with the policy, and makes what a pod that has not started
/// misses. False if pods have to wait for that.
pub(super) fn keep(view: &View<'_>, owner: &Owner, plan: &mut Plan) -> bool {
    let before = plan.actions.len();
    for (ordinal, pod) in &view.pods {
        let wanted = view.ordinals().contains(ordinal);
        for template in templates(view) {
            let name = claim_name(view, template, *ordinal);
            if let Some(claim) = claim(view, &name)
                && let Some(verb) = owned_as_it_should(view, pod, claim, !wanted)
            {
                plan.act(verb);
            }
        }
        if wanted && pod.phase == Phase::Pending && pod.is_active() {
            create_missing(view, owner, *ordinal, plan);
        }
    }
    plan.actions.len() == before
}

fn owned_as_it_should(
    view: &View<'_>,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
    is_too_many: bool,
) -> Option<Verb> {
    if claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let set = controller_reference(view.set);
    let of_pod = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.meta.key.name.to_string(),
        uid: pod.meta.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let controller = controller_of(&claim.metadata);
    if controller.is_some_and(|c| c.uid != set.uid && c.uid != of_pod.uid) {
        return None;
    }
    let policy = deletes(view);
    let by_pod = policy.when_scaled && is_too_many;
    let by_set = policy.when_deleted && !by_pod;
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let has = |uid: &str| owners.iter().any(|o| o.uid == uid);
    if has(&set.uid) == by_set && has(&of_pod.uid) == by_pod {
        return None;
    }
    let others = owners.iter().filter(|o| o.uid != set.uid && o.uid != of_pod.uid).cloned();
    let mut owners: Vec<OwnerReference> = others.collect();
    owners.extend(by_set.then_some(set));
    owners.extend(by_pod.then_some(of_pod));
    Some(Verb::Patch {
        target: Reference::to(claim),
        part: Part::Main,
        guard: Guard::unchanged(claim.metadata.resource_version.as_deref().unwrap_or_default()),
        change: Change::Merge(json!({ "metadata": { "ownerReferences": owners } })),
    })
}
