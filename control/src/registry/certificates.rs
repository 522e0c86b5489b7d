//! What the server itself writes into CertificateSigningRequests: who asks, and when conditions
//! were set.

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::Kind;
use proa_kinds::built_in::certificate_signing_request::request::Request;
use proa_kinds::built_in::certificate_signing_request::signers::{API_CLIENT, GROUP_MASTERS};
use serde_json::{Value, json};

use super::{Caller, metadata};

fn is_request(kind: &Kind) -> bool {
    kind.group == "certificates.k8s.io" && kind.kind == "CertificateSigningRequest"
}

/// Writes in who asks, whatever the body says. Nobody becomes an administrator by asking.
pub fn set_requester(caller: &Caller, kind: &Kind, body: &mut Value) -> Result<(), Refusal> {
    if !is_request(kind) {
        return Ok(());
    }
    let name = metadata::text(body, "name").to_owned();
    // A body without a spec is for the kind's rules to refuse.
    let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    spec.remove("extra");
    spec.insert("username".to_owned(), caller.user.clone().into());
    spec.insert("groups".to_owned(), json!(caller.groups));
    match caller.uid.as_str() {
        "" => spec.remove("uid"),
        uid => spec.insert("uid".to_owned(), uid.into()),
    };
    let pem = spec.get("request").and_then(Value::as_str).unwrap_or_default();
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, pem).unwrap_or_default();
    let asks_for_masters = Request::read(&pem)
        .is_ok_and(|request| request.organizations.iter().any(|group| group == GROUP_MASTERS));
    if spec.get("signerName").and_then(Value::as_str) == Some(API_CLIENT) && asks_for_masters {
        let why = format!("use of {API_CLIENT} signer with {GROUP_MASTERS} group is not allowed");
        return Err(Refusal::forbidden(kind.resource(), &name, why));
    }
    Ok(())
}

/// Gives new conditions their times.
pub fn stamp(kind: &Kind, old: &Value, new: &mut Value, now: Timestamp) {
    if !is_request(kind) {
        return;
    }
    let before = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let known = before.iter().find(|c| c["type"] == condition["type"]);
        if !condition["lastUpdateTime"].is_string() {
            condition["lastUpdateTime"] = metadata::time(now).into();
        }
        if !condition["lastTransitionTime"].is_string() {
            let same = known.filter(|c| c["status"] == condition["status"]);
            let since = same.map(|c| c["lastTransitionTime"].clone()).filter(Value::is_string);
            condition["lastTransitionTime"] = since.unwrap_or_else(|| metadata::time(now).into());
        }
    }
}
