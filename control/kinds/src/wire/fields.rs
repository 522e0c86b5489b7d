//! Fields that a kind does not have, and what the writer may have meant.
//!
//! Walks a value beside the table of [`crate::schema`]. A kind that the table does not hold is
//! walked beside its JSON schema instead.

use std::fmt;

use crate::Kind;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use proa_api::field::Path;

use super::build::{MAX_COMPLAINTS, shortened};
use crate::schema::{self, Field, MessageId, Nature, Shape, Type, messages};

/// A field that the kind does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// `spec.template.spec.containers[0].imagee`.
    pub path: String,
    /// The name that it resembles: `image`.
    pub suggestion: Option<String>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown field \"{}\"", self.path)?;
        match &self.suggestion {
            Some(name) => write!(f, " (did you mean \"{name}\"?)"),
            None => Ok(()),
        }
    }
}

/// The fields of `value` that its kind does not have. The value's own `apiVersion` and `kind` come
/// first (a Scale sent to a Deployment is a Scale), then `kind`.
pub fn unknown_fields(kind: &Kind, value: &Value) -> Vec<UnknownField> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let message = schema::message_of(text("apiVersion"), text("kind"))
        .or_else(|| schema::message_of(&kind.api_version(), &kind.kind));
    let mut found = Found(Vec::new());
    match message {
        Some(id) => found.in_message(id, value, None),
        None => {
            let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
            let root = (kind.schema)(&mut generator);
            found.in_schema(generator.definitions(), root.as_value(), value, None);
        }
    }
    found.0
}

struct Found(Vec<UnknownField>);

impl Found {
    fn in_message(&mut self, id: MessageId, value: &Value, path: Option<&Path<'_>>) {
        let Value::Object(object) = value else { return };
        if messages().get(id).nature != Nature::Object {
            return;
        }
        let whole = path.is_none() || messages().field(id, "metadata").is_some();
        for (name, value) in object {
            let here = step(path, name);
            match messages().field(id, name) {
                Some(field) => self.in_field(field, value, &here),
                None if whole && matches!(name.as_str(), "apiVersion" | "kind") => {}
                None => {
                    let fields = messages().json_fields(id);
                    self.push(&here, name, fields.iter().map(|f| f.name));
                }
            }
        }
    }

    fn in_field(&mut self, field: &Field, value: &Value, path: &Path<'_>) {
        let Type::Message(id) = field.type_ else { return };
        match (field.shape, value) {
            (Shape::One, value) => self.in_message(id, value, Some(path)),
            (Shape::List, Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.in_message(id, item, Some(&path.index(index)));
                }
            }
            (Shape::Map, Value::Object(map)) => {
                for (key, value) in map {
                    self.in_message(id, value, Some(&path.field(key)));
                }
            }
            _ => {}
        }
    }

    fn in_schema(
        &mut self,
        definitions: &Map<String, Value>,
        schema: &Value,
        value: &Value,
        path: Option<&Path<'_>>,
    ) {
        let schema = schema.get("$ref").and_then(Value::as_str).map_or(Some(schema), |reference| {
            definitions.get(reference.rsplit('/').next().unwrap_or(reference))
        });
        let Some(schema) = schema else { return };
        match value {
            Value::Object(object) => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let others = schema.get("additionalProperties").filter(|s| s.is_object());
                for (name, value) in object {
                    let here = step(path, name);
                    match (properties.and_then(|p| p.get(name)), others, properties) {
                        (Some(schema), _, _) | (None, Some(schema), _) => {
                            self.in_schema(definitions, schema, value, Some(&here));
                        }
                        (None, None, Some(properties)) => {
                            self.push(&here, name, properties.keys().map(String::as_str));
                        }
                        (None, None, None) => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                let root = Path::root("");
                let path = path.unwrap_or(&root);
                for (index, item) in items.iter().enumerate() {
                    self.in_schema(definitions, schema, item, Some(&path.index(index)));
                }
            }
            _ => {}
        }
    }

    fn push<'a>(&mut self, path: &Path<'_>, name: &str, known: impl Iterator<Item = &'a str>) {
        if self.0.len() < MAX_COMPLAINTS {
            self.0.push(UnknownField { path: shortened(path.to_string()), suggestion: nearest(name, known) });
        }
    }
}

fn step<'a>(path: Option<&'a Path<'a>>, name: &'a str) -> Path<'a> {
    match path {
        Some(path) => path.field(name),
        None => Path::root(name),
    }
}

/// The known name that differs by at most a third of its letters, case aside.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Insertions, deletions and replacements between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::definition_name;
    use serde_json::json;

    #[track_caller]
    fn check(value: Value, expected: &[&str]) {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let id = schema::message_of(&text("apiVersion"), &text("kind")).expect("a built-in kind");
        let mut by_table = Found(Vec::new());
        by_table.in_message(id, &value, None);
        let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
        let root = match text("kind").as_str() {
            "Deployment" => generator.subschema_for::<k8s_openapi::api::apps::v1::Deployment>(),
            _ => generator.subschema_for::<k8s_openapi::api::core::v1::Pod>(),
        };
        assert!(generator.definitions().contains_key(&definition_name(&text("apiVersion"), &text("kind"))));
        let mut by_schema = Found(Vec::new());
        by_schema.in_schema(generator.definitions(), root.as_value(), &value, None);
        assert_eq!(by_table.0, by_schema.0, "the table and the JSON schema agree");
        let texts: Vec<String> = by_table.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn misspelt_fields_are_named_with_a_suggestion() {
        check(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "labels": {"any": "x"}},
                "spec": {"replica": 1, "template": {"spec": {
                    "containers": [{"name": "a", "imagee": "b", "ports": [{"containerport": 1}],
                        "resources": {"limits": {"cpu": 1}, "limit": {}}}],
                    "volumes": [{"name": "v", "emptydir": {}}, {"name": "w", "configMap": {"name": "x", "zzz": 1}}]}}}}),
            &[
                "unknown field \"spec.replica\" (did you mean \"replicas\"?)",
                "unknown field \"spec.template.spec.containers[0].imagee\" (did you mean \"image\"?)",
                "unknown field \"spec.template.spec.containers[0].ports[0].containerport\" \
                 (did you mean \"containerPort\"?)",
                "unknown field \"spec.template.spec.containers[0].resources.limit\" (did you mean \"limits\"?)",
                "unknown field \"spec.template.spec.volumes[0].emptydir\" (did you mean \"emptyDir\"?)",
                "unknown field \"spec.template.spec.volumes[1].configMap.zzz\"",
            ],
        );
    }

    #[test]
    fn wrong_types_are_not_this_check() {
        check(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": [], "spec": {"containers": {"a": 1}}}),
            &[],
        );
        check(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": null,
                "managedFields": [{"fieldsV1": {"f:x": {}}}]}, "spec": {"containers": null}, "extra": 1}),
            &["unknown field \"extra\""],
        );
    }
}
