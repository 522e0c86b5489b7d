//! The types of a custom kind, from the structural schema in its definition:
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.
//!
//! It never refuses a schema: what says no type holds anything.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::built_in::built_in;
use super::types::{DefinitionId, Field, Merge, Nature, Slot, Text, Type, Types};

/// What of a schema became part of the types; all else is kept in its own words.
const TAKEN: [&str; 9] = [
    "type",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "nullable",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
];

/// The types of a kind with this definition name, and its own.
pub(super) fn read(name: String, schema: &Value) -> (Types, DefinitionId) {
    let mut builder = Builder::default();
    let root = builder.types.define(name.into(), Nature::Object);
    builder.fill(root, schema, true);
    builder.types.get_mut(root).rest = rest(schema);
    (builder.types, root)
}

#[derive(Default)]
struct Builder {
    types: Types,
    /// Built-in types that were taken over, by what they were there.
    imported: HashMap<DefinitionId, DefinitionId>,
}

impl Builder {
    fn slot(&mut self, schema: &Value) -> Slot {
        Slot {
            type_: self.type_(schema),
            nullable: says(schema, "nullable"),
            merge: merge(schema),
            rest: rest(schema),
        }
    }

    fn type_(&mut self, schema: &Value) -> Type {
        if says(schema, "x-kubernetes-int-or-string") {
            return self.nameless(Nature::IntOrString);
        }
        match (text(schema, "type"), text(schema, "format")) {
            ("string", "date-time") => self.nameless(Nature::Time),
            ("string", "byte") => Type::Bytes,
            ("string", _) => Type::Text,
            ("integer", "int32") => Type::Int32,
            ("integer", _) => Type::Int64,
            ("number", _) => Type::Float,
            ("boolean", _) => Type::Bool,
            ("array", _) => {
                let items = self.slot(schema.get("items").unwrap_or(&Value::Null));
                Type::List(self.types.add(items))
            }
            ("object", _) => match schema.get("additionalProperties") {
                Some(values) if *values != Value::Bool(false) => {
                    let values = self.slot(values);
                    Type::Map(self.types.add(values))
                }
                _ => {
                    let id = self.types.define(Text::default(), Nature::Object);
                    self.fill(id, schema, says(schema, "x-kubernetes-embedded-resource"));
                    Type::Defined(id)
                }
            },
            _ => self.nameless(Nature::RawJson),
        }
    }

    /// Adds the fields of an object; a whole one has metadata, whatever its schema says of it.
    fn fill(&mut self, id: DefinitionId, schema: &Value, whole: bool) {
        let required = schema.get("required").and_then(Value::as_array);
        let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
        let mut fields = Vec::new();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if !(whole && name == "metadata") {
                fields.push(field(name.clone().into(), self.slot(schema), !is_required(name)));
            }
        }
        if whole {
            for name in ["apiVersion", "kind"] {
                if !fields.iter().any(|field| field.name == name) {
                    fields.push(field(name.into(), Type::Text.into(), true));
                }
            }
            let metadata = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
            let metadata = built_in().find(metadata).expect("objects have metadata");
            let metadata = Type::Defined(self.import(metadata));
            fields.push(field("metadata".into(), metadata.into(), !is_required("metadata")));
        }
        let definition = self.types.get_mut(id);
        definition.fields = fields;
        definition.open = says(schema, "x-kubernetes-preserve-unknown-fields");
    }

    fn nameless(&mut self, nature: Nature) -> Type {
        Type::Defined(self.types.define(Text::default(), nature))
    }

    /// Takes a built-in type over, with all that it refers to.
    fn import(&mut self, id: DefinitionId) -> DefinitionId {
        if let Some(known) = self.imported.get(&id) {
            return *known;
        }
        let definition = built_in().types.get(id);
        let own = self.types.define(definition.name.clone(), definition.nature);
        self.imported.insert(id, own);
        for field in &definition.fields {
            let mut field = field.clone();
            field.slot.type_ = self.import_type(field.slot.type_);
            self.types.get_mut(own).fields.push(field);
        }
        own
    }

    fn import_type(&mut self, type_: Type) -> Type {
        let inner = |id| built_in().types.inner(id).clone();
        match type_ {
            Type::Defined(id) => Type::Defined(self.import(id)),
            Type::List(id) => {
                let slot = Slot { type_: self.import_type(inner(id).type_), ..inner(id) };
                Type::List(self.types.add(slot))
            }
            Type::Map(id) => {
                let slot = Slot { type_: self.import_type(inner(id).type_), ..inner(id) };
                Type::Map(self.types.add(slot))
            }
            plain => plain,
        }
    }
}

fn field(name: Text, slot: Slot, optional: bool) -> Field {
    Field { name, number: 0, slot, by_value: false, drop_zero: false, optional, embedded: false }
}

fn merge(schema: &Value) -> Option<Box<Merge>> {
    let word = |key: &str| Text::from(text(schema, key).to_owned());
    let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    let merge = Merge {
        list_type: word("x-kubernetes-list-type"),
        list_keys: keys
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|key| key.to_owned().into())
            .collect(),
        map_type: word("x-kubernetes-map-type"),
        ..Merge::default()
    };
    (merge != Merge::default()).then(|| Box::new(merge))
}

fn rest(schema: &Value) -> Option<Box<Map<String, Value>>> {
    let all = schema.as_object()?.iter().filter(|(name, _)| !TAKEN.contains(&name.as_str()));
    let rest: Map<String, Value> = all.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!rest.is_empty()).then(|| Box::new(rest))
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn says(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::schema::{Field, Nature, Schema, Type};
    use crate::testing;
    use crate::wire::unknown_fields;

    fn schema() -> Schema {
        let volume = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string"}, "max": {"type": "integer"}, "since": {"type": "string", "format": "date-time"},
        }});
        let spec = json!({"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "replicas": {"type": "integer", "format": "int32", "default": 0, "nullable": true},
            "volumes": {"type": "array", "items": volume, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"]},
            "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}},
            "files": {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
            "anything": {"x-kubernetes-preserve-unknown-fields": true},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                "known": {"type": "object", "properties": {"ratio": {"type": "number"}}}}},
            "object": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
                "spec": {"type": "object"}}},
        }});
        let whole = json!({"type": "object", "properties": {"spec": spec}});
        Schema::custom("stable.example.com/v1", "CronTab", &whole)
    }

    fn field<'a>(schema: &'a Schema, path: &[&str]) -> &'a Field {
        let mut id = schema.root();
        let (last, way) = path.split_last().unwrap();
        for name in way {
            let mut type_ = schema.types().field(id, name).unwrap().slot.type_;
            while let Type::List(inner) | Type::Map(inner) = type_ {
                type_ = schema.types().inner(inner).type_;
            }
            let Type::Defined(inner) = type_ else { panic!("{name} is no object") };
            id = inner;
        }
        schema.types().field(id, last).unwrap_or_else(|| panic!("no {last}"))
    }

    #[test]
    fn types_keys_and_all_else_are_read() {
        let schema = schema();
        assert_eq!(schema.name(), "com.example.stable.v1.CronTab");
        let of = |path: &[&str]| field(&schema, path).slot.type_;
        let nature = |path: &[&str]| schema.types().nature(of(path));
        assert_eq!(nature(&["spec", "port"]), Some(Nature::IntOrString));
        assert_eq!(nature(&["spec", "volumes", "since"]), Some(Nature::Time));
        assert_eq!(nature(&["spec", "anything"]), Some(Nature::RawJson));
        assert_eq!(nature(&["metadata", "creationTimestamp"]), Some(Nature::Time));
        assert_eq!(of(&["spec", "volumes", "max"]), Type::Int64);
        assert_eq!(of(&["spec", "object", "metadata", "generation"]), Type::Int64);
        let replicas = field(&schema, &["spec", "replicas"]);
        assert_eq!((replicas.slot.type_, replicas.slot.nullable), (Type::Int32, true));
        assert_eq!(replicas.slot.rest.as_ref().unwrap()["default"], 0);
        let merge = field(&schema, &["spec", "volumes"]).slot.merge.as_ref().unwrap();
        assert_eq!((&*merge.list_type, &*merge.list_keys), ("map", &["name".into()][..]));
        assert!(!field(&schema, &["spec", "volumes", "name"]).optional);
    }

    #[test]
    fn objects_are_walked() {
        let schema = schema();
        let mut kind = testing::pods();
        (kind.group, kind.kind, kind.schema) =
            ("stable.example.com".to_owned(), "CronTab".to_owned(), schema);
        let mut value = json!({
            "apiVersion": "stable.example.com/v1", "kind": "CronTab",
            "metadata": {"name": "x", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {
                "port": "http", "replicas": null, "volumes": [{"name": "a", "max": 1, "since": "2026-01-01T00:00:00Z"}],
                "matrix": [[true], []], "files": {"a": "aGk="}, "anything": [{"b": 1}],
                "open": {"more": {"c": 1}, "known": {"ratio": 0.5}},
                "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"d": "e"}}, "spec": {}},
            },
        });
        assert_eq!(unknown_fields(&kind, &value), []);
        assert_eq!(kind.schema.misfit(&value), None);
        value["spec"]["volumes"][0]["maxx"] = 1.into();
        value["spec"]["open"]["known"]["ratios"] = 1.into();
        value["spec"]["object"]["metadata"]["label"] = 1.into();
        value["spec"]["object"]["spec"]["containers"] = json!([]);
        let found: Vec<String> = unknown_fields(&kind, &value).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "unknown field \"spec.volumes[0].maxx\" (did you mean \"max\"?)",
                "unknown field \"spec.open.known.ratios\" (did you mean \"ratio\"?)",
                "unknown field \"spec.object.metadata.label\" (did you mean \"labels\"?)",
                "unknown field \"spec.object.spec.containers\"",
            ]
        );
        for (pointer, wrong) in [
            ("/spec/matrix/0/0", json!("yes")),
            ("/spec/files/a", json!("?")),
            ("/spec/replicas", json!(1_u64 << 40)),
            ("/spec/port", json!([])),
            ("/spec/volumes/0/since", json!("now")),
            ("/metadata/labels", json!({"a": 1})),
        ] {
            let mut value = value.clone();
            value["metadata"]["labels"] = json!({});
            *value.pointer_mut(pointer).unwrap() = wrong;
            assert!(kind.schema.misfit(&value).is_some(), "{pointer}");
        }
    }
}
