//! The workload that an autoscaler scales, as its scale subresource shows it.

use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proa_api::selector::Selector;

use crate::world::facts::{Key, KindName};
use crate::world::observed::Observed;
use crate::world::plan::Reference;

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
    let row = seen.kinds.stored_of(group, &target.kind);
    let row = row.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", target.kind))?;
    match (row.group.as_str(), row.kind.as_str()) {
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
        _ if row.scale().is_none() => Err("the server could not find the requested resource".to_owned()),
        _ => {
            let kind = KindName::new(&row.api_version(), &row.kind);
            let found = seen.sizes.get(&(kind, key)).ok_or_else(|| missing(&row.plural, &row.group))?;
            let (meta, size) = found;
            let text = &size.selector;
            let selector =
                Selector::parse(text).map_err(|e| format!("the selector {text:?} is none: {e}"))?;
            let count = |replicas: i64| i32::try_from(replicas).unwrap_or(i32::MAX);
            Ok(Scale {
                reference: meta.reference(),
                spec_replicas: count(size.wanted),
                status_replicas: count(size.there),
                selector,
            })
        }
    }
}
