//! What a StatefulSet's pod is made of: its template, by its ordinal, and the name that stays.

use serde_json::{Value, json};

use super::view::View;
use super::volume_claims;
use crate::controllers::claims::Owner;
use crate::controllers::revisions::{LABEL_REVISION, template_of};
use crate::world::facts::Pod;
use crate::world::plan::{Change, Guard, Verb};
use proa_kinds::Part;

/// Label of a pod: its own name, so that a Service can select it alone.
const LABEL_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label of a pod: its ordinal.
const LABEL_POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The pod with this ordinal. Below the partition it is made from the revision before.
pub(super) fn body(view: &View<'_>, owner: &Owner, ordinal: i32) -> Value {
    let named = |name: &str| view.revisions.all.iter().find(|r| r.metadata.name.as_deref() == Some(name));
    let older =
        (ordinal < view.partition()).then(|| named(view.current).and_then(|r| template_of(r))).flatten();
    let revision = if older.is_some() { view.current } else { &view.revisions.name };
    let mut body = owner.pod(older.as_ref().unwrap_or(&view.spec.template));
    let name = format!("{}-{ordinal}", owner.reference.name);
    body["metadata"]["name"] = name.clone().into();
    body["metadata"]["labels"][LABEL_POD_NAME] = name.clone().into();
    body["metadata"]["labels"][LABEL_POD_INDEX] = ordinal.to_string().into();
    body["metadata"]["labels"][LABEL_REVISION] = revision.into();
    body["spec"]["hostname"] = name.into();
    volume_claims::add_volumes(view, ordinal, &mut body);
    if let Some(service) = view.spec.service_name.as_deref().filter(|s| !s.is_empty()) {
        body["spec"]["subdomain"] = service.into();
    }
    body
}

/// Gives an adopted pod the label with its name, if it has another or none.
pub(super) fn name_labels(pod: &Pod) -> Option<Verb> {
    let name = &*pod.meta.key.name;
    if pod.labels.get(LABEL_POD_NAME).is_some_and(|label| label == name) {
        return None;
    }
    Some(Verb::Patch {
        target: pod.meta.reference(),
        part: Part::Main,
        guard: Guard::NONE,
        change: Change::Merge(json!({ "metadata": { "labels": { LABEL_POD_NAME: name } } })),
    })
}
