//! Rows of the table of kinds for tests, without rules: only names and schema.

use std::sync::Arc;

use crate::rules::Unruled;
use crate::{Kind, Subresource};
use k8s_openapi::api::{apps, core};
use schemars::{Schema, SchemaGenerator};

/// A row whose objects are taken as they are.
pub(crate) fn kind(group: &str, kind: &str, schema: fn(&mut SchemaGenerator) -> Schema) -> Kind {
    let plural = format!("{}s", kind.to_lowercase());
    Kind {
        namespaced: kind != "Node",
        has_generation: true,
        subresources: vec![Subresource::status()],
        ..Kind::new((group, "v1"), (kind, &plural), Arc::new(schema), Arc::new(Unruled))
    }
}

pub(crate) fn pods() -> Kind {
    kind("", "Pod", |generator| generator.subschema_for::<core::v1::Pod>())
}

pub(crate) fn nodes() -> Kind {
    kind("", "Node", |generator| generator.subschema_for::<core::v1::Node>())
}

pub(crate) fn deployments() -> Kind {
    kind("apps", "Deployment", |generator| generator.subschema_for::<apps::v1::Deployment>())
}
