//! Resources that are asked but not stored: who am I, what may I do, whose token is this; and the
//! old path of bindings.

use axum::body::Body;
use http::{Response, StatusCode};
use proa_api::Refusal;
use serde_json::{Value, json};

use super::api::{Api, Call, accept};
use super::authorize::Attributes;
use super::binding;
use super::body;
use super::negotiate;
use super::path::Verb;
use super::respond;
use super::unstored::Unstored;
use crate::registry::Caller;

/// Answers a call on one of them.
pub async fn serve(api: &Api, resource: &Unstored, call: &Call) -> Result<Response<Body>, Refusal> {
    if resource.namespaced && call.path.namespace.is_none() {
        return Err(Refusal::no_such_path());
    }
    if call.verb != Verb::Create || call.path.name.is_some() {
        return Err(Refusal::method_not_allowed());
    }
    if (resource.group, resource.kind) == ("", "Binding") {
        return binding::create(api, call).await;
    }
    let encoding = negotiate::unshaped(accept(&call.headers))?;
    let api_version = format!("{}/{}", resource.group, resource.version);
    let sent = body::unstored(&api_version, resource.kind, call, "CreateOptions")?;
    let mut review = sent.value;
    let status = match resource.kind {
        "SelfSubjectReview" => json!({ "userInfo": user_info(&call.caller) }),
        "TokenReview" => review_token(api, &review),
        "SelfSubjectRulesReview" => {
            let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
            if namespace.is_empty() {
                return Err(Refusal::bad_request("no namespace on request"));
            }
            api.authorizer.rules(&call.caller, namespace)
        }
        "SelfSubjectAccessReview" => review_access(api, &call.caller, &review)?,
        "LocalSubjectAccessReview" => {
            check_local(call.namespace(), &review)?;
            review_access(api, &subject(&review)?, &review)?
        }
        _ => review_access(api, &subject(&review)?, &review)?,
    };
    if review.get("metadata").is_none_or(Value::is_null) {
        review["metadata"] = json!({ "creationTimestamp": null });
    }
    review["status"] = status;
    let mut response = respond::encoded(StatusCode::CREATED, encoding, review.to_string());
    respond::warn(&mut response, &sent.warnings);
    Ok(response)
}

fn user_info(caller: &Caller) -> Value {
    let mut info = json!({ "username": caller.user, "groups": caller.groups });
    if !caller.extra.is_empty() {
        info["extra"] = json!(caller.extra);
    }
    if !caller.uid.is_empty() {
        info["uid"] = caller.uid.clone().into();
    }
    info
}

fn review_token(api: &Api, review: &Value) -> Value {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    let mut audiences = strings(review.pointer("/spec/audiences"));
    if audiences.is_empty() {
        audiences.push(api.pki.signer().issuer().to_owned());
    }
    match api.authenticator.token(token, &audiences) {
        Ok(believed) => json!({
            "authenticated": true,
            "user": user_info(&believed.caller),
            "audiences": believed.audiences,
        }),
        Err(why) => json!({ "user": {}, "error": why }),
    }
}

/// The subject of a review about somebody else.
fn subject(review: &Value) -> Result<Caller, Refusal> {
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let caller = Caller {
        user: text("/spec/user"),
        uid: text("/spec/uid"),
        groups: strings(review.pointer("/spec/groups")),
        ..Caller::default()
    };
    if caller.user.is_empty() && caller.groups.is_empty() {
        return Err(Refusal::bad_request("spec.user: at least one of user or group must be specified"));
    }
    Ok(caller)
}

/// What a review in a namespace may be about.
fn check_local(namespace: &str, review: &Value) -> Result<(), Refusal> {
    if review.pointer("/spec/nonResourceAttributes").is_some_and(|v| !v.is_null()) {
        return Err(Refusal::bad_request("spec.nonResourceAttributes: disallowed on this kind of request"));
    }
    let asked = review.pointer("/spec/resourceAttributes/namespace").and_then(Value::as_str);
    if asked.unwrap_or_default() != namespace {
        return Err(Refusal::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    Ok(())
}

fn review_access(api: &Api, caller: &Caller, review: &Value) -> Result<Value, Refusal> {
    let resource = review.pointer("/spec/resourceAttributes").filter(|v| !v.is_null());
    let path = review.pointer("/spec/nonResourceAttributes").filter(|v| !v.is_null());
    let text = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
    Ok(match (resource, path) {
        (Some(of), None) => {
            let (verb, group, plural) = (text(of, "verb"), text(of, "group"), text(of, "resource"));
            let (subresource, namespace, name) =
                (text(of, "subresource"), text(of, "namespace"), text(of, "name"));
            let what = Attributes::Resource {
                verb: &verb,
                group: &group,
                plural: &plural,
                subresource: &subresource,
                namespace: Some(namespace.as_str()).filter(|n| !n.is_empty()),
                name: &name,
            };
            api.authorizer.review(caller, &what)
        }
        (None, Some(of)) => {
            let (verb, path) = (text(of, "verb"), text(of, "path"));
            api.authorizer.review(caller, &Attributes::Path { verb: &verb, path: &path })
        }
        _ => {
            return Err(Refusal::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    })
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
