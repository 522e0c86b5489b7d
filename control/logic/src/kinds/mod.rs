//! The table of kinds: one row per kind that the API server serves.
//!
//! Routes, discovery, OpenAPI, printer columns and selectable fields all derive from this table.
//! A new built-in kind is one file beside this one and one line in [`built_in`].
//! CustomResourceDefinitions add rows at run time, which is why rows own their strings.

mod canonical;
#[cfg(test)]
mod check;
pub mod columns;
mod decode;
#[cfg(test)]
mod long_lists;
pub mod meta;
pub mod rules;
pub mod syntax;

pub mod certificate_signing_request;
mod config_map;
mod controller_revision;
pub mod cron_job;
mod csi;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
pub mod job;
mod lease;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod runtime_class;
mod secret;
mod service;
mod service_account;
mod service_validation;
mod stateful_set;
pub mod storage_class;
mod storage_modes;
mod template;

use std::sync::Arc;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::status::Resource;
use serde_json::Value;

/// All that the API server knows of one kind.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Deployment`.
    pub kind: String,
    /// The resource name in paths: `deployments`.
    pub plural: String,
    /// `deployment`.
    pub singular: String,
    /// `deploy`.
    pub short_names: Vec<&'static str>,
    /// Groups of kinds for `kubectl get`, such as `all`.
    pub categories: Vec<&'static str>,
    /// False for kinds that live outside namespaces.
    pub namespaced: bool,
    /// True if `metadata.generation` counts the changes of the spec.
    pub has_generation: bool,
    /// True if status is a subresource: the main resource ignores changes of `status`.
    pub has_status: bool,
    /// Where the scale subresource reads and writes, if there is one.
    pub scale: Option<ScalePaths>,
    /// Subresources other than status and scale.
    pub subresources: Vec<Subresource>,
    /// True if a write need not say which version it is to replace.
    pub unconditional_update: bool,
    /// How soon a write must be on disk.
    pub durability: Durability,
    /// Columns of `kubectl get`, without `Name` and `Age` left out: all of them, in order.
    pub columns: Vec<Column>,
    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// Defaulting and validation.
    pub hooks: Hooks,
    /// What is stored, if this kind is another form of it.
    pub view: Option<View>,
}

/// A kind whose objects are stored as those of another version, with the same plural.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Group and version of what is stored.
    pub of: (&'static str, &'static str),
    /// What is stored for an object of this kind.
    pub to_stored: fn(Value) -> Value,
    /// The object of this kind for one that is stored.
    pub from_stored: fn(Value) -> Value,
    /// The selectable field of the stored form that a field of this one is.
    pub stored_field: fn(&str) -> String,
}

/// Where a kind keeps what `autoscaling/v1 Scale` shows, as JSON pointers.
#[derive(Clone, Copy, Debug)]
pub struct ScalePaths {
    /// `/spec/replicas`.
    pub spec_replicas: &'static str,
    /// `/status/replicas`.
    pub status_replicas: &'static str,
    /// `/spec/selector`; a LabelSelector object or a plain map.
    pub selector: &'static str,
}

/// The verbs of `proxy`, one for each method that is carried.
pub const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// A subresource other than status and scale.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    /// `log`.
    pub name: &'static str,
    /// Group, version and kind of what it takes and gives: `("", "v1", "Pod")`.
    pub kind: (&'static str, &'static str, &'static str),
    /// `get`, `create`, …
    pub verbs: &'static [&'static str],
}

/// How soon a write must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged.
    Immediate,
    /// With the next commit that something else needs: heartbeats and events are liveness, not
    /// state, and must not wear out the disk of an idle node.
    Lazy,
}

/// One printer column.
pub struct Column {
    /// The heading: `Ready`.
    pub name: &'static str,
    /// OpenAPI type of the cells: `string`, `integer`, `date`.
    pub type_: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    /// Shown by clients that explain columns.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// The cell of an object. `now` is for ages.
    pub cell: fn(object: &Value, now: Timestamp) -> Value,
}

/// A field that field selectors may name.
pub struct SelectableField {
    /// `spec.nodeName`.
    pub name: &'static str,
    /// Its value, empty when absent.
    pub value: fn(object: &Value) -> String,
}

/// What part of an object an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Main,
    /// Only the status.
    Status,
    /// Only what was decided about a CertificateSigningRequest.
    Approval,
}

/// A kind's rules, with the kind's Rust type erased. [`rules::hooks`] makes them from
/// [`rules::Rules`].
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Decodes a new object, clears what clients may not set, sets defaults, validates, and
    /// gives its canonical form.
    pub create: fn(object: Value) -> Result<Value, Refusal>,
    /// The same for a change of `old`, with the rules of what may change.
    pub update: fn(old: &Value, new: Value, part: Part) -> Result<Value, Refusal>,
    /// Why an object cannot be read as one of this kind, if it cannot: a field has the wrong type.
    pub misfit: fn(object: &Value) -> Option<String>,
    /// The JSON schema, with field docs, of the kind's type: a reference to its definition, which
    /// the generator then holds under the type's name (`io.k8s.api.core.v1.Pod`).
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

impl Kind {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Group and plural, for error texts.
    pub fn resource(&self) -> Resource<'_> {
        Resource { group: &self.group, plural: &self.plural }
    }
}

/// The kinds that are served now. A change makes a new table, so readers keep a consistent one.
#[derive(Clone, Default)]
pub struct Table {
    kinds: Vec<Arc<Kind>>,
}

impl Table {
    /// A table of these kinds, in discovery order.
    pub fn new(kinds: Vec<Kind>) -> Self {
        Table { kinds: kinds.into_iter().map(Arc::new).collect() }
    }

    /// All rows, in discovery order.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Kind>> {
        self.kinds.iter()
    }

    /// The row that serves a path such as `/apis/apps/v1/deployments`.
    pub fn by_plural(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    /// The row of objects with this `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kinds.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
    }
}

/// The built-in kinds, in discovery order.
pub fn built_in() -> Table {
    Table::new(vec![
        config_map::kind(),
        endpoints::kind(),
        event::kind(),
        limit_range::kind(),
        namespace::kind(),
        node::kind(),
        persistent_volume_claim::kind(),
        persistent_volume::kind(),
        pod::kind(),
        pod_template::kind(),
        replication_controller::kind(),
        resource_quota::kind(),
        secret::kind(),
        service_account::kind(),
        service::kind(),
        controller_revision::kind(),
        daemon_set::kind(),
        deployment::kind(),
        replica_set::kind(),
        stateful_set::kind(),
        horizontal_pod_autoscaler::kind(),
        horizontal_pod_autoscaler::v1::kind(),
        cron_job::kind(),
        job::kind(),
        lease::kind(),
        endpoint_slice::kind(),
        event_v1::kind(),
        certificate_signing_request::kind(),
        ingress_class::kind(),
        ingress::kind(),
        csi::driver(),
        csi::node(),
        storage_class::kind(),
        csi::attachment(),
        csi::attributes_class(),
        rbac::cluster_role_binding::kind(),
        rbac::cluster_role::kind(),
        rbac::role_binding::kind(),
        rbac::role::kind(),
        runtime_class::kind(),
        pod_disruption_budget::kind(),
        priority_class::kind(),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_row_can_be_found_and_shown() {
        let table = built_in();
        let now = Timestamp::UNIX_EPOCH;
        let mut plurals = BTreeSet::new();
        for kind in table.iter() {
            assert!(
                plurals.insert((kind.api_version(), kind.plural.clone())),
                "{} is there twice",
                kind.plural
            );
            assert_eq!(table.by_kind(&kind.api_version(), &kind.kind).unwrap().plural, kind.plural);
            for column in &kind.columns {
                let cell = (column.cell)(&Value::Null, now);
                assert!(
                    !cell.is_null(),
                    "{} of {} has no cell for an empty object",
                    column.name,
                    kind.plural
                );
            }
            for field in &kind.selectable_fields {
                (field.value)(&Value::Null);
            }
        }
    }

    #[test]
    fn bodies_that_do_not_fit() {
        let table = built_in();
        let pods = table.by_kind("v1", "Pod").unwrap();
        let pod = |spec: Value| json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec});
        let bodies = [
            pod(json!({"containers": {}})),
            pod(json!({"hostNetwork": "yes"})),
            pod(json!({"containers": [{"ports": [{"containerPort": "80"}]}]})),
            pod(json!({"containers": [{"ports": [{"containerPort": 8000000000u64}]}]})),
            pod(json!({"nodeSelector": {"a": 1}})),
            pod(json!({"containers": [{"command": "sh"}]})),
            pod(json!({"containers": [{"resources": {"limits": {"cpu": "much"}}}]})),
            json!({"metadata": {"creationTimestamp": "today"}}),
            json!({"kind": "Node"}),
            json!({"apiVersion": "v2"}),
            json!([]),
        ];
        let texts = bodies.map(|body| (pods.hooks.create)(body).unwrap_err().to_string() + "\n");
        expect![[r#"
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 8000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field Container.spec.containers.command of type []string
            Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            Pod in version "v1" cannot be handled as a Pod: parsing time "today" as "2006-01-02T15:04:05Z07:00": cannot parse "today" as "2006"
            Node in version "" cannot be handled as a Pod: the object provided is unrecognized (must be of type Pod): Node
            the API version in the data (v2) does not match the expected API version (v1)
            Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal the body into an object
        "#]].assert_eq(&texts.concat());
    }
}
