//! Refusals: the `Status` objects that a client gets instead of what it asked for.
//!
//! Reasons, codes and texts follow
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/> and what
//! kubectl users know from the stock API server.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::field::FieldErrors;

/// Group and plural of a resource, for error texts: `pods`, `deployments.apps`.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// `pods`.
    pub plural: &'a str,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// Why a request was refused, as the `Status` object that its client gets.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.0.message.as_deref().unwrap_or("refused"))]
pub struct Refusal(pub Box<Status>);

impl Refusal {
    /// A refusal with an HTTP status code, a reason and a text.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Refusal(Box::new(Status {
            code: Some(i32::from(code)),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            status: Some("Failure".to_owned()),
            ..Status::default()
        }))
    }

    fn about(mut self, resource: Resource<'_>, name: &str) -> Self {
        self.0.details = Some(StatusDetails {
            group: some(resource.group),
            kind: some(resource.plural),
            name: some(name),
            ..StatusDetails::default()
        });
        self
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(500)
    }

    /// The machine-readable reason, such as `NotFound`.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody known is asking.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: the asker may not do this. `why` is the text after the colon.
    pub fn forbidden(resource: Resource<'_>, name: &str, why: impl fmt::Display) -> Self {
        let subject = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{resource}{subject} is forbidden: {why}")).about(resource, name)
    }

    /// 404: no such object.
    pub fn not_found(resource: Resource<'_>, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405: the resource does not know this verb.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: Resource<'_>, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    /// 409: the object has changed since the client read it.
    pub fn conflict(resource: Resource<'_>, name: &str, why: impl fmt::Display) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"))
            .about(resource, name)
    }

    /// 409 with the text that clients retry on.
    pub fn stale(resource: Resource<'_>, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410: the revision asked for has been compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is over the limit.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::entity_too_large(format_args!("limit is {limit_bytes}"))
    }

    /// 413: what is sent, or what comes of it, is too large. `why` is the text after the colon.
    pub fn entity_too_large(why: impl fmt::Display) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: {why}"))
    }

    /// 415: the body's media type is not one the server reads here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 406: none of the media types the client accepts can be served.
    pub fn not_acceptable(served: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", served.join(", ")),
        )
    }

    /// 422: the object is against the rules of its kind. One cause per field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut refusal = Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {errors}"));
        refusal.0.details = Some(StatusDetails {
            group: some(group),
            kind: some(kind),
            name: some(name),
            causes: Some(
                errors
                    .iter()
                    .map(|e| StatusCause {
                        field: Some(e.path.clone()),
                        message: Some(e.body()),
                        reason: Some(e.reason().to_owned()),
                    })
                    .collect(),
            ),
            ..StatusDetails::default()
        });
        refusal
    }

    /// 429: not now, but after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        let mut refusal = Self::new(429, "TooManyRequests", message);
        let retry_after_seconds = Some(retry_after_seconds);
        refusal.0.details = Some(StatusDetails { retry_after_seconds, ..StatusDetails::default() });
        refusal
    }

    /// 500: a fault of the server itself.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
