//! Generic ephemeral volumes: claims that a pod brings along and that go with it.
//!
//! Rules: <https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes>.

use serde_json::json;

use crate::world::facts::{Key, Pod};
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Problem, Report, Verb};

/// Makes the claims of one pod.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = seen.pods.get(key).filter(|pod| pod.is_active()) else { return plan };
    for (volume, template) in pod.ephemeral.iter().flat_map(|templates| templates.iter()) {
        let name = format!("{}-{volume}", key.name);
        match seen.persistent_volume_claims.get(&Key::new(&key.namespace, &name)) {
            None => {
                let meta = template.metadata.clone().unwrap_or_default();
                let body = json!({
                    "metadata": {
                        "name": name,
                        "namespace": &*key.namespace,
                        "labels": meta.labels.unwrap_or_default(),
                        "annotations": meta.annotations.unwrap_or_default(),
                        "ownerReferences": [owner(pod)],
                    },
                    "spec": template.spec,
                });
                let verb = Verb::Create {
                    api_version: "v1",
                    kind: "PersistentVolumeClaim",
                    namespace: key.namespace.to_string(),
                    body,
                };
                let failed = ("FailedCreate", format!("ephemeral volume {volume}: create PVC {name}: {{}}"));
                let report = Report { about: pod.meta.reference(), done: None, failed: Some(failed) };
                plan.act_and_report(verb, report);
            }
            Some(claim) => {
                let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
                if !owners.iter().any(|o| o.uid == *pod.meta.uid && o.controller == Some(true)) {
                    plan.problems.push(Problem {
                        about: pod.meta.reference(),
                        warning: true,
                        reason: "FailedBinding",
                        message: format!(
                            "ephemeral volume {volume}: PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                            key.namespace, key.namespace, key.name
                        ),
                    });
                }
            }
        }
    }
    plan
}

fn owner(pod: &Pod) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "name": &*pod.meta.key.name, "uid": &*pod.meta.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}
