//! Bindings: `pods/binding`, and the old path `bindings`.

use axum::body::Body;
use http::{Response, StatusCode};
use proa_api::Refusal;
use serde_json::Value;

use super::api::{Api, Call};
use super::body;
use super::respond;

/// Binds a pod to the node that the Binding names. The path names the pod, or, at
/// `/api/v1/namespaces/NS/bindings`, the Binding does.
pub async fn create(api: &Api, call: &Call) -> Result<Response<Body>, Refusal> {
    let body::Sent { value: binding, warnings } = body::unstored("v1", "Binding", call, "CreateOptions")?;
    let in_body = binding.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let name = call.path.name.as_deref().unwrap_or(in_body).to_owned();
    if !in_body.is_empty() && in_body != name {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({in_body}) does not match the name on the URL ({name})"
        )));
    }
    let options = call.write_options("CreateOptions")?;
    api.registry.bind(&call.caller, call.namespace(), &name, binding, &options).await?;
    let mut response = respond::success(StatusCode::CREATED);
    respond::warn(&mut response, &warnings);
    Ok(response)
}
