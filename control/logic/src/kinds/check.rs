//! What the tests of the kinds share: YAML in, canonical YAML or an error text out.

use serde_json::Value;

use super::{Kind, Part, built_in};

/// The row of the object in `yaml`.
fn row(object: &Value) -> std::sync::Arc<Kind> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    built_in().by_kind(text("apiVersion"), text("kind")).expect("a kind that is served").clone()
}

fn parse(yaml: &str) -> Value {
    let mut object: Value = serde_yaml_ng::from_str(yaml).expect("YAML");
    let namespaced = row(&object).namespaced;
    let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| serde_json::json!({}));
    let metadata = metadata.as_object_mut().unwrap();
    metadata.entry("name").or_insert("x".into());
    if namespaced {
        metadata.entry("namespace").or_insert("default".into());
    }
    object
}

/// What the registry would store for a new object, or the refusal's text.
pub fn created(yaml: &str) -> String {
    let object = parse(yaml);
    let kind = row(&object);
    show((kind.hooks.create)(object).map(|object| {
        let again = (kind.hooks.update)(&object, object.clone(), Part::Main).expect("an unchanged object");
        assert_eq!(again, object, "defaults give the same again");
        object
    }))
}

/// What the registry would store for a change of an object, or the refusal's text.
pub fn updated(old: &str, new: &str) -> String {
    let object = parse(old);
    let kind = row(&object);
    let old = (kind.hooks.create)(object).expect("a valid old object");
    show((kind.hooks.update)(&old, parse(new), Part::Main))
}

fn show(result: Result<Value, proa_api::Refusal>) -> String {
    match result {
        Ok(object) => serde_yaml_ng::to_string(&object).expect("YAML"),
        Err(refusal) => format!("{} {}\n", refusal.code(), refusal),
    }
}
