//! Subresources: parts of an object, or things to do with it, that have a path of their own.
//!
//! Which there are stands in the table of kinds, and what is shown of an object; what else each does is
//! here and in the files it calls.

use axum::body::Body;
use http::{Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use proa_api::Refusal;
use proa_kinds::{Facet, Kind, Part};

use super::accounts;
use super::api::{Api, Call};
use super::binding;
use super::body;
use super::connect;
use super::log;
use super::objects;
use super::path::Verb;
use super::respond;

/// Performs a call on a subresource.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    if call.path.name.is_none() || (kind.namespaced && call.path.namespace.is_none()) {
        return Err(Refusal::no_such_path());
    }
    let name = call.path.subresource.as_str();
    if (kind.group.as_str(), kind.plural.as_str(), name) == ("", "pods", "ephemeralcontainers") {
        return Err(no_ephemeral_containers());
    }
    let subresource = kind.subresource(name).ok_or_else(Refusal::no_such_path)?;
    if !subresource.verbs.contains(&call.verb.as_str()) {
        return Err(Refusal::method_not_allowed());
    }
    match &subresource.facet {
        Facet::Members { .. } => objects::part(api, kind, call, Part::Sub(subresource.name.clone())).await,
        Facet::Scale(_) => objects::scale(api, kind, call).await,
        Facet::Action => act(api, kind, call).await,
    }
}

/// Does what a subresource is there to do.
async fn act(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let name = call.path.subresource.as_str();
    match (kind.group.as_str(), kind.plural.as_str(), name, call.verb) {
        ("", "pods", "log", Verb::Get) => log::serve(api, kind, call).await,
        ("", "pods", "attach" | "exec" | "portforward", _) => connect::serve(api, kind, call).await,
        ("", "pods", "binding", Verb::Create) => binding::create(api, call).await,
        ("", "pods", "eviction", Verb::Create) => evict(api, call).await,
        ("", "serviceaccounts", "token", Verb::Create) => accounts::create_token(api, kind, call),
        _ => Err(Refusal::no_such_path()),
    }
}

/// A Status whose details name nothing: by that kubectl tells that a cluster has no ephemeral
/// containers from a pod that is not there.
fn no_ephemeral_containers() -> Refusal {
    let mut refusal = Refusal::no_such_path();
    refusal.0.details = Some(StatusDetails::default());
    refusal
}

async fn evict(api: &Api, call: &Call) -> Result<Response<Body>, Refusal> {
    let versions = ["policy/v1", "policy/v1beta1"];
    let sent = body::unstored_of(&versions, "Eviction", call, "CreateOptions")?;
    let options = call.write_options("CreateOptions")?;
    api.registry.evict(&call.caller, call.namespace(), call.name(), &sent.value, &options).await?;
    let mut response = respond::success(StatusCode::CREATED);
    respond::warn(&mut response, &sent.warnings);
    Ok(response)
}
