//! Rows of the table of kinds for tests, without rules: only names and schema.

use crate::{Durability, Hooks, Kind};
use k8s_openapi::api::{apps, core};
use schemars::{Schema, SchemaGenerator};

/// A row whose objects are taken as they are.
pub(crate) fn kind(group: &str, kind: &str, schema: fn(&mut SchemaGenerator) -> Schema) -> Kind {
    Kind {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
        singular: kind.to_lowercase(),
        short_names: vec![],
        categories: vec![],
        namespaced: kind != "Node",
        has_generation: true,
        has_status: true,
        scale: None,
        subresources: vec![],
        unconditional_update: true,
        durability: Durability::Immediate,
        columns: vec![],
        selectable_fields: vec![],
        indexed_fields: vec![],
        hooks: Hooks {
            default: Ok,
            create: Ok,
            update: |_, new, _| Ok(new),
            connect: |_, new| Ok(new),
            misfit: |_| None,
            schema,
        },
        view: None,
        deprecation: None,
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
