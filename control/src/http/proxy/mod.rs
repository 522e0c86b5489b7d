//! `pods/proxy`, `services/proxy`, `nodes/proxy`: requests that are carried to what an object
//! stands for, whatever their method, and the answers that are carried back.
//!
//! A pod is reached through the agent of its node, which connects to the pod's own address as it
//! knows it: no address in an object decides where a connection goes. A node is reached at its
//! agent and nowhere else. `target` finds out where to, `headers` what may go along, `links` keeps
//! what comes back inside the proxy.
//! <https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/>

mod headers;
mod html;
mod in_time;
mod links;
mod path;
mod target;
pub(super) mod turns;

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::OnUpgrade;
use proa_api::Refusal;
use proa_api::names::{PROXY_HOST_HEADER, PROXY_REFUSED_HEADER};
use proa_api::shares::Shares;

use super::api::Api;
use super::authorize::Attributes;
use super::incoming::Incoming;
use super::path::ResourcePath;
use super::peer::Peer;
use crate::registry::Caller;
use links::Links;
use target::Target;

/// More of a node's refusal is not shown.
const MAX_REFUSAL_BYTES: usize = 4 * 1024;

/// Requests under way at once, of all and of one caller; connections that were taken over do not count.
static UNDER_WAY: LazyLock<Arc<Shares<String>>> = LazyLock::new(|| Shares::new(1000, 250));

/// Whether a path is one of these.
pub fn is_asked(path: &ResourcePath) -> bool {
    let known = match path.plural.as_str() {
        "pods" | "services" => path.namespace.is_some(),
        "nodes" => path.namespace.is_none(),
        _ => false,
    };
    known && path.group.is_empty() && path.version == "v1" && path.subresource == "proxy"
}

/// Carries one request. Its body is not read here.
pub async fn serve(
    api: &Api,
    caller: &Caller,
    path: &ResourcePath,
    parts: Parts,
    body: &mut Incoming,
) -> Result<Response<Body>, Refusal> {
    let upgrade = asks_for_upgrade(&parts);
    authorize(api, caller, path, &parts.method, upgrade)?;
    let below = path::below(parts.uri.path(), &path.rest);
    if below.is_empty() && !upgrade && matches!(parts.method, Method::GET | Method::HEAD) {
        return redirect(&parts);
    }
    let share = turns::take(&UNDER_WAY, caller)?;
    let target = target::find(&api.registry, path)?;
    let links = Links {
        prefix: path::prefix(path),
        hosts: [target.authority(), host(&parts)].into_iter().filter(|host| !host.is_empty()).collect(),
    };
    let method = parts.method.clone();
    let (body, taken) = in_time::watched(body.take());
    let request = request(&target, &below, &links.prefix, parts, body, upgrade)?;
    let response = in_time::begun(api.kubelets.request(target.node(), request), taken).await?;
    if response.headers().contains_key(PROXY_REFUSED_HEADER) {
        return Err(refused(response).await);
    }
    let response = links.kept_inside(response, &method, caller).await?;
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &share;
            frame
        }))
    }))
}

/// The verb is the method's. Who takes a node's connection over can run commands in its pods,
/// which reading does not allow.
fn authorize(
    api: &Api,
    caller: &Caller,
    path: &ResourcePath,
    method: &Method,
    upgrade: bool,
) -> Result<(), Refusal> {
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        // No rule but one for all verbs allows it, as on a stock server.
        Method::OPTIONS => "",
        _ => return Err(Refusal::method_not_allowed()),
    };
    let further = (upgrade && path.plural == "nodes").then_some("create");
    for verb in [Some(verb), further].into_iter().flatten() {
        api.authorizer.check(
            caller,
            &Attributes::Resource {
                verb,
                group: "",
                plural: &path.plural,
                subresource: "proxy",
                namespace: path.namespace.as_deref(),
                name: path.name.as_deref().unwrap_or_default(),
            },
        )?;
    }
    Ok(())
}

fn asks_for_upgrade(parts: &Parts) -> bool {
    parts.headers.contains_key(header::UPGRADE) && parts.extensions.get::<OnUpgrade>().is_some()
}

/// Relative links of a page at `…/proxy` would lead out of it: it is at `…/proxy/`.
fn redirect(parts: &Parts) -> Result<Response<Body>, Refusal> {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{}/{query}", parts.uri.path());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(&to).map_err(Refusal::internal)?;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

/// As the client called this server.
fn host(parts: &Parts) -> String {
    let named = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let named = named.map(str::to_owned).or_else(|| parts.uri.authority().map(ToString::to_string));
    named.unwrap_or_default()
}

fn request(
    target: &Target,
    below: &str,
    prefix: &str,
    parts: Parts,
    body: Body,
    upgrade: bool,
) -> Result<Request<Body>, Refusal> {
    let escaped = path::escape(below);
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let slash = if escaped.starts_with('/') { "" } else { "/" };
    let uri = format!("{}{slash}{escaped}{query}", target.path());
    let request = Request::builder().method(&parts.method).uri(uri).body(body);
    let (mut to, body) = request.map_err(|error| Refusal::bad_request(error.to_string()))?.into_parts();
    to.headers = headers::forwarded(&parts.headers, upgrade);
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{escaped}")) {
        to.headers.insert("x-forwarded-uri", value);
    }
    if let Ok(value) = HeaderValue::from_str(&host(&parts)) {
        to.headers.insert(PROXY_HOST_HEADER, value);
    }
    if let Some(Peer(ip)) = parts.extensions.get::<Peer>() {
        headers::add_forwarded_for(&mut to.headers, *ip);
    }
    if upgrade && let Some(connection) = parts.extensions.get::<OnUpgrade>() {
        to.extensions.insert(connection.clone());
    }
    Ok(Request::from_parts(to, body))
}

/// What the agent of a node said against it.
async fn refused(response: Response<Body>) -> Refusal {
    let code = response.status();
    let text = match Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    match code {
        StatusCode::BAD_REQUEST => Refusal::bad_request(text),
        _ => Refusal::unavailable(text),
    }
}
