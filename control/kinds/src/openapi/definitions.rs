//! The schemas of the kinds and of all types they reach, under the names and with the extensions
//! that Kubernetes clients look for.

use serde_json::{Map, Value, json};

use super::dialect::Dialect;
use super::docs::Docs;
use crate::Kind;
use crate::schema::{DefinitionId, Merge, Nature, Slot, Type, Types};

/// `{"group": "apps", "version": "v1", "kind": "Deployment"}`.
pub(super) fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The prefix of references to definitions.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => format!("#/definitions/{name}").into(),
        Dialect::V3 => format!("#/components/schemas/{name}").into(),
    }
}

/// All definitions that the kinds need, in alphabetical order.
pub(super) fn definitions(kinds: &[&Kind], dialect: Dialect) -> Map<String, Value> {
    let docs = Docs::built_in();
    let mut definitions = Map::new();
    for kind in kinds {
        Writer { types: kind.schema.types(), docs: &docs, dialect, definitions: &mut definitions }
            .define(kind.schema.root());
        // Versions of the same shape share a definition.
        let all = &mut definitions[kind.schema.name()]["x-kubernetes-group-version-kind"];
        match all {
            Value::Array(all) => all.push(group_version_kind(kind)),
            none => *none = json!([group_version_kind(kind)]),
        }
    }
    definitions.sort_keys();
    definitions
}

/// Writes the definitions of these types.
struct Writer<'a> {
    types: &'a Types,
    docs: &'a Docs,
    dialect: Dialect,
    definitions: &'a mut Map<String, Value>,
}

impl Writer<'_> {
    /// Writes a named type and all that it refers to.
    fn define(&mut self, id: DefinitionId) {
        let name = &self.types.get(id).name;
        if !self.definitions.contains_key(&**name) {
            // It may refer to itself.
            self.definitions.insert(name.to_string(), Value::Null);
            let definition = self.definition(id);
            self.definitions.insert(name.to_string(), definition);
        }
    }

    fn definition(&mut self, id: DefinitionId) -> Value {
        let definition = self.types.get(id);
        let is_named = !definition.name.is_empty();
        let mut schema = match (definition.nature, self.dialect) {
            (Nature::Object, _) => self.object(id),
            (Nature::Time | Nature::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
            (Nature::Quantity, Dialect::V2) => json!({"type": "string"}),
            (Nature::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            (Nature::IntOrString, Dialect::V2) if is_named => {
                json!({"type": "string", "format": "int-or-string"})
            }
            (Nature::IntOrString, Dialect::V3) if is_named => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            (Nature::Items, _) => json!({"type": "array", "items": {"type": "string"}}),
            // The JSON in the definition of a custom kind may be anything.
            (Nature::RawJson, _) if is_named && !definition.name.ends_with(".JSON") => {
                json!({"type": "object"})
            }
            // A custom kind says in its own words what these are.
            (Nature::IntOrString | Nature::RawJson, _) => json!({}),
            (Nature::SchemaOrBool | Nature::SchemaOrList, _) => json!({}),
        };
        if let Some(docs) = self.docs.of(&definition.name) {
            schema["description"] = docs.into();
        }
        self.add_rest(definition.rest.as_deref(), &mut schema);
        schema
    }

    fn object(&mut self, id: DefinitionId) -> Value {
        let types = self.types;
        let mut fields = types.json_fields(id);
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut schema = json!({"type": "object"});
        for field in &fields {
            let docs = self.docs.of_field(&types.get(id).name, &field.name);
            schema["properties"][&*field.name] = self.slot(&field.slot, docs);
        }
        let required: Vec<&str> = fields.iter().filter(|f| !f.optional).map(|f| &*f.name).collect();
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }

    fn slot(&mut self, slot: &Slot, docs: Option<String>) -> Value {
        let mut schema = self.type_(slot.type_);
        let is_bare = docs.is_none() && slot.merge.is_none();
        // In 3.0 nothing may stand beside a reference, so it is wrapped.
        if self.dialect == Dialect::V3 && !is_bare && schema.get("$ref").is_some() {
            schema = json!({ "allOf": [schema] });
        }
        if let Some(docs) = docs {
            schema["description"] = docs.into();
        }
        if slot.nullable && self.dialect == Dialect::V3 {
            schema["nullable"] = true.into();
        }
        if let Some(merge) = &slot.merge {
            add_merge(merge, &mut schema);
        }
        self.add_rest(slot.rest.as_deref(), &mut schema);
        schema
    }

    fn type_(&mut self, type_: Type) -> Value {
        let types = self.types;
        match type_ {
            Type::Text => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Float => json!({"type": "number", "format": "double"}),
            Type::List(inner) => json!({"type": "array", "items": self.slot(types.inner(inner), None)}),
            Type::Map(inner) => {
                json!({"type": "object", "additionalProperties": self.slot(types.inner(inner), None)})
            }
            Type::Defined(id) => match (&*types.get(id).name, types.get(id).nature) {
                ("", _) | (_, Nature::Items) => self.definition(id),
                (name, _) => {
                    self.define(id);
                    json!({"$ref": reference(name, self.dialect)})
                }
            },
        }
    }

    /// Adds what a custom kind says in its own words, where the dialect has them.
    fn add_rest(&self, rest: Option<&Map<String, Value>>, schema: &mut Value) {
        const NOT_IN_V2: [&str; 4] = ["allOf", "anyOf", "oneOf", "not"];
        for (name, value) in rest.into_iter().flatten() {
            if self.dialect == Dialect::V3 || !NOT_IN_V2.contains(&name.as_str()) {
                schema[name.as_str()] = value.clone();
            }
        }
    }
}

fn add_merge(merge: &Merge, schema: &mut Value) {
    for (name, value) in [
        ("patch-strategy", &merge.patch_strategy),
        ("patch-merge-key", &merge.patch_key),
        ("list-type", &merge.list_type),
        ("map-type", &merge.map_type),
    ] {
        if !value.is_empty() {
            schema[format!("x-kubernetes-{name}")] = (**value).into();
        }
    }
    if !merge.list_keys.is_empty() {
        schema["x-kubernetes-list-map-keys"] = json!(merge.list_keys);
    }
}
