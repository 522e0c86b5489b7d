//! Who may approve and sign CertificateSigningRequests: beside the request itself, its signer must
//! be theirs
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization>).

use proa_api::Refusal;
use proa_kinds::Kind;
use serde_json::Value;

use super::api::{Api, Call};
use super::authorize::Attributes;

/// Refuses a change of one's subresource unless the caller may `approve` or `sign` for its signer.
pub fn check_signer(api: &Api, kind: &Kind, call: &Call) -> Result<(), Refusal> {
    let (verb, deed) = match call.path.subresource.as_str() {
        "approval" => ("approve", "approve requests"),
        _ => ("sign", "sign requests"),
    };
    if call.verb.as_str() == "get" {
        return Ok(());
    }
    let request = api.registry.get(kind, "", call.name())?.value();
    let signer = request.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    // A rule may name one signer, or all of a domain.
    let may = [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
        let what = Attributes::Resource {
            verb,
            group: &kind.group,
            plural: "signers",
            subresource: "",
            namespace: None,
            name,
        };
        api.authorizer.allows(&call.caller, &what)
    });
    if may {
        return Ok(());
    }
    let why = format!("user not permitted to {deed} with signerName {signer:?}");
    Err(Refusal::forbidden(kind.resource(), call.name(), why))
}
