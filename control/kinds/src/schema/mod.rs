//! What the built-in Kubernetes types look like, beyond their Rust types: field numbers of the
//! protobuf encoding, JSON names, how lists merge.
//!
//! Fed by `old_messages.tbl`, which holds old versions, and by `messages.tbl`, which `control/tools/messages.py` derives from public definitions. Read
//! by [`crate::rules`] (the canonical form), and by the API server: protobuf, unknown fields, merge
//! keys, OpenAPI's extensions. It never sees an object.

mod messages;
mod misfit;

pub use messages::{Field, Message, MessageId, Messages, Nature, Shape, Type, messages};
pub use misfit::misfit;

/// The OpenAPI definition name of a kind of the built-in groups:
/// `apps/v1`, `Deployment` → `io.k8s.api.apps.v1.Deployment`.
///
/// `DeleteOptions` belongs to every group version.
pub fn definition_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (group, version) = same_shape(group, version, kind).unwrap_or((group, version));
    let package = match group {
        "" => "api.core",
        "apiextensions.k8s.io" => "apiextensions-apiserver.pkg.apis.apiextensions",
        _ => return format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    };
    format!("io.k8s.{package}.{version}.{kind}")
}

/// The group and version of a kind that has the same shape as this old version of it.
fn same_shape(group: &str, version: &str, kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match (group, version, kind) {
        ("apps", "v1beta2", _) | ("apps", "v1beta1", "ControllerRevision") => ("apps", "v1"),
        ("extensions", "v1beta1", "Deployment") => ("apps", "v1beta1"),
        ("extensions", "v1beta1", "Ingress") => ("networking.k8s.io", "v1beta1"),
        ("autoscaling", "v2beta2", _) => ("autoscaling", "v2"),
        ("batch", "v1beta1" | "v2alpha1", _) => ("batch", "v1"),
        ("coordination.k8s.io", "v1beta1", _) => ("coordination.k8s.io", "v1"),
        ("events.k8s.io", "v1beta1", _) => ("events.k8s.io", "v1"),
        ("networking.k8s.io", "v1beta1", "IngressClass") => ("networking.k8s.io", "v1"),
        ("node.k8s.io", "v1beta1", _) => ("node.k8s.io", "v1"),
        ("policy", "v1beta1", _) => ("policy", "v1"),
        ("rbac.authorization.k8s.io", "v1beta1", _) => ("rbac.authorization.k8s.io", "v1"),
        ("scheduling.k8s.io", "v1beta1", _) => ("scheduling.k8s.io", "v1"),
        ("storage.k8s.io", "v1beta1", _) => ("storage.k8s.io", "v1"),
        _ => return None,
    })
}

/// The message of a built-in kind, if it is one.
pub fn message_of(api_version: &str, kind: &str) -> Option<MessageId> {
    messages().find(&definition_name(api_version, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_api_version() {
        for (api_version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "Deployment"),
            ("events.k8s.io/v1", "Event"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("autoscaling/v1", "Scale"),
            ("policy/v1", "DeleteOptions"),
        ] {
            assert!(message_of(api_version, kind).is_some(), "{api_version} {kind}");
        }
        assert!(message_of("v2", "Pod").is_none());
    }
}
