//! The workload that an autoscaler scales, as its scale subresource shows it.

use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::selector::Selector;

use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::Reference;
use proa_kinds::built_in;

/// The scale of a workload.
pub(super) struct Scale {
    /// The workload.
    pub reference: Reference,
    /// Replicas that are wanted.
    pub spec_replicas: i32,
    /// Replicas that there are.
    pub status_replicas: i32,
    /// What selects its pods.
    pub selector: Selector,
}

/// The scale of what an autoscaler refers to, or why there is none.
pub(super) fn scale(
    seen: &Observed,
    namespace: &str,
    target: &CrossVersionObjectReference,
) -> Result<Scale, String> {
    let version = target.api_version.as_deref().unwrap_or_default();
    let group = match version.split('/').collect::<Vec<_>>()[..] {
        [group, _] => group,
        [_] => "",
        _ => return Err(format!("unexpected GroupVersion string: {version}")),
    };
    let key = Key::new(namespace, &target.name);
    let missing = |plural: &str, group: &str| format!("{plural}/scale.{group} {:?} not found", target.name);
    let labels = |selector: Option<&LabelSelector>| match selector {
        Some(selector) => Selector::from_object(Some(selector)),
        None => Selector::everything(),
    };
    match (group, target.kind.as_str()) {
        ("apps", "Deployment") => {
            let found = seen.deployments.get(&key).ok_or_else(|| missing("deployments", "apps"))?;
            let (spec, status) = (found.spec.as_ref(), found.status.as_ref());
            Ok(Scale {
                reference: Reference::to(&**found),
                spec_replicas: spec.and_then(|s| s.replicas).unwrap_or(1),
                status_replicas: status.and_then(|s| s.replicas).unwrap_or(0),
                selector: labels(spec.map(|s| &s.selector)),
            })
        }
        ("apps", "ReplicaSet") => {
            let found = seen.replica_sets.get(&key).ok_or_else(|| missing("replicasets", "apps"))?;
            let spec = found.spec.as_ref();
            Ok(Scale {
                reference: Reference::to(&**found),
                spec_replicas: spec.and_then(|s| s.replicas).unwrap_or(1),
                status_replicas: found.status.as_ref().map_or(0, |s| s.replicas),
                selector: labels(spec.map(|s| &s.selector)),
            })
        }
        ("apps", "StatefulSet") => {
            let found = seen.stateful_sets.get(&key).ok_or_else(|| missing("statefulsets", "apps"))?;
            let spec = found.spec.as_ref();
            Ok(Scale {
                reference: Reference::to(&**found),
                spec_replicas: spec.and_then(|s| s.replicas).unwrap_or(1),
                status_replicas: found.status.as_ref().map_or(0, |s| s.replicas),
                selector: labels(spec.map(|s| &s.selector)),
            })
        }
        ("", "ReplicationController") => {
            let found = seen.replication_controllers.get(&key);
            let found = found.ok_or_else(|| missing("replicationcontrollers", "autoscaling"))?;
            let spec = found.spec.as_ref();
            Ok(Scale {
                reference: Reference::to(&**found),
                spec_replicas: spec.and_then(|s| s.replicas).unwrap_or(1),
                status_replicas: found.status.as_ref().map_or(0, |s| s.replicas),
                selector: Selector::from_map(spec.and_then(|s| s.selector.as_ref()).into_iter().flatten()),
            })
        }
        (group, kind) if built_in::table().iter().any(|k| k.group == group && k.kind == kind) => {
            Err("the server could not find the requested resource".to_owned())
        }
        (group, kind) => Err(format!("no matches for kind {kind:?} in group {group:?}")),
    }
}
