//! Versions of the built-in kinds that the stock server no longer serves, and that manifests in books
//! and blogs still have: views of today's versions.
//!
//! An object is stored once, as today's version, and is read and written in each. What an old
//! version left to its own defaults is filled in on the way. Whoever uses one is told which version to
//! use. <https://kubernetes.io/docs/reference/using-api/deprecation-guide/>

mod autoscaler;
mod budget;
mod certificate;
mod endpoint_slice;
mod form;
mod ingress;
mod workloads;

use std::sync::Arc;

use form::{Form, SAME};

use super::event_v1;
use crate::rules::Unruled;
use crate::schema::Schema;
use crate::{Kind, Table, View};

/// One old version of some kinds.
struct Old {
    /// Group and version.
    api: (&'static str, &'static str),
    /// Today's.
    of: (&'static str, &'static str),
    plural: &'static str,
    /// The minor release of Kubernetes 1 from which it was deprecated, and the one without it.
    since: (u8, u8),
    form: Form,
}

const fn old(
    api: (&'static str, &'static str),
    of: (&'static str, &'static str),
    plural: &'static str,
    since: (u8, u8),
    form: Form,
) -> Old {
    Old { api, of, plural, since, form }
}

const APPS: (&str, &str) = ("apps", "v1");
const APPS_1: (&str, &str) = ("apps", "v1beta1");
const APPS_2: (&str, &str) = ("apps", "v1beta2");
const EXTENSIONS: (&str, &str) = ("extensions", "v1beta1");
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");
const NETWORKING_1: (&str, &str) = ("networking.k8s.io", "v1beta1");
const RBAC: (&str, &str) = ("rbac.authorization.k8s.io", "v1");
const RBAC_1: (&str, &str) = ("rbac.authorization.k8s.io", "v1beta1");
const STORAGE: (&str, &str) = ("storage.k8s.io", "v1");
const STORAGE_1: (&str, &str) = ("storage.k8s.io", "v1beta1");
const AUTOSCALING: (&str, &str) = ("autoscaling", "v2");
const CERTIFICATES: &str = "certificates.k8s.io";

/// Newer versions of a group stand before older ones, for discovery.
const OLD: &[Old] = &[
    old(APPS_2, APPS, "controllerrevisions", (9, 16), SAME),
    old(APPS_2, APPS, "daemonsets", (9, 16), SAME),
    old(APPS_2, APPS, "deployments", (9, 16), SAME),
    old(APPS_2, APPS, "replicasets", (9, 16), SAME),
    old(APPS_2, APPS, "statefulsets", (9, 16), SAME),
    old(APPS_1, APPS, "controllerrevisions", (8, 16), SAME),
    old(APPS_1, APPS, "deployments", (8, 16), workloads::DEPLOYMENT),
    old(APPS_1, APPS, "statefulsets", (8, 16), workloads::STATEFUL_SET),
    old(("autoscaling", "v2beta2"), AUTOSCALING, "horizontalpodautoscalers", (23, 26), SAME),
    old(("autoscaling", "v2beta1"), AUTOSCALING, "horizontalpodautoscalers", (22, 25), autoscaler::FORM),
    old(("batch", "v1beta1"), ("batch", "v1"), "cronjobs", (21, 25), SAME),
    old(("batch", "v2alpha1"), ("batch", "v1"), "cronjobs", (8, 21), SAME),
    old(
        (CERTIFICATES, "v1beta1"),
        (CERTIFICATES, "v1"),
        "certificatesigningrequests",
        (19, 22),
        certificate::FORM,
    ),
    old(("coordination.k8s.io", "v1beta1"), ("coordination.k8s.io", "v1"), "leases", (19, 22), SAME),
    old(
        ("discovery.k8s.io", "v1beta1"),
        ("discovery.k8s.io", "v1"),
        "endpointslices",
        (21, 25),
        endpoint_slice::FORM,
    ),
    old(("events.k8s.io", "v1beta1"), ("", "v1"), "events", (19, 25), event_v1_form()),
    old(NETWORKING_1, NETWORKING, "ingresses", (19, 22), ingress::FORM),
    old(NETWORKING_1, NETWORKING, "ingressclasses", (19, 22), SAME),
    old(("node.k8s.io", "v1beta1"), ("node.k8s.io", "v1"), "runtimeclasses", (22, 25), SAME),
    old(("policy", "v1beta1"), ("policy", "v1"), "poddisruptionbudgets", (21, 25), budget::FORM),
    old(RBAC_1, RBAC, "clusterrolebindings", (17, 22), SAME),
    old(RBAC_1, RBAC, "clusterroles", (17, 22), SAME),
    old(RBAC_1, RBAC, "rolebindings", (17, 22), SAME),
    old(RBAC_1, RBAC, "roles", (17, 22), SAME),
    old(("scheduling.k8s.io", "v1beta1"), ("scheduling.k8s.io", "v1"), "priorityclasses", (14, 22), SAME),
    old(STORAGE_1, STORAGE, "csidrivers", (19, 22), SAME),
    old(STORAGE_1, STORAGE, "csinodes", (17, 22), SAME),
    old(STORAGE_1, STORAGE, "storageclasses", (19, 22), SAME),
    old(EXTENSIONS, APPS, "daemonsets", (8, 16), workloads::DAEMON_SET),
    old(EXTENSIONS, APPS, "deployments", (8, 16), workloads::OLDEST_DEPLOYMENT),
    old(EXTENSIONS, APPS, "replicasets", (8, 16), workloads::REPLICA_SET),
    old(EXTENSIONS, NETWORKING, "ingresses", (14, 22), ingress::FORM),
];

const fn event_v1_form() -> Form {
    Form { to_stored: event_v1::to_core, from_stored: event_v1::from_core }
}

/// The table with the old versions of the kinds that it holds, after all others.
pub fn with_old_versions(table: &Table) -> Table {
    let rows = OLD.iter().filter_map(|old| row(table, old));
    Table::of(table.iter().cloned().chain(rows.map(Arc::new)).collect())
}

fn row(table: &Table, old: &Old) -> Option<Kind> {
    let stored = table.by_plural(old.of.0, old.of.1, old.plural)?;
    // An Event is shown as today's version of its own group shows it.
    let shown = table.by_plural(old.api.0, "v1", old.plural).unwrap_or(stored);
    let mut view = View::new(old.of, old.form.to_stored, old.form.from_stored);
    if let Some(of_shown) = &shown.view {
        view.stored_field = of_shown.stored_field.clone();
    }
    let api_version = format!("{}/{}", old.api.0, old.api.1);
    let mut kind = Kind {
        schema: Schema::built_in(&api_version, &shown.kind).expect("the table holds the old versions"),
        group: old.api.0.to_owned(),
        version: old.api.1.to_owned(),
        view: Some(view),
        rules: Arc::new(Unruled),
        ..Kind::clone(shown)
    };
    if old.api.0 != shown.group {
        // `deploy` and `all` mean today's group alone.
        (kind.short_names, kind.categories) = (Vec::new(), Vec::new());
    }
    if old.api == ("autoscaling", "v2beta1") {
        kind.columns = kind.columns.into_iter().map(autoscaler::column).collect();
    }
    kind.deprecation = Some(format!(
        "{} {} is deprecated in v1.{}+, unavailable in v1.{}+; use {} {}",
        kind.api_version(),
        kind.kind,
        old.since.0,
        old.since.1,
        shown.api_version(),
        shown.kind
    ));
    Some(kind)
}

#[cfg(test)]
mod tests;
