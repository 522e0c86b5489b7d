//! Rows of the table of kinds for tests, without rules: only names and schema.

use std::sync::Arc;

use crate::rules::Unruled;
use crate::schema::Schema;
use crate::{Kind, Subresource};

/// A row whose objects are taken as they are.
pub(crate) fn kind(group: &str, kind: &str) -> Kind {
    let api_version = if group.is_empty() { "v1" } else { "apps/v1" };
    let schema = Schema::built_in(api_version, kind).expect("a built-in kind");
    let plural = format!("{}s", kind.to_lowercase());
    Kind {
        namespaced: kind != "Node",
        has_generation: true,
        subresources: vec![Subresource::status()],
        ..Kind::new((group, "v1"), (kind, &plural), schema, Arc::new(Unruled))
    }
}

pub(crate) fn pods() -> Kind {
    kind("", "Pod")
}

pub(crate) fn nodes() -> Kind {
    kind("", "Node")
}

pub(crate) fn deployments() -> Kind {
    kind("apps", "Deployment")
}
