//! Signing of approved requests: whether, for which uses and for how long. The key is elsewhere.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::controllers::namespace::now_json;
use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Reference, Verb};
use proa_kinds::Part;
use proa_kinds::built_in::certificate_signing_request::request::Request;
use proa_kinds::built_in::certificate_signing_request::{APPROVED, DENIED, FAILED, has, signers};

/// A certificate holds no longer than this: the stock signer's default.
const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Decides whether a request is signed.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(csr) = seen.certificate_signing_requests.get(key) else { return plan };
    let issued = csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty());
    if !has(csr, APPROVED) || has(csr, DENIED) || has(csr, FAILED) || issued {
        return plan;
    }
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let checked = Request::read(&csr.spec.request.0)
        .map_or_else(|why| Some(Err(why)), |r| signers::check(&csr.spec.signer_name, &r, &usages));
    let target = Reference::to(&**csr);
    match checked {
        // Another signer's.
        None => {}
        Some(Ok(())) => {
            let asked = csr.spec.expiration_seconds.map(|s| SignedDuration::from_secs(s.into()));
            let not_after = now + asked.map_or(LONGEST, |asked| asked.min(LONGEST));
            plan.act(Verb::SignCertificate { request: target, usages, not_after });
        }
        Some(Err(why)) => plan.act(Verb::Patch {
            target,
            part: Part::STATUS,
            guard: Guard::unchanged(csr.metadata.resource_version.as_deref().unwrap_or_default()),
            change: Change::Conditions(vec![json!({
                "type": FAILED, "status": "True", "reason": "SignerValidationFailure", "message": why,
                "lastUpdateTime": now_json(now), "lastTransitionTime": now_json(now),
            })]),
        }),
    }
    plan
}
