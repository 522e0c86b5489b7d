//! CertificateSigningRequest: somebody asks for a certificate, somebody else approves, a signer
//! issues it.
//!
//! Who asked is written in by the registry, as are the times of conditions.

pub mod request;
pub mod signers;

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition,
};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use crate::columns::{age, column, human_duration, items, name, text};
use crate::meta::NameFormat;
use crate::rules::{TypedRules, row};
use crate::{Kind, SelectableField, Subresource, syntax};

/// Condition: a certificate may be issued.
pub const APPROVED: &str = "Approved";
/// Condition: no certificate will be issued.
pub const DENIED: &str = "Denied";
/// Condition: the signer could not issue a certificate.
pub const FAILED: &str = "Failed";

const LEAST_SECONDS: i32 = 600;
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// The uses that a certificate may be asked for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The rules of CertificateSigningRequests.
pub struct CertificateSigningRequests;

/// The row of CertificateSigningRequests.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["csr".into()],
        columns: vec![
            name(),
            age(),
            column("SignerName", "string", "Who is to sign.", |o, _| text(o, "/spec/signerName").into()),
            column("Requestor", "string", "The user that asked.", |o, _| text(o, "/spec/username").into()),
            column("RequestedDuration", "string", "How long the certificate is to hold.", |o, _| {
                let seconds = o.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
                seconds.map_or_else(|| "<none>".to_owned(), human_duration).into()
            }),
            column("Condition", "string", "How far the request has come.", |o, _| state(o).into()),
        ],
        selectable_fields: vec![SelectableField::at("spec.signerName", "/spec/signerName")],
        ..row::<CertificateSigningRequests>()
    }
    .with([Subresource::members("approval", ["/status/conditions"])])
}

fn state(request: &Value) -> String {
    let has = |type_: &str| items(request, "/status/conditions").any(|c| text(c, "/type") == type_);
    let decided = if has(DENIED) {
        DENIED
    } else if has(APPROVED) {
        APPROVED
    } else {
        "Pending"
    };
    let failed = if has(FAILED) { ",Failed" } else { "" };
    let issued = if text(request, "/status/certificate").is_empty() { "" } else { ",Issued" };
    format!("{decided}{failed}{issued}")
}

/// True if the request has a condition of this type.
pub fn has(request: &CertificateSigningRequest, type_: &str) -> bool {
    conditions(request).iter().any(|c| c.type_ == type_)
}

/// The conditions of a request.
pub fn conditions(request: &CertificateSigningRequest) -> &[Condition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn of_type<'a>(request: &'a CertificateSigningRequest, type_: &str) -> Vec<&'a Condition> {
    conditions(request).iter().filter(|c| c.type_ == type_).collect()
}

fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).map_or(&[], |c| &c.0)
}

impl TypedRules for CertificateSigningRequests {
    type Object = CertificateSigningRequest;
    const NAME: NameFormat = NameFormat::PathSegment;
    const NAMESPACED: bool = false;
    const HAS_STATUS: bool = true;

    fn prepare_update(old: &CertificateSigningRequest, new: &mut CertificateSigningRequest) {
        new.spec.clone_from(&old.spec);
    }

    /// A signer issues or fails; what was decided stays.
    fn prepare_status_update(old: &CertificateSigningRequest, new: &mut CertificateSigningRequest) {
        let status = new.status.get_or_insert_default();
        let mut list = status.conditions.take().unwrap_or_default();
        list.retain(|c| c.type_ != APPROVED && c.type_ != DENIED);
        let decided = conditions(old).iter().filter(|c| c.type_ == APPROVED || c.type_ == DENIED);
        let mut kept: Vec<Condition> = decided.cloned().collect();
        kept.append(&mut list);
        status.conditions = Some(kept).filter(|list| !list.is_empty());
    }

    fn validate(request: &CertificateSigningRequest, errors: &mut FieldErrors) {
        let spec = Path::root("spec");
        let asked = &request.spec;
        if let Err(why) = request::Request::read(&asked.request.0) {
            errors.invalid(&spec.field("request"), request::shown(&asked.request.0), why);
        }
        let usages_path = spec.field("usages");
        let usages = asked.usages.as_deref().unwrap_or_default();
        if usages.is_empty() {
            errors.required(&usages_path, "");
        }
        let mut seen = BTreeSet::new();
        for (i, usage) in usages.iter().enumerate() {
            if !USAGES.contains(&usage.as_str()) {
                errors.not_supported(&usages_path.index(i), usage.as_str(), &USAGES);
            } else if !seen.insert(usage) {
                errors.duplicate(&usages_path.index(i), usage.as_str());
            }
        }
        signer_name(&asked.signer_name, &spec.field("signerName"), errors);
        if let Some(seconds) = asked.expiration_seconds.filter(|seconds| *seconds < LEAST_SECONDS) {
            let text = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&spec.field("expirationSeconds"), seconds, text);
        }
        validate_conditions(request, errors);
    }

    fn validate_update(
        old: &CertificateSigningRequest,
        new: &CertificateSigningRequest,
        errors: &mut FieldErrors,
    ) {
        keeps_conditions(old, new, errors);
    }

    fn validate_status_update(
        old: &CertificateSigningRequest,
        new: &CertificateSigningRequest,
        errors: &mut FieldErrors,
    ) {
        validate_conditions(new, errors);
        keeps_conditions(old, new, errors);
        let status = Path::root("status");
        let path = status.field("certificate");
        if certificate(new) == certificate(old) {
            return;
        }
        if !certificate(old).is_empty() {
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
        if let Err(why) = request::check_chain(certificate(new)) {
            errors.invalid(&path, "<certificate data>", why);
        }
    }

    fn validate_part_update(
        _name: &str,
        old: &CertificateSigningRequest,
        new: &CertificateSigningRequest,
        errors: &mut FieldErrors,
    ) {
        validate_conditions(new, errors);
        keeps_conditions(old, new, errors);
    }
}

/// What is decided stays decided.
fn keeps_conditions(
    old: &CertificateSigningRequest,
    new: &CertificateSigningRequest,
    errors: &mut FieldErrors,
) {
    let status = Path::root("status");
    for type_ in [APPROVED, DENIED, FAILED] {
        if of_type(new, type_).len() < of_type(old, type_).len() {
            let text = format!("updates may not remove a condition of type {type_:?}");
            errors.forbidden(&status.field("conditions"), text);
        }
    }
}

fn validate_conditions(request: &CertificateSigningRequest, errors: &mut FieldErrors) {
    let status = Path::root("status");
    let path = status.field("conditions");
    let list = conditions(request);
    let mut seen = BTreeSet::new();
    for (i, condition) in list.iter().enumerate() {
        let at = path.index(i);
        if condition.type_.is_empty() {
            errors.required(&at.field("type"), "");
        }
        let known = [APPROVED, DENIED, FAILED].contains(&condition.type_.as_str());
        match condition.status.as_str() {
            "" => errors.required(&at.field("status"), ""),
            "True" => {}
            other if known => errors.not_supported(&at.field("status"), other, &["True"]),
            "False" | "Unknown" => {}
            other => errors.not_supported(&at.field("status"), other, &["False", "True", "Unknown"]),
        }
        if !seen.insert(condition.type_.as_str()) {
            errors.duplicate(&at.field("type"), condition.type_.as_str());
        }
        let opposite = match condition.type_.as_str() {
            APPROVED => DENIED,
            DENIED => APPROVED,
            _ => continue,
        };
        if seen.contains(opposite) {
            let text = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&at.field("type"), condition.type_.as_str(), text);
        }
    }
}

fn signer_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name == LEGACY_SIGNER {
        return errors.invalid(path, name, "the legacy signerName is not allowed via this API version");
    }
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, text);
    };
    for label in domain.split('.') {
        for fault in syntax::label(label) {
            errors.invalid(path, domain, format!("validating label {label:?}: {fault}"));
        }
    }
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    for label in rest.split('.') {
        for fault in syntax::subdomain(label) {
            errors.invalid(path, rest, format!("validating label {label:?}: {fault}"));
        }
    }
}

#[cfg(test)]
mod tests;
