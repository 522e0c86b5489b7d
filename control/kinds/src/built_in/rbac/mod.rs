//! The kinds of rbac.authorization.k8s.io: roles say what may be done, bindings by whom.
//!
//! What they mean is in [`crate::rbac`]; that nobody grants what they do not have is checked by
//! the API server, which knows who writes.

pub mod cluster_role;
pub mod cluster_role_binding;
pub mod role;
pub mod role_binding;

mod policy;
mod reference;

use serde_json::Value;

use crate::Column;
use crate::columns::{column, join, text, wide};

/// When a role was created.
fn created_at() -> Column {
    column("Created At", "date", "When the role was created.", |o, _| {
        text(o, "/metadata/creationTimestamp").into()
    })
}

/// `ClusterRole/edit`.
fn role_column() -> Column {
    column("Role", "string", "The role that is granted.", |o, _| {
        format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")).into()
    })
}

/// Whom a binding reaches, by the kinds of its subjects.
fn subject_columns() -> [Column; 3] {
    [
        wide("Users", "The users that the role is granted to.", |o, _| subjects(o, "User").into()),
        wide("Groups", "The groups that the role is granted to.", |o, _| subjects(o, "Group").into()),
        wide("ServiceAccounts", "The service accounts that the role is granted to.", |o, _| {
            subjects(o, "ServiceAccount").into()
        }),
    ]
}

fn subjects(binding: &Value, kind: &str) -> String {
    let all = binding["subjects"].as_array().into_iter().flatten().filter(|s| s["kind"] == kind);
    let names: Vec<String> = all
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")),
            _ => text(subject, "/name").to_owned(),
        })
        .collect();
    join(names.iter().map(String::as_str)).replace(',', ", ")
}
