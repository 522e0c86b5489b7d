//! The verbs on stored objects, and on their status and scale.

use std::sync::Mutex;

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::Kind;
use serde_json::Value;

use super::api::{Api, Call};
use super::body;
use super::discovery;
use super::escalation;
use super::negotiate::Form;
use super::path::Verb;
use super::present::{self, Presentation};
use super::query::FieldValidation;
use super::respond;
use super::table;
use super::watch;
use crate::registry::{Deleted, Target};
use proa_kinds::patch;
use proa_kinds::wire;

/// Kinds whose removal is answered with the object itself, as `group/plural`.
const ANSWERED_WITH_OBJECT: &[&str] = &["/namespaces", "/pods", "/serviceaccounts", "/services"];

/// Performs a call on the main resource of a kind.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    if !discovery::verbs(kind).contains(&call.verb.as_str()) {
        return Err(Refusal::method_not_allowed());
    }
    let across = kind.namespaced && call.path.namespace.is_none();
    match call.verb {
        Verb::List => list(api, kind, call),
        Verb::Watch => watch::serve(api, kind, call).await,
        // A namespaced object has no place without a namespace, and what is done to many is
        // done in one namespace at a time.
        _ if across => Err(Refusal::method_not_allowed()),
        Verb::Get => get(api, kind, call),
        Verb::Create if call.path.name.is_some() => Err(Refusal::method_not_allowed()),
        Verb::Create => create(api, kind, call).await,
        Verb::Update => update(api, kind, call, Target::Main).await,
        Verb::Patch => patch(api, kind, call, Target::Main).await,
        Verb::Delete => delete(api, kind, call).await,
        Verb::DeleteCollection => delete_collection(api, kind, call).await,
    }
}

/// Performs a call on the status of an object.
pub async fn status(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    match call.verb {
        Verb::Get => get(api, kind, call),
        Verb::Update => update(api, kind, call, Target::Status).await,
        Verb::Patch => patch(api, kind, call, Target::Status).await,
        _ => Err(Refusal::method_not_allowed()),
    }
}

/// Performs a call on the decision about a CertificateSigningRequest.
pub async fn approval(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    match call.verb {
        Verb::Get => get(api, kind, call),
        Verb::Update => update(api, kind, call, Target::Approval).await,
        Verb::Patch => patch(api, kind, call, Target::Approval).await,
        _ => Err(Refusal::method_not_allowed()),
    }
}

/// Performs a call on the scale of an object; what is read and written is an
/// `autoscaling/v1 Scale`.
pub async fn scale(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let (encoding, form) = call.form()?;
    let object = match call.verb {
        Verb::Get => api.registry.get(kind, call.namespace(), call.name())?,
        Verb::Update => {
            let options = call.write_options("UpdateOptions")?;
            let value = body::unstored("autoscaling/v1", "Scale", call)?;
            let (namespace, name) = (call.namespace(), call.name());
            api.registry.update(&call.caller, kind, namespace, name, Target::Scale, value, &options).await?
        }
        Verb::Patch => {
            let options = call.write_options("PatchOptions")?;
            let type_ = patch::Type::from_content_type(&call.media_type())?;
            let change = |current: &Value| patch::apply(kind, type_, current, &call.body);
            let (namespace, name) = (call.namespace(), call.name());
            api.registry.patch(&call.caller, kind, namespace, name, Target::Scale, &change, &options).await?
        }
        _ => return Err(Refusal::method_not_allowed()),
    };
    let mut scale = api.registry.scale(kind, &object)?;
    if let Form::Table(version) = form {
        scale = table::of_scale(&scale, version, Timestamp::now());
    }
    Ok(respond::encoded(StatusCode::OK, encoding, scale.to_string()))
}

fn get(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let object = api.registry.get(kind, call.namespace(), call.name())?;
    Ok(form.one(StatusCode::OK, kind, &object))
}

fn list(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let list = api.registry.list(kind, call.path.namespace.as_deref(), &call.query.list_options()?)?;
    Ok(form.many(kind, &list))
}

async fn create(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = call.write_options("CreateOptions")?;
    let sent = body::object(kind, call, "CreateOptions")?;
    if escalation::concerns(kind) {
        escalation::check(api, kind, call, None, &sent.value)?;
    }
    let object = api.registry.create(&call.caller, kind, call.namespace(), sent.value, &options).await?;
    let mut response = form.one(StatusCode::CREATED, kind, &object);
    respond::warn(&mut response, &[sent.warnings, options.warnings.take()].concat());
    Ok(response)
}

async fn update(api: &Api, kind: &Kind, call: &Call, target: Target) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = call.write_options("UpdateOptions")?;
    let sent = body::object(kind, call, "UpdateOptions")?;
    let (namespace, name) = (call.namespace(), call.name());
    let object = if escalation::concerns(kind) {
        let change = |current: &Value| {
            escalation::check(api, kind, call, Some(current), &sent.value)?;
            Ok(sent.value.clone())
        };
        api.registry.patch(&call.caller, kind, namespace, name, target, &change, &options).await?
    } else {
        api.registry.update(&call.caller, kind, namespace, name, target, sent.value, &options).await?
    };
    let mut response = form.one(StatusCode::OK, kind, &object);
    respond::warn(&mut response, &[sent.warnings, options.warnings.take()].concat());
    Ok(response)
}

async fn patch(api: &Api, kind: &Kind, call: &Call, target: Target) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = call.write_options("PatchOptions")?;
    let validation = call.query.field_validation("PatchOptions")?;
    let type_ = patch::Type::from_content_type(&call.media_type())?;
    // The change may run more than once; the last run counts.
    let last = Mutex::new((Vec::new(), Value::Null));
    let change = |current: &Value| {
        let changed = patch::apply(kind, type_, current, &call.body)?;
        let mut found = Vec::new();
        if validation != FieldValidation::Ignore {
            found = wire::unknown_fields(kind, &changed).iter().map(ToString::to_string).collect();
            if validation == FieldValidation::Strict && !found.is_empty() {
                return Err(strict_patch_refusal(kind, call, &found));
            }
        }
        *last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = (found, changed.clone());
        if escalation::concerns(kind) {
            escalation::check(api, kind, call, Some(current), &changed)?;
        }
        Ok(changed)
    };
    let (namespace, name) = (call.namespace(), call.name());
    let patched = api.registry.patch(&call.caller, kind, namespace, name, target, &change, &options).await;
    let (warnings, changed) = last.into_inner().unwrap_or_default();
    let object = patched.map_err(|refusal| match (kind.hooks.misfit)(&changed) {
        Some(why) if refusal.code() == 400 => misfit_refusal(call, why),
        _ => refusal,
    })?;
    let mut response = form.one(StatusCode::OK, kind, &object);
    respond::warn(&mut response, &[warnings, options.warnings.take()].concat());
    Ok(response)
}

/// 422 for a patch whose result has a field of the wrong type: the patch itself is well-formed.
fn misfit_refusal(call: &Call, why: String) -> Refusal {
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::root("patch"), String::from_utf8_lossy(&call.body).into_owned(), why);
    Refusal::invalid("", "", "", &errors)
}

fn strict_patch_refusal(kind: &Kind, call: &Call, problems: &[String]) -> Refusal {
    let sent = String::from_utf8_lossy(&call.body).into_owned();
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::root("patch"), sent, format!("strict decoding error: {}", problems.join(", ")));
    Refusal::invalid(&kind.group, &kind.kind, call.name(), &errors)
}

async fn delete(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = body::delete_options(call)?;
    let deleted = api.registry.delete(&call.caller, kind, call.namespace(), call.name(), &options).await?;
    Ok(match deleted {
        Deleted::Gone(object) if !is_answered_with_object(kind) => {
            let body = present::removed(kind, &object).to_string();
            respond::encoded(StatusCode::OK, form.encoding, body)
        }
        Deleted::Gone(object) | Deleted::Pending(object) => form.one(StatusCode::OK, kind, &object),
    })
}

fn is_answered_with_object(kind: &Kind) -> bool {
    ANSWERED_WITH_OBJECT.contains(&format!("{}/{}", kind.group, kind.plural).as_str())
}

async fn delete_collection(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = body::delete_options(call)?;
    let which = call.query.list_options()?;
    let deleted = api
        .registry
        .delete_collection(&call.caller, kind, call.path.namespace.as_deref(), &which, &options)
        .await?;
    let revision = api.registry.revision();
    let list = crate::registry::List { items: deleted, revision, continue_token: None, remaining: None };
    Ok(form.many(kind, &list))
}
