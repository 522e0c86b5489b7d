//! PodDisruptionBudgets whose empty selector selects no pod, where today's selects every one.
//!
//! Either is written in the other version as a selector that says so, by a label that no pod has, as the
//! stock server does.

use serde_json::{Value, json};

use super::form::Form;

const KEY: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

pub(super) const FORM: Form = Form {
    to_stored: |budget| with_empty(budget, "Exists", "DoesNotExist"),
    from_stored: |budget| with_empty(budget, "DoesNotExist", "Exists"),
};

/// Writes an empty selector with the first operator, and one with the second as empty.
fn with_empty(mut budget: Value, for_empty: &str, empty: &str) -> Value {
    let of = |operator: &str| json!({"matchExpressions": [{"key": KEY, "operator": operator}]});
    if let Some(selector) = budget.pointer_mut("/spec/selector") {
        if *selector == json!({}) {
            *selector = of(for_empty);
        } else if *selector == of(empty) {
            *selector = json!({});
        }
    }
    budget
}
