//! What a kind is: one row of the table that the API server serves from.
//!
//! Routes, discovery, OpenAPI, printer columns and selectable fields all derive from the rows.

use std::sync::Arc;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::status::Resource;
use serde_json::Value;

/// All that the API server knows of one kind.
#[derive(Clone)]
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
    /// Fields that are kept beside an object for decisions about others; no client can name them.
    pub indexed_fields: Vec<SelectableField>,
    /// Defaulting and validation.
    pub hooks: Hooks,
    /// What is stored, if this kind is another form of it.
    pub view: Option<View>,
    /// What whoever uses this version is warned of.
    pub deprecation: Option<String>,
}

/// A kind whose objects are stored as those of another version, with the same plural. `apiVersion` is
/// changed by whoever asks these.
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
#[derive(Clone)]
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
#[derive(Clone)]
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
    /// Decodes a new object or version of one and sets defaults: what stages are to see.
    pub default: fn(object: Value) -> Result<Value, Refusal>,
    /// Decodes a new object, clears what clients may not set, sets defaults, validates, and
    /// gives its canonical form.
    pub create: fn(object: Value) -> Result<Value, Refusal>,
    /// The same for a change of `old`, with the rules of what may change.
    pub update: fn(old: &Value, new: Value, part: Part) -> Result<Value, Refusal>,
    /// For what the server itself makes of `old`, with what a client has sent: decodes it, and judges
    /// its metadata.
    pub connect: fn(old: &Value, new: Value) -> Result<Value, Refusal>,
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

    /// The verbs that the main resource knows. Namespaces go one by one: deleting all of them is never
    /// what somebody meant.
    pub fn verbs(&self) -> &'static [&'static str] {
        const ALL: &[&str] =
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        const OF_NAMESPACES: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
        if self.group.is_empty() && self.plural == "namespaces" { OF_NAMESPACES } else { ALL }
    }

    /// The selectable and the indexed fields of an object.
    pub fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let all = self.selectable_fields.iter().chain(&self.indexed_fields);
        all.map(|field| (field.name, (field.value)(object))).collect()
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

    /// A table of these rows, in discovery order.
    pub fn of(kinds: Vec<Arc<Kind>>) -> Self {
        Table { kinds }
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
