//! Subresources: parts of an object, or things to do with it, that have a path of their own.
//!
//! Which there are stands in the table of kinds; what each does is here and in the files it calls.

use axum::body::Body;
use http::{Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use proa_api::Refusal;
use proa_kinds::Kind;

use super::accounts;
use super::api::{Api, Call};
use super::binding;
use super::body;
use super::connect;
use super::log;
use super::objects;
use super::path::Verb;
use super::present::Presentation;
use super::respond;

/// Performs a call on a subresource.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    if call.path.name.is_none() || (kind.namespaced && call.path.namespace.is_none()) {
        return Err(Refusal::no_such_path());
    }
    match call.path.subresource.as_str() {
        "status" if kind.has_status => {
            return objects::status(api, kind, call).await;
        }
        "scale" if kind.scale.is_some() => return objects::scale(api, kind, call).await,
        _ => {}
    }
    let part = kind.subresources.iter().find(|part| part.name == call.path.subresource);
    if kind.kind == "Pod" && call.path.subresource == "ephemeralcontainers" {
        return Err(no_ephemeral_containers());
    }
    let part = part.ok_or_else(Refusal::no_such_path)?;
    if !part.verbs.contains(&call.verb.as_str()) {
        return Err(Refusal::method_not_allowed());
    }
    match (kind.group.as_str(), kind.plural.as_str(), part.name, call.verb) {
        ("certificates.k8s.io", "certificatesigningrequests", "approval", _) => {
            objects::approval(api, kind, call).await
        }
        ("", "pods", "log", Verb::Get) => log::serve(api, kind, call).await,
        ("", "pods", "attach" | "exec" | "portforward", _) => connect::serve(api, kind, call).await,
        ("", "pods", "binding", Verb::Create) => binding::create(api, call).await,
        ("", "pods", "eviction", Verb::Create) => evict(api, call).await,
        ("", "namespaces", "finalize", Verb::Update) => finalize(api, kind, call).await,
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
    let eviction = body::unstored_of(&["policy/v1", "policy/v1beta1"], "Eviction", call)?;
    let options = call.write_options("CreateOptions")?;
    api.registry.evict(&call.caller, call.namespace(), call.name(), &eviction, &options).await?;
    Ok(respond::success(StatusCode::CREATED))
}

/// Sets what holds a namespace that is to go.
async fn finalize(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = call.write_options("UpdateOptions")?;
    let sent = body::object(kind, call, "UpdateOptions")?;
    let object = api.registry.finalize_namespace(&call.caller, call.name(), sent.value, &options).await?;
    Ok(form.one(StatusCode::OK, kind, &object))
}
