//! What a kind is: one row of the table that the API server serves from.
//!
//! Routes, discovery, OpenAPI, printer columns and selectable fields all derive from the rows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::status::Resource;
use serde_json::Value;

use crate::part::{self, Facet, Part, ScalePaths, Subresource};
use crate::schema::{Schema, Text};

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
    pub short_names: Vec<Text>,
    /// Groups of kinds for `kubectl get`, such as `all`.
    pub categories: Vec<Text>,
    /// False for kinds that live outside namespaces.
    pub namespaced: bool,
    /// True if `metadata.generation` counts the changes of the spec.
    pub has_generation: bool,
    /// Parts of its objects, and things to do with them, that have a path of their own.
    pub subresources: Vec<Subresource>,
    /// True if a write need not say which version it is to replace.
    pub unconditional_update: bool,
    /// How soon a write must be on disk.
    pub durability: Durability,
    /// How long objects live after their last change, if they do not live until they are deleted.
    pub time_to_live: Option<Duration>,
    /// Columns of `kubectl get`, without `Name` and `Age` left out: all of them, in order.
    pub columns: Vec<Column>,
    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// Fields that are kept beside an object for decisions about others; no client can name them.
    pub indexed_fields: Vec<SelectableField>,
    /// What its objects look like.
    pub schema: Schema,
    /// Decoding, defaulting and validation.
    pub rules: Arc<dyn Rules>,
    /// What is stored, if this kind is another form of it.
    pub view: Option<View>,
    /// What whoever uses this version is warned of.
    pub deprecation: Option<String>,
}

/// Makes one form of an object of another.
pub type Convert = Arc<dyn Fn(Value) -> Value + Send + Sync>;

/// A kind whose objects are stored as those of another version, with the same plural. `apiVersion` is
/// changed by whoever asks these.
#[derive(Clone)]
pub struct View {
    /// Group and version of what is stored.
    pub of: (Text, Text),
    /// What is stored for an object of this kind.
    pub to_stored: Convert,
    /// The object of this kind for one that is stored.
    pub from_stored: Convert,
    /// The selectable field of the stored form that a field of this one is.
    pub stored_field: Arc<dyn Fn(&str) -> String + Send + Sync>,
}

impl View {
    /// A view whose selectable fields have the names of the stored ones.
    pub fn new(
        (group, version): (&'static str, &'static str),
        to_stored: impl Fn(Value) -> Value + Send + Sync + 'static,
        from_stored: impl Fn(Value) -> Value + Send + Sync + 'static,
    ) -> View {
        View {
            of: (group.into(), version.into()),
            to_stored: Arc::new(to_stored),
            from_stored: Arc::new(from_stored),
            stored_field: Arc::new(str::to_owned),
        }
    }
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
    pub name: Text,
    /// OpenAPI type of the cells: `string`, `integer`, `date`.
    pub type_: Text,
    /// `name` for the first column, else empty.
    pub format: Text,
    /// Shown by clients that explain columns.
    pub description: Text,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// Its cells.
    pub cell: Cell,
}

/// The cell of an object. The time is for ages.
pub type Cell = Arc<dyn Fn(&Value, Timestamp) -> Value + Send + Sync>;

/// A field that field selectors may name.
#[derive(Clone)]
pub struct SelectableField {
    /// `spec.nodeName`. Every object that is stored holds on to it.
    pub name: Arc<str>,
    /// Its value, empty when absent.
    pub value: Arc<dyn Fn(&Value) -> String + Send + Sync>,
}

impl SelectableField {
    /// The field of this name with this value.
    pub fn new(name: &str, value: impl Fn(&Value) -> String + Send + Sync + 'static) -> Self {
        SelectableField { name: name.into(), value: Arc::new(value) }
    }

    /// The field whose value is the text at a JSON pointer.
    pub fn at(name: &str, pointer: impl Into<Text>) -> Self {
        let pointer = pointer.into();
        let text = move |object: &Value| object.pointer(&pointer).and_then(Value::as_str).map(str::to_owned);
        SelectableField::new(name, move |object| text(object).unwrap_or_default())
    }
}

/// What is written of a kind.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// A new object.
    Create,
    /// A part of this object, by a client.
    Update(&'a Value, &'a Part),
    /// What the server itself makes of this object, with what a client has sent.
    Connect(&'a Value),
}

/// The rules of one kind: the phases of a write that know no other object, no time and no store.
///
/// A write passes [`Rules::tidy`] and [`Rules::decode`], which [`Kind::propose`] joins, and then the
/// phases of the [`Proposal`] in their order. What needs to know more is a stage's.
pub trait Rules: Send + Sync {
    /// What a client means by what it says: without what is the same as absent, and with the names of
    /// its version and kind, which it may leave to the path.
    fn tidy(&self, object: Value) -> Result<Value, Refusal>;

    /// Reads a whole object that is to be written.
    fn decode(&self, write: Write<'_>, object: Value) -> Result<Box<dyn Proposal>, Refusal>;
}

/// An object that is to be written, decoded, on its way through its kind's rules.
pub trait Proposal: Send {
    /// Fills in what absent fields mean.
    fn default(&mut self);

    /// Clears what a client may not set, puts back what it may not change, and sets what the server sets.
    fn prepare(&mut self);

    /// What is wrong with the object, or with the change.
    fn validate(&self) -> Result<(), Refusal>;

    /// The object as stages see it.
    fn value(&self) -> Result<Value, Refusal>;

    /// The object in its canonical form, which is stored.
    fn stored(&self) -> Result<Value, Refusal>;
}

impl Kind {
    /// A row of namespaced objects with nothing but this group and version, this kind and plural, this
    /// schema and these rules.
    pub fn new(
        (group, version): (&str, &str),
        (kind, plural): (&str, &str),
        schema: Schema,
        rules: Arc<dyn Rules>,
    ) -> Kind {
        Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            has_generation: false,
            subresources: Vec::new(),
            unconditional_update: true,
            durability: Durability::Immediate,
            time_to_live: None,
            columns: Vec::new(),
            selectable_fields: Vec::new(),
            indexed_fields: Vec::new(),
            schema,
            rules,
            view: None,
            deprecation: None,
        }
    }

    /// A row with these subresources too.
    pub fn with(mut self, more: impl IntoIterator<Item = Subresource>) -> Self {
        self.subresources.extend(more);
        self
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Where the size of its objects is, if they have one.
    pub fn scale(&self) -> Option<&ScalePaths> {
        self.subresources.iter().find_map(|subresource| match &subresource.facet {
            Facet::Scale(paths) => Some(paths),
            _ => None,
        })
    }

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

    /// Reads what a client wants to be written. What it may not write there is as it was.
    pub fn propose(&self, write: Write<'_>, object: Value) -> Result<Box<dyn Proposal>, Refusal> {
        // Only what the client says: what is stored may hold defaults that look like nothing.
        let whole = match write {
            Write::Create => part::without_parts(&self.subresources, self.rules.tidy(object)?),
            Write::Update(old, part) => {
                part::with_part(&self.subresources, part, old, self.rules.tidy(object)?)
            }
            Write::Connect(_) => object,
        };
        self.rules.decode(write, whole)
    }

    /// What is stored of what a client wants to be written, where no stage has a say.
    pub fn apply_rules(&self, write: Write<'_>, object: Value) -> Result<Value, Refusal> {
        let mut proposal = self.propose(write, object)?;
        proposal.default();
        proposal.prepare();
        proposal.validate()?;
        proposal.stored()
    }

    /// The selectable and the indexed fields of an object.
    pub fn fields(&self, object: &Value) -> Vec<(Arc<str>, String)> {
        let all = self.selectable_fields.iter().chain(&self.indexed_fields);
        all.map(|field| (field.name.clone(), (field.value)(object))).collect()
    }

    /// True if this row is of this group and kind.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    fn serves(&self, group: &str, version: &str, plural: &str) -> bool {
        self.group == group && self.version == version && self.plural == plural
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

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.kinds.iter().map(|kind| format!("{} {}", kind.api_version(), kind.plural));
        f.debug_list().entries(names).finish()
    }
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

    /// The table with one more row, in the place of one of the same group, version and plural.
    pub fn with(&self, kind: Kind) -> Table {
        let mut kinds = self.kinds.clone();
        let kind = Arc::new(kind);
        match kinds.iter_mut().find(|k| k.serves(&kind.group, &kind.version, &kind.plural)) {
            Some(place) => *place = kind,
            None => kinds.push(kind),
        }
        Table { kinds }
    }

    /// The table without the row that serves a path.
    pub fn without(&self, group: &str, version: &str, plural: &str) -> Table {
        let rest = self.kinds.iter().filter(|k| !k.serves(group, version, plural));
        Table { kinds: rest.cloned().collect() }
    }

    /// All rows, in discovery order.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Kind>> {
        self.kinds.iter()
    }

    /// True if this very row is one of the table.
    pub fn has(&self, row: &Arc<Kind>) -> bool {
        self.kinds.iter().any(|kind| Arc::ptr_eq(kind, row))
    }

    /// The row that serves a path such as `/apis/apps/v1/deployments`.
    pub fn by_plural(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|k| k.serves(group, version, plural))
    }

    /// The row of objects with this `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kinds.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
    }

    /// The rows whose objects are stored as they are, in discovery order: each object is of one of them.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter().filter(|k| k.view.is_none())
    }

    /// The row of what is stored for objects of this group and kind, in whichever version they are named.
    pub fn stored_of(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        let named = self.kinds.iter().find(|k| k.group == group && k.kind == kind)?;
        match &named.view {
            None => Some(named),
            Some(view) => self.by_plural(&view.of.0, &view.of.1, &named.plural),
        }
    }
}
