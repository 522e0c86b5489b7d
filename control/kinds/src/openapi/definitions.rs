//! The schemas of the kinds and of all types they reach, under the names and with the extensions
//! that Kubernetes clients look for.
//!
//! Types and field docs come from the Rust types; what merges how comes from the table of
//! [`crate::schema`].

use crate::Kind;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::dialect::Dialect;
use crate::schema::{Field, MessageId, Nature, Shape, Type, definition_name, messages};

/// The definition name of a kind's own type.
pub(super) fn name_of(kind: &Kind) -> String {
    definition_name(&kind.api_version(), &kind.kind)
}

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
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut own = Map::new();
    let mut from_table: Vec<MessageId> = Vec::new();
    for kind in kinds {
        let schema = (kind.schema)(&mut generator).to_value();
        if schema.get("$ref").is_none() {
            own.insert(name_of(kind), schema);
        }
    }
    let mut raw = generator.take_definitions(false);
    raw.append(&mut own);
    // Old versions have no Rust type.
    from_table.extend(kinds.iter().filter_map(|kind| messages().find(&name_of(kind))));
    while let Some(id) = from_table.pop() {
        let name = messages().get(id).name;
        if !raw.contains_key(name) {
            raw.insert(name.to_owned(), tabled(id, &mut from_table));
        }
    }
    raw.sort_keys();

    let mut definitions = Map::new();
    for (name, schema) in raw {
        let schema = definition(&name, schema, dialect);
        definitions.insert(name, schema);
    }
    for kind in kinds {
        if let Some(Value::Object(schema)) = definitions.get_mut(&name_of(kind)) {
            // Versions of the same shape share a definition.
            let all = schema.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
            all.as_array_mut().expect("it was made as a list").push(group_version_kind(kind));
        }
    }
    definitions
}

/// The JSON Schema of a message of the table; `reached` gets the messages that it refers to.
fn tabled(id: MessageId, reached: &mut Vec<MessageId>) -> Value {
    let message = messages().get(id);
    match message.nature {
        Nature::Time | Nature::MicroTime => return json!({"type": "string", "format": "date-time"}),
        Nature::Object => {}
        _ => return json!({}),
    }
    let mut properties =
        Map::from_iter(["apiVersion", "kind"].map(|name| (name.to_owned(), json!({"type": "string"}))));
    if messages().field(id, "metadata").is_none() {
        properties.clear();
    }
    let mut required = Vec::new();
    for field in messages().json_fields(id) {
        let one = match field.type_ {
            Type::Text => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Integer => json!({"type": "integer", "format": "int32"}),
            Type::Float => json!({"type": "number", "format": "double"}),
            Type::Message(inner) => {
                reached.push(inner);
                json!({"$ref": format!("#/$defs/{}", messages().get(inner).name)})
            }
        };
        let schema = match field.shape {
            Shape::One => one,
            Shape::List => json!({"type": "array", "items": one}),
            Shape::Map => json!({"type": "object", "additionalProperties": one}),
        };
        properties.insert(field.name.to_owned(), schema);
        if !field.optional {
            required.push(field.name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required})
}

/// One definition: those types whose JSON is not what their Go type looks like are written out, the
/// others take their extensions from the table.
fn definition(name: &str, schema: Value, dialect: Dialect) -> Value {
    let description = schema.get("description").cloned().unwrap_or_else(|| "".into());
    let short = name.rsplit('.').next().unwrap_or(name);
    match (short, dialect) {
        ("Quantity", Dialect::V2) => return json!({"description": description, "type": "string"}),
        ("Quantity", Dialect::V3) => {
            return json!({"description": description, "oneOf": [{"type": "string"}, {"type": "number"}]});
        }
        ("IntOrString", Dialect::V2) => {
            return json!({"description": description, "type": "string", "format": "int-or-string"});
        }
        ("IntOrString", Dialect::V3) => {
            return json!({"description": description, "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}]});
        }
        ("JSON" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray", _) => {
            return json!({ "description": description });
        }
        _ => {}
    }
    let mut schema = converted(schema, dialect);
    if let (Value::Object(schema), Some(id)) = (&mut schema, messages().find(name)) {
        extend(schema, id);
    }
    schema
}

/// Adds how the fields of a message merge, and lets optional fields be left out.
fn extend(schema: &mut Map<String, Value>, id: MessageId) {
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        let optional = |name: &Value| {
            name.as_str().and_then(|name| messages().field(id, name)).is_some_and(|field| field.optional)
        };
        required.retain(|name| !optional(name));
        if required.is_empty() {
            schema.shift_remove("required");
        }
    }
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (name, property) in properties {
        if let (Some(field), Value::Object(property)) = (messages().field(id, name), property) {
            extend_property(property, field);
        }
    }
}

fn extend_property(property: &mut Map<String, Value>, field: &Field) {
    let mut set = |name: &str, value: Value| property.insert(format!("x-kubernetes-{name}"), value);
    if !field.patch_strategy.is_empty() {
        set("patch-strategy", field.patch_strategy.into());
    }
    if !field.merge_key.is_empty() {
        set("patch-merge-key", field.merge_key.into());
    }
    if !field.list_type.is_empty() {
        set("list-type", field.list_type.into());
    }
    if !field.list_map_keys.is_empty() {
        set("list-map-keys", field.list_map_keys.split(',').collect::<Vec<_>>().into());
    }
}

/// A JSON Schema in the dialect's words.
fn converted(schema: Value, dialect: Dialect) -> Value {
    let Value::Object(mut schema) = schema else {
        // `true` is any value.
        return Value::Object(Map::new());
    };
    if let Some(target) = schema.shift_remove("$ref") {
        let target = target.as_str().unwrap_or_default();
        let target = reference(target.rsplit('/').next().unwrap_or(target), dialect);
        // In 3.0 nothing may stand beside a reference, so it is wrapped.
        if dialect == Dialect::V3 && !schema.is_empty() {
            schema.insert("allOf".to_owned(), json!([{ "$ref": target }]));
        } else {
            schema.insert("$ref".to_owned(), target);
        }
        return Value::Object(schema);
    }
    for key in ["$schema", "title"] {
        schema.shift_remove(key);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key).filter(|inner| inner.is_object()) {
            *inner = converted(inner.take(), dialect);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            *property = converted(property.take(), dialect);
        }
    }
    Value::Object(schema)
}
