//! Removal of requests that nobody waits for any more.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::world::facts::Key;
use crate::world::observed::Observed;
use crate::world::plan::{Plan, Reference, Verb};
use proa_kinds::built_in::certificate_signing_request::{APPROVED, DENIED, FAILED, conditions, request};

/// A request that was decided upon stays this long, so that its maker can fetch the certificate.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// One that nobody has decided upon stays this long.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Decides whether a request goes.
pub fn reconcile(seen: &Observed, key: &Key, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(csr) = seen.certificate_signing_requests.get(key) else { return plan };
    let Some(at) = goes_at(csr) else { return plan };
    if at > now {
        plan.look_again(at);
        return plan;
    }
    plan.act(Verb::Delete {
        target: Reference::to(&**csr),
        resource_version: csr.metadata.resource_version.clone(),
        propagation: None,
        grace_period_seconds: None,
        unless: Vec::new(),
    });
    plan
}

fn goes_at(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let since = |type_: &str| {
        let found = conditions(csr).iter().find(|c| c.type_ == type_);
        found.and_then(|c| c.last_update_time.as_ref()).map(|time| time.0)
    };
    let certificate = csr.status.as_ref().and_then(|s| s.certificate.as_ref()).filter(|c| !c.0.is_empty());
    let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let ended = certificate.and_then(|pem| request::not_after(&pem.0));
    let denied = since(DENIED).or_else(|| since(FAILED)).map(|at| at + DECIDED);
    let issued = certificate.and_then(|_| since(APPROVED)).map(|at| at + DECIDED);
    let approved = since(APPROVED).or_else(|| since(DENIED)).or_else(|| since(FAILED));
    let waiting = if approved.is_some() { None } else { created.map(|at| at + PENDING) };
    [ended, denied, issued, waiting].into_iter().flatten().min()
}
