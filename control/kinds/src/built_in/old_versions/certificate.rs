//! CertificateSigningRequests that need not say who is to sign them, or for what.

use serde_json::{Value, json};

use super::form::{Form, SAME};

pub(super) const FORM: Form = Form { to_stored, ..SAME };

fn to_stored(mut request: Value) -> Value {
    if let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("signerName").or_insert_with(|| "kubernetes.io/legacy-unknown".into());
        spec.entry("usages").or_insert_with(|| json!(["digital signature", "key encipherment"]));
    }
    let conditions = request.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.entry("status").or_insert_with(|| "True".into());
    }
    request
}
