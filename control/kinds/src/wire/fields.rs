//! Fields that a kind does not have, and what the writer may have meant.

use std::fmt;

use proa_api::field::Path;
use serde_json::{Map, Value};

use super::build::{MAX_COMPLAINTS, shortened};
use crate::Kind;
use crate::schema::{DefinitionId, Nature, Schema, Type, Types};

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
    let is_own = text("kind") == kind.kind && text("apiVersion") == kind.api_version();
    let others = if is_own { None } else { Schema::built_in(text("apiVersion"), text("kind")) };
    unknown(others.as_ref().unwrap_or(&kind.schema), value)
}

/// The fields of `value` that this schema does not have.
pub(super) fn unknown(schema: &Schema, value: &Value) -> Vec<UnknownField> {
    let mut walk = Walk { types: schema.types(), found: Vec::new() };
    if let Value::Object(object) = value {
        walk.object(schema.root(), object, None);
    }
    walk.found
}

struct Walk<'a> {
    types: &'a Types,
    found: Vec<UnknownField>,
}

impl Walk<'_> {
    fn value(&mut self, type_: Type, value: &Value, path: &Path<'_>) {
        match (type_, value) {
            (Type::Defined(id), Value::Object(object)) => self.object(id, object, Some(path)),
            (Type::List(inner), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(self.types.inner(inner).type_, item, &path.index(index));
                }
            }
            (Type::Map(inner), Value::Object(map)) => {
                for (key, value) in map {
                    self.value(self.types.inner(inner).type_, value, &path.field(key));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, id: DefinitionId, object: &Map<String, Value>, path: Option<&Path<'_>>) {
        let definition = self.types.get(id);
        if definition.nature != Nature::Object {
            return;
        }
        for (name, value) in object {
            let here = path.map_or_else(|| Path::root(name), |path| path.field(name));
            match self.types.field(id, name) {
                Some(field) => self.value(field.slot.type_, value, &here),
                None if definition.open => {}
                None => {
                    let fields = self.types.json_fields(id);
                    self.push(&here, name, fields.iter().map(|f| &*f.name));
                }
            }
        }
    }

    fn push<'a>(&mut self, path: &Path<'_>, name: &str, known: impl Iterator<Item = &'a str>) {
        if self.found.len() < MAX_COMPLAINTS {
            self.found
                .push(UnknownField { path: shortened(path.to_string()), suggestion: nearest(name, known) });
        }
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
    use serde_json::json;

    #[track_caller]
    fn check(value: Value, expected: &[&str]) {
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        let schema = Schema::built_in(text("apiVersion"), text("kind")).expect("a built-in kind");
        let found = unknown(&schema, &value);
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
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
