//! The Kubernetes API over HTTP.
//!
//! Fed by [`serve`] (TLS connections) and by clients inside the process; both call [`answer`].
//! It finds out who asks, whether they may, and what the path names, and calls the registry for
//! everything that is about objects. It has no routes per kind: what there is follows from the
//! table of kinds. It never touches the store itself.

mod accounts;
pub mod api;
pub mod authenticate;
pub mod authorize;
pub mod authorize_node;
mod binding;
mod body;
mod bootstrap_token;
mod connect;
mod discovery;
mod frames;
mod health;
mod held;
mod impersonate;
mod incoming;
mod log;
mod metrics;
pub mod negotiate;
mod objects;
mod parts;
pub mod path;
pub mod peer;
mod present;
mod pretty;
mod protocol_token;
mod proxy;
pub mod query;
pub mod rbac;
mod respond;
mod reviews;
mod schemas;
pub mod serve;
mod table;
mod unread;
mod unstored;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use proa_api::Refusal;
use proa_api::selector::FieldSelector;
use serde_json::{Value, json};

pub use api::Api;
use api::{Call, accept};
use authorize::Attributes;
use held::Held;
use impersonate::Impersonation;
use incoming::Incoming;
use negotiate::Discovery;
use path::{ResourcePath, Route, Verb};
use query::Query;
pub use schemas::Schemas;

use crate::registry::Caller;

/// Answers one request. A panic while it is answered is its own 500 and nobody else's trouble.
pub async fn answer(api: Arc<Api>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(&parts, body);
    let (is_head, is_http1) = (parts.method == Method::HEAD, parts.version < Version::HTTP_2);
    let pretty = pretty::is_wanted(&parts.uri, &parts.headers);
    let mut held = Held::default();
    let outcome = AssertUnwindSafe(dispatch(&api, parts, &mut body, &mut held)).catch_unwind().await;
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => respond::refusal(&refusal),
        Err(_) => respond::refusal(&Refusal::internal("the server failed while it answered this request")),
    };
    // Over HTTP/2 other requests go on.
    if !body.finish().await && is_http1 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        respond::close(&mut response);
    }
    if pretty {
        response = pretty::print(response).await;
    }
    if is_head {
        return respond::without_body(response);
    }
    held.until_read(response).unwrap_or_else(|refusal| respond::refusal(&refusal))
}

async fn dispatch(
    api: &Api,
    mut parts: Parts,
    body: &mut Incoming,
    held: &mut Held,
) -> Result<Response<Body>, Refusal> {
    let caller = caller(api, &parts)?;
    *held = Held::enter(&caller, &parts)?;
    protocol_token::strip(&mut parts.headers);
    let route = path::parse(parts.uri.path()).ok_or_else(|| Refusal::bad_request("the path is not valid"))?;
    match route {
        Route::Resource(path) if proxy::is_asked(&path) => {
            proxy::serve(api, &caller, &path, parts, body).await.map(pretty::leave)
        }
        Route::Resource(path) => {
            let call = call(api, caller, path, parts, (body, held)).await?;
            resource(api, &call).await
        }
        other => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            let what = Attributes::Path { verb: &verb, path: parts.uri.path() };
            api.authorizer.check(&caller, &what)?;
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                return Err(Refusal::method_not_allowed());
            }
            document(api, &other, &parts)
        }
    }
}

/// Who asks, or whom they ask to be seen as.
fn caller(api: &Api, parts: &Parts) -> Result<Caller, Refusal> {
    let caller = api.authenticator.caller(parts)?;
    let Some(other) = Impersonation::of(&parts.headers)? else { return Ok(caller) };
    for what in other.wanted() {
        api.authorizer.check(&caller, &what)?;
    }
    Ok(other.caller)
}

/// Takes a request about objects apart, once its caller may make it. The body is read only then.
async fn call(
    api: &Api,
    caller: Caller,
    path: ResourcePath,
    parts: Parts,
    (body, held): (&mut Incoming, &Held),
) -> Result<Call, Refusal> {
    let query = Query::of(&parts.uri)?;
    let verb = Verb::of(&parts.method, &path, query.flag("watch")).ok_or_else(Refusal::method_not_allowed)?;
    // Who may read one object by its name may also list and watch just that one.
    let selected = query.get("fieldSelector").filter(|_| matches!(verb, Verb::List | Verb::Watch));
    let selected = selected.and_then(|text| FieldSelector::parse(text).ok());
    let selected = selected.and_then(|selector| selector.exact("metadata.name").map(str::to_owned));
    let what = Attributes::Resource {
        verb: verb.as_str(),
        group: &path.group,
        plural: &path.plural,
        subresource: &path.subresource,
        // RBAC counts a namespace itself as inside of it.
        namespace: path.namespace.as_deref().or_else(|| {
            let is_namespace = path.group.is_empty() && path.plural == "namespaces";
            path.name.as_deref().filter(|_| is_namespace)
        }),
        name: path.name.as_deref().or(selected.as_deref()).unwrap_or_default(),
    };
    api.authorizer.check(&caller, &what)?;
    authorize_node::check_selector(&caller, &what, &query)?;
    let body = match verb {
        Verb::Get | Verb::List | Verb::Watch => Bytes::new(),
        _ => body.read(held).await?,
    };
    let upgrade = parts.extensions.get().cloned();
    Ok(Call { caller, path, verb, query, headers: parts.headers, body, held: held.clone(), upgrade })
}

/// Finds the kind that a path names, and calls what serves it.
async fn resource(api: &Api, call: &Call) -> Result<Response<Body>, Refusal> {
    let path = &call.path;
    if !path.rest.is_empty() {
        return Err(Refusal::no_such_path());
    }
    let table = api.registry.kinds();
    if let Some(kind) = table.by_plural(&path.group, &path.version, &path.plural) {
        if path.namespace.is_some() && !kind.namespaced {
            return Err(Refusal::no_such_path());
        }
        let served = if path.subresource.is_empty() {
            objects::serve(api, kind, call).await
        } else {
            parts::serve(api, kind, call).await
        };
        let mut response = served.unwrap_or_else(|refusal| respond::refusal(&refusal));
        respond::warn(&mut response, kind.deprecation.as_slice());
        return Ok(response);
    }
    let unstored = unstored::UNSTORED
        .iter()
        .find(|r| r.group == path.group && r.version == path.version && r.plural == path.plural)
        .filter(|r| path.subresource.is_empty() && (r.namespaced || path.namespace.is_none()));
    match unstored {
        Some(unstored) if unstored.group == metrics::GROUP => metrics::serve(api, unstored, call).await,
        Some(unstored) => reviews::serve(api, unstored, call).await,
        None => no_definitions(api, call),
    }
}

/// The list of the kinds that users have defined, which is empty: none can be. kubectl reads it
/// when it meets a kind that discovery does not name, and goes no further without it.
fn no_definitions(api: &Api, call: &Call) -> Result<Response<Body>, Refusal> {
    let path = &call.path;
    let is_list = call.verb == Verb::List && path.namespace.is_none() && path.subresource.is_empty();
    let named = (path.group.as_str(), path.version.as_str(), path.plural.as_str());
    if !is_list || named != ("apiextensions.k8s.io", "v1", "customresourcedefinitions") {
        return Err(Refusal::no_such_path());
    }
    let list = json!({
        "kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": { "resourceVersion": api.registry.revision().to_string() }, "items": [],
    });
    let encoding = negotiate::unshaped(accept(&call.headers))?;
    Ok(respond::encoded(StatusCode::OK, encoding, list.to_string()))
}

/// Paths that are read and are not about objects.
fn document(api: &Api, route: &Route, parts: &Parts) -> Result<Response<Body>, Refusal> {
    let accept = accept(&parts.headers);
    let table = api.registry.kinds();
    let found = |document: Option<Value>| document.ok_or_else(Refusal::no_such_path);
    let value = match route {
        Route::CoreVersions | Route::Groups => {
            let is_core = *route == Route::CoreVersions;
            match negotiate::discovery(accept)? {
                Discovery::Aggregated(version) => return aggregated(api, is_core, version),
                Discovery::Plain if is_core => discovery::core_versions(&api.server_address),
                Discovery::Plain => discovery::groups(&table),
            }
        }
        Route::Group(group) => found(discovery::group(&table, group))?,
        Route::Resources(group, version) => found(discovery::resources(&table, group, version))?,
        Route::Resource(_) | Route::Other => return other(api, parts),
    };
    Ok(respond::json(StatusCode::OK, &value))
}

fn aggregated(api: &Api, is_core: bool, version: &'static str) -> Result<Response<Body>, Refusal> {
    let document = discovery::aggregated(&api.registry.kinds(), is_core, version);
    let mut response = respond::json(StatusCode::OK, &document);
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let media_type = HeaderValue::from_str(&media_type).map_err(Refusal::internal)?;
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn other(api: &Api, parts: &Parts) -> Result<Response<Body>, Refusal> {
    let query = Query::of(&parts.uri)?;
    let path = parts.uri.path();
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let value = match (first, path) {
        ("healthz" | "livez" | "readyz", _) if !path.starts_with("//") => {
            return health::serve(api, path.trim_end_matches('/'), &query).ok_or_else(Refusal::no_such_path);
        }
        ("openapi", _) => {
            let table = api.registry.kinds();
            return api.schemas.serve(&table, path, accept(&parts.headers), &parts.headers);
        }
        (_, "/version" | "/version/") => health::version(&api.build),
        (_, "/.well-known/openid-configuration") => health::openid_configuration(api),
        (_, "/openid/v1/jwks") => api.pki.signer().key_set(),
        (_, "/") => json!({ "paths": [
            "/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version",
        ] }),
        _ => return Err(Refusal::no_such_path()),
    };
    Ok(respond::json(StatusCode::OK, &value))
}
