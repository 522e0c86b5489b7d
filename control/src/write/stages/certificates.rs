//! CertificateSigningRequests: who asks, when conditions were set, and who may approve and sign.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization>

use jiff::Timestamp;
use proa_api::Refusal;
use proa_kinds::built_in::certificate_signing_request::request::Request;
use proa_kinds::built_in::certificate_signing_request::signers::{API_CLIENT, GROUP_MASTERS};
use proa_kinds::rbac::Attributes;
use proa_kinds::{Kind, Part};
use serde_json::{Value, json};

use crate::write::metadata;
use crate::write::stage::{Allows, Attempt, Operation, Stage, Verdict};

fn is_request(kind: &Kind) -> bool {
    kind.is("certificates.k8s.io", "CertificateSigningRequest")
}

/// Writes in who asks, and when conditions were set.
pub struct CertificateRequester;

impl Stage for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        is_request(kind)
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        match (&attempt.operation, attempt.old) {
            (Operation::Create, _) => set_requester(attempt, new).into(),
            (Operation::Update(_), Some(old)) => {
                stamp(old, new, attempt.now);
                Verdict::PASSED
            }
            _ => Verdict::PASSED,
        }
    }
}

/// Lets only those approve and sign requests to whom their signer is given.
pub struct CertificateSigners(pub Allows);

impl Stage for CertificateSigners {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        is_request(kind)
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, _new: &'a Value) -> Verdict<'a> {
        let (verb, deed) = match &attempt.operation {
            Operation::Update(part) if *part == Part::APPROVAL => ("approve", "approve requests"),
            Operation::Update(part) if *part == Part::STATUS => ("sign", "sign requests"),
            _ => return Verdict::PASSED,
        };
        let signer = attempt.old.and_then(|old| old.pointer("/spec/signerName")).and_then(Value::as_str);
        let signer = signer.unwrap_or_default();
        let domain = signer.split('/').next().unwrap_or_default();
        // A rule may name one signer, or all of a domain.
        let may = [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
            let what = Attributes::Resource {
                verb,
                group: &attempt.kind.group,
                plural: "signers",
                subresource: "",
                namespace: None,
                name,
            };
            (self.0)(attempt.caller, &what)
        });
        if may {
            return Verdict::PASSED;
        }
        let why = format!("user not permitted to {deed} with signerName {signer:?}");
        Err(Refusal::forbidden(attempt.kind.resource(), attempt.name, why)).into()
    }
}

/// Writes in who asks, whatever the body says. Nobody becomes an administrator by asking.
fn set_requester(attempt: &Attempt<'_>, body: &mut Value) -> Result<(), Refusal> {
    // A body without a spec is for the kind's rules to refuse.
    let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    spec.remove("extra");
    spec.insert("username".to_owned(), attempt.caller.user.clone().into());
    spec.insert("groups".to_owned(), json!(attempt.caller.groups));
    match attempt.caller.uid.as_str() {
        "" => spec.remove("uid"),
        uid => spec.insert("uid".to_owned(), uid.into()),
    };
    let pem = spec.get("request").and_then(Value::as_str).unwrap_or_default();
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, pem).unwrap_or_default();
    let asks_for_masters = Request::read(&pem)
        .is_ok_and(|request| request.organizations.iter().any(|group| group == GROUP_MASTERS));
    if spec.get("signerName").and_then(Value::as_str) == Some(API_CLIENT) && asks_for_masters {
        let why = format!("use of {API_CLIENT} signer with {GROUP_MASTERS} group is not allowed");
        return Err(Refusal::forbidden(attempt.kind.resource(), attempt.name, why));
    }
    Ok(())
}

/// Gives new conditions their times.
fn stamp(old: &Value, new: &mut Value, now: Timestamp) {
    let before = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let known = before.iter().find(|c| c["type"] == condition["type"]);
        // One that is no object is for the kind's rules to refuse.
        if !condition.is_object() {
            continue;
        }
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
