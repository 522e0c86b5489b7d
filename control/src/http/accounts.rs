//! `serviceaccounts/token`: tokens for service accounts, bound to what uses them and expiring
//! (<https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/>).

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::Kind;
use serde_json::{Value, json};

use super::api::{Api, Call, accept};
use super::body;
use super::negotiate;
use super::respond;
use crate::pki::token::{Bound, Claims, Reference};
use crate::write::stages::node;

const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;

/// Answers a TokenRequest.
pub fn create_token(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let encoding = negotiate::unshaped(accept(&call.headers))?;
    let sent = body::unstored("authentication.k8s.io/v1", "TokenRequest", call, "CreateOptions")?;
    let mut request = sent.value;
    call.query.dry_run("CreateOptions")?;
    let account = api.registry.get(kind, call.namespace(), call.name())?;

    let signer = api.pki.signer();
    let asked: Vec<String> = request
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let mut audiences = asked.clone();
    if audiences.is_empty() {
        audiences.push(signer.issuer().to_owned());
    }
    let seconds = lifetime_seconds(&request)?;
    let mut bound = Bound {
        namespace: call.namespace().to_owned(),
        serviceaccount: Reference { name: call.name().to_owned(), uid: account.uid.to_string() },
        ..Bound::default()
    };
    bind(api, &mut bound, request.pointer("/spec/boundObjectRef"), call)?;
    let reference = request.pointer("/spec/boundObjectRef").filter(|r| !r.is_null());
    let pod = bound.pod.as_ref().and_then(|pod| pod_of(api, call.namespace(), &pod.name));
    node::check_token_request(&call.caller, kind, call.name(), reference, &asked, pod.as_ref())?;

    let now = Timestamp::now();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now.as_second() + seconds,
        iat: now.as_second(),
        iss: signer.issuer().to_owned(),
        jti: format!("{:032x}", rand::random::<u128>()),
        bound,
        nbf: now.as_second(),
        sub: format!("system:serviceaccount:{}:{}", call.namespace(), call.name()),
    };
    let token = signer.sign(&claims).map_err(Refusal::internal)?;
    let expires = Timestamp::from_second(claims.exp).map_err(Refusal::internal)?;
    request["metadata"] = json!({
        "name": call.name(),
        "namespace": call.namespace(),
        "creationTimestamp": second_text(now),
    });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({ "token": token, "expirationTimestamp": second_text(expires) });
    let mut response = respond::encoded(StatusCode::CREATED, encoding, request.to_string());
    respond::warn(&mut response, &sent.warnings);
    Ok(response)
}

fn pod_of(api: &Api, namespace: &str, name: &str) -> Option<Value> {
    let pods = api.registry.kinds().by_kind("v1", "Pod").cloned()?;
    Some(api.registry.get(&pods, namespace, name).ok()?.value())
}

fn second_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn lifetime_seconds(request: &Value) -> Result<i64, Refusal> {
    let seconds = match request.pointer("/spec/expirationSeconds") {
        None | Some(Value::Null) => return Ok(DEFAULT_SECONDS),
        Some(value) => value.as_i64().unwrap_or(0),
    };
    let why = match seconds {
        ..LEAST_SECONDS => "may not specify a duration less than 10 minutes",
        LEAST_SECONDS..=MOST_SECONDS => return Ok(seconds),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let spec = Path::root("spec");
    let mut errors = FieldErrors::new();
    errors.invalid(&spec.field("expirationSeconds"), seconds, why);
    Err(Refusal::invalid("authentication.k8s.io", "TokenRequest", "", &errors))
}

/// Binds a token to the object that the request names, which must be there and use the account.
fn bind(api: &Api, bound: &mut Bound, reference: Option<&Value>, call: &Call) -> Result<(), Refusal> {
    let Some(reference) = reference.filter(|r| !r.is_null()) else { return Ok(()) };
    let text = |name: &str| reference[name].as_str().unwrap_or_default();
    let (plural, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pods", call.namespace()),
        ("v1", "Secret") => ("secrets", call.namespace()),
        ("v1", "Node") => ("nodes", ""),
        (version, kind) => {
            return Err(Refusal::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
    };
    let table = api.registry.kinds();
    let kind = table.by_plural("", "v1", plural).ok_or_else(Refusal::no_such_path)?;
    let object = api.registry.get(kind, namespace, text("name"))?;
    if !text("uid").is_empty() && text("uid") != &*object.uid {
        return Err(Refusal::conflict(
            kind.resource(),
            text("name"),
            format_args!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            ),
        ));
    }
    let found = Reference { name: text("name").to_owned(), uid: object.uid.to_string() };
    match plural {
        "secrets" => bound.secret = Some(found),
        "nodes" => bound.node = Some(found),
        _ => {
            let pod = object.value();
            let uses = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str);
            if uses != Some(call.name()) {
                return Err(Refusal::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.name()
                )));
            }
            bound.pod = Some(found);
            bound.node = node_of(api, &pod);
        }
    }
    Ok(())
}

/// The node a pod runs on, for the token to remember.
fn node_of(api: &Api, pod: &Value) -> Option<Reference> {
    let name = pod.pointer("/spec/nodeName")?.as_str().filter(|n| !n.is_empty())?;
    let table = api.registry.kinds();
    let node = api.registry.get(table.by_plural("", "v1", "nodes")?, "", name).ok()?;
    Some(Reference { name: name.to_owned(), uid: node.uid.to_string() })
}
