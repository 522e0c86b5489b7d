//! What kinds look like: their fields with types, numbers in the protobuf encoding and names in JSON,
//! how lists merge, what is a quantity or a time.
//!
//! One [`Schema`] for all who walk over objects: the canonical form, decoding, unknown fields, protobuf,
//! words of YAML, patches, OpenAPI. That of a built-in kind comes from `messages.tbl`, which
//! `control/tools/messages.py` derives from public definitions, or from `old_messages.tbl`, which holds
//! old versions; that of a custom kind from the OpenAPI schema in its definition.

mod built_in;
mod custom;
mod misfit;
mod types;

use std::sync::Arc;

use serde_json::Value;

pub use types::{Definition, DefinitionId, Field, Merge, Nature, Slot, SlotId, Text, Type, Types};

/// What one kind looks like.
#[derive(Clone, Debug)]
pub struct Schema {
    types: Arc<Types>,
    root: DefinitionId,
}

impl Schema {
    /// That of a kind of the built-in groups, if it is one.
    pub fn built_in(api_version: &str, kind: &str) -> Option<Schema> {
        let built_in = built_in::built_in();
        let root = built_in.find(&definition_name(api_version, kind)?)?;
        Some(Schema { types: built_in.types.clone(), root })
    }

    /// That of a custom kind, from the `openAPIV3Schema` of its definition.
    pub fn custom(api_version: &str, kind: &str, schema: &Value) -> Schema {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let domain: Vec<&str> = group.rsplit('.').collect();
        let (types, root) = custom::read(format!("{}.{version}.{kind}", domain.join(".")), schema);
        Schema { types: Arc::new(types), root }
    }

    /// Its OpenAPI definition name: `io.k8s.api.core.v1.Pod`, `com.example.v1.CronTab`.
    pub fn name(&self) -> &str {
        &self.types.get(self.root).name
    }

    /// All types that the kind's own refers to.
    pub fn types(&self) -> &Types {
        &self.types
    }

    /// The kind's own type.
    pub fn root(&self) -> DefinitionId {
        self.root
    }

    /// Why a value cannot be read as an object of this kind, in the words of the stock server; none if
    /// it can. Fields that the kind does not have are not looked at.
    pub fn misfit(&self, value: &Value) -> Option<String> {
        misfit::misfit(&self.types, self.root, value)
    }
}

/// The OpenAPI definition name of a kind of the built-in groups:
/// `apps/v1`, `Deployment` → `io.k8s.api.apps.v1.Deployment`.
///
/// `DeleteOptions` belongs to every group version.
fn definition_name(api_version: &str, kind: &str) -> Option<String> {
    if kind == "DeleteOptions" {
        return Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (group, version) = same_shape(group, version, kind).unwrap_or((group, version));
    let package = match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => "api.core",
        "apiextensions" => "apiextensions-apiserver.pkg.apis.apiextensions",
        "rbac.authorization" => "api.rbac",
        // `apps.example.com` is somebody else's.
        domain if domain.contains('.') => return None,
        short => return Some(format!("io.k8s.api.{short}.{version}.{kind}")),
    };
    Some(format!("io.k8s.{package}.{version}.{kind}"))
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
            assert!(Schema::built_in(api_version, kind).is_some(), "{api_version} {kind}");
        }
        for (api_version, kind) in [
            ("v2", "Pod"),
            ("apps.example.com/v1", "Deployment"),
            ("batch.volcano.sh/v1", "Job"),
            ("node.example.k8s.io/v1", "RuntimeClass"),
        ] {
            assert!(Schema::built_in(api_version, kind).is_none(), "{api_version} {kind}");
        }
    }
}
