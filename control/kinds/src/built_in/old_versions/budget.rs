//! PodDisruptionBudgets whose empty selector selects no pod, where today's selects every one.
//!
//! Each is stored as a selector that says so, by a label that no pod has, as the stock server does.

use serde_json::{Value, json};

use super::form::Form;

const KEY: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

pub(super) const FORM: Form = Form {
    to_stored: |budget| with_selector(budget, &json!({}), &none()),
    from_stored: |budget| with_selector(budget, &none(), &json!({})),
};

fn none() -> Value {
    json!({"matchExpressions": [{"key": KEY, "operator": "Exists"}]})
}

fn with_selector(mut budget: Value, from: &Value, to: &Value) -> Value {
    if let Some(selector) = budget.pointer_mut("/spec/selector").filter(|selector| *selector == from) {
        *selector = to.clone();
    }
    budget
}
