//! What the tests of the kinds share: YAML in, canonical YAML or an error text out.

use expect_test::Expect;
use serde_json::{Value, json};

use super::{Kind, Part, Write, built_in};

/// The row of an object.
fn row(object: &Value) -> std::sync::Arc<Kind> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    built_in::table().by_kind(text("apiVersion"), text("kind")).expect("a kind that is served").clone()
}

/// The object in `yaml`, named `x` in `default` unless it says otherwise.
fn parse(yaml: &str) -> Value {
    let mut object: Value = serde_yaml::from_str(yaml).expect("YAML");
    let namespaced = row(&object).namespaced;
    let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut().unwrap();
    metadata.entry("name").or_insert("x".into());
    if namespaced {
        metadata.entry("namespace").or_insert("default".into());
    }
    object
}

fn create(object: Value) -> Result<Value, proa_api::Refusal> {
    let kind = row(&object);
    let created = kind.apply_rules(Write::Create, object)?;
    let again =
        kind.apply_rules(Write::Update(&created, &Part::Main), created.clone()).expect("an unchanged object");
    assert_eq!(again, created, "an unchanged object stays as it is");
    Ok(created)
}

/// What the registry stores for a new object, or why it is refused.
pub fn created(yaml: &str, expected: Expect) {
    expected.assert_eq(&show(create(parse(yaml))));
}

/// What the registry stores when `old` becomes `new`, or why that is refused.
pub fn updated(old: &str, new: &str, part: Part, expected: Expect) {
    let kind = row(&parse(old));
    let old = create(parse(old)).expect("a valid old object");
    expected.assert_eq(&show(kind.apply_rules(Write::Update(&old, &part), parse(new))));
}

/// What is wrong with `base` when each of `changes` is merged into it, one line per error.
pub fn refusals(base: &str, changes: &[&str], expected: Expect) {
    let mut lines = String::new();
    for change in changes {
        let mut object = parse(base);
        let change: Value = serde_yaml::from_str(change).expect("YAML");
        merge(&mut object, &change);
        lines.push_str(&causes(create(object), &change));
    }
    expected.assert_eq(&lines);
}

/// What is wrong with each of `changes` merged into an object that is there.
pub fn update_refusals(base: &str, changes: &[&str], expected: Expect) {
    let old = create(parse(base)).expect("a valid old object");
    let kind = row(&old);
    let mut lines = String::new();
    for change in changes {
        let mut object = old.clone();
        let change: Value = serde_yaml::from_str(change).expect("YAML");
        merge(&mut object, &change);
        lines.push_str(&causes(kind.apply_rules(Write::Update(&old, &Part::Main), object), &change));
    }
    expected.assert_eq(&lines);
}

fn causes(result: Result<Value, proa_api::Refusal>, change: &Value) -> String {
    let Err(refusal) = result else { return format!("accepted: {change}\n") };
    let causes = refusal.0.details.as_ref().and_then(|details| details.causes.as_ref());
    let Some(causes) = causes else { return format!("{} {refusal}\n", refusal.code()) };
    let field = |text: &Option<String>| text.clone().unwrap_or_default();
    causes.iter().map(|cause| format!("{}: {}\n", field(&cause.field), field(&cause.message))).collect()
}

/// JSON merge, but lists are merged entry by entry.
fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(change)) if !change.is_empty() => {
            for (i, value) in change.iter().enumerate() {
                if i == target.len() {
                    target.push(Value::Null);
                }
                merge(&mut target[i], value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn show(result: Result<Value, proa_api::Refusal>) -> String {
    match result {
        Ok(object) => serde_yaml::to_string(&object).expect("YAML"),
        Err(refusal) => format!("{} {}\n", refusal.code(), refusal),
    }
}
