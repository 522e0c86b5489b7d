//! The verbs on stored objects, and on their parts.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_kinds::{Kind, Part};
use serde_json::Value;

use super::api::{Api, Call};
use super::body;
use super::negotiate::Form;
use super::path::Verb;
use super::present::{self, Presentation};
use super::query::FieldValidation;
use super::respond;
use super::table;
use super::watch;
use crate::registry::Outcome;
use crate::write::scale;
use proa_kinds::patch;
use proa_kinds::schema::Schema;
use proa_kinds::wire;

/// Kinds whose removal is answered with the object itself, as `group/plural`.
const ANSWERED_WITH_OBJECT: &[&str] = &["/namespaces", "/pods", "/serviceaccounts", "/services"];

/// Performs a call on the main resource of a kind.
pub async fn serve(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    if !kind.verbs().contains(&call.verb.as_str()) {
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
        Verb::Update | Verb::Patch if call.path.name.is_none() => Err(Refusal::method_not_allowed()),
        Verb::Create => create(api, kind, call).await,
        Verb::Update => update(api, kind, call, Part::Main).await,
        Verb::Patch => patch(api, kind, call, Part::Main).await,
        Verb::Delete => delete(api, kind, call).await,
        Verb::DeleteCollection => delete_collection(api, kind, call).await,
    }
}

/// Performs a call on what a subresource shows of an object.
pub async fn part(api: &Api, kind: &Kind, call: &Call, part: Part) -> Result<Response<Body>, Refusal> {
    match call.verb {
        Verb::Get => get(api, kind, call),
        Verb::Update => update(api, kind, call, part).await,
        Verb::Patch => patch(api, kind, call, part).await,
        _ => Err(Refusal::method_not_allowed()),
    }
}

/// Performs a call on the scale of an object; what is read and written is an
/// `autoscaling/v1 Scale`.
pub async fn scale(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let (encoding, form) = call.form()?;
    let mut warnings = Vec::new();
    let object = match call.verb {
        Verb::Get => api.registry.get(kind, call.namespace(), call.name())?,
        Verb::Update => {
            let options = call.write_options("UpdateOptions")?;
            let sent = body::unstored("autoscaling/v1", "Scale", call, "UpdateOptions")?;
            warnings = sent.warnings;
            let (namespace, name) = (call.namespace(), call.name());
            api.registry
                .update(&call.caller, kind, namespace, name, Part::SCALE, sent.value, &options)
                .await?
        }
        Verb::Patch => {
            let (change, last) = patching(api, kind, call)?;
            let options = call.write_options("PatchOptions")?;
            let (namespace, name) = (call.namespace(), call.name());
            let patched =
                api.registry.patch(&call.caller, kind, namespace, name, Part::SCALE, change, &options).await;
            let (said, changed) = last.take();
            warnings = said;
            patched.map_err(|refusal| about_patch(call, scale::schema().as_ref(), &changed, refusal))?
        }
        _ => return Err(Refusal::method_not_allowed()),
    };
    let mut scale = scale::of(kind, &object)?;
    if let Form::Table(version) = form {
        scale = table::of_scale(&scale, version, Timestamp::now());
    }
    let mut response = respond::encoded(StatusCode::OK, encoding, scale.to_string());
    respond::warn(&mut response, &warnings);
    Ok(response)
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
    let object = api.registry.create(&call.caller, kind, call.namespace(), sent.value, &options).await?;
    let mut response = form.one(StatusCode::CREATED, kind, &object);
    respond::warn(&mut response, &[sent.warnings, options.warnings.take()].concat());
    Ok(response)
}

async fn update(api: &Api, kind: &Kind, call: &Call, part: Part) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = call.write_options("UpdateOptions")?;
    let sent = body::object(kind, call, "UpdateOptions")?;
    let (namespace, name) = (call.namespace(), call.name());
    let object = api.registry.update(&call.caller, kind, namespace, name, part, sent.value, &options).await?;
    let mut response = form.one(StatusCode::OK, kind, &object);
    respond::warn(&mut response, &[sent.warnings, options.warnings.take()].concat());
    Ok(response)
}

async fn patch(api: &Api, kind: &Kind, call: &Call, part: Part) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let (change, last) = patching(api, kind, call)?;
    let options = call.write_options("PatchOptions")?;
    let (namespace, name) = (call.namespace(), call.name());
    let patched = api.registry.patch(&call.caller, kind, namespace, name, part, change, &options).await;
    let (warnings, changed) = last.take();
    let object = patched.map_err(|refusal| about_patch(call, Some(&kind.schema), &changed, refusal))?;
    let mut response = form.one(StatusCode::OK, kind, &object);
    respond::warn(&mut response, &[warnings, options.warnings.take()].concat());
    Ok(response)
}

/// What a patch has made when it last ran, as it may run more than once, and what is to be said of it.
#[derive(Clone, Default)]
struct Patched(Arc<Mutex<(Vec<String>, Value)>>);

impl Patched {
    fn take(&self) -> (Vec<String>, Value) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Makes of what is there what is to be there.
type Change = Box<dyn Fn(&Value) -> Result<Value, Refusal> + Send + Sync>;

/// A patch as a change of what is there.
fn patching(api: &Api, kind: &Kind, call: &Call) -> Result<(Change, Patched), Refusal> {
    // Clients learn from this one that nothing can be applied here.
    let type_ = patch::Type::from_content_type(&call.media_type())?;
    let validation = call.query.field_validation("PatchOptions")?;
    let last = Patched::default();
    let (run, body, name) = (last.clone(), call.body.clone(), call.name().to_owned());
    let row = row(api, kind)?;
    let change = Box::new(move |current: &Value| {
        let changed = patch::apply(&row, type_, current, &body)?;
        let mut found = Vec::new();
        if validation != FieldValidation::Ignore {
            found = wire::unknown_fields(&row, &changed).iter().map(ToString::to_string).collect();
            if validation == FieldValidation::Strict && !found.is_empty() {
                return Err(strict_patch_refusal(&row, &name, &body, &found));
            }
        }
        *run.0.lock().unwrap_or_else(PoisonError::into_inner) = (found, changed.clone());
        Ok(changed)
    });
    Ok((change, last))
}

/// 422 for a patch whose result has a field of the wrong type: the patch itself is well-formed.
fn about_patch(call: &Call, schema: Option<&Schema>, changed: &Value, refusal: Refusal) -> Refusal {
    let misfit = schema.filter(|_| refusal.code() == 400).and_then(|schema| schema.misfit(changed));
    let Some(why) = misfit else { return refusal };
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::root("patch"), String::from_utf8_lossy(&call.body).into_owned(), why);
    Refusal::invalid("", "", "", &errors)
}

fn strict_patch_refusal(kind: &Kind, name: &str, body: &[u8], problems: &[String]) -> Refusal {
    let sent = String::from_utf8_lossy(body).into_owned();
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::root("patch"), sent, format!("strict decoding error: {}", problems.join(", ")));
    Refusal::invalid(&kind.group, &kind.kind, name, &errors)
}

async fn delete(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = body::delete_options(call)?;
    let deleted = api.registry.delete(&call.caller, kind, call.namespace(), call.name(), &options).await?;
    Ok(match deleted {
        Outcome::Gone(object) if !is_answered_with_object(kind) => {
            let body = present::removed(kind, &object).to_string();
            respond::encoded(StatusCode::OK, form.encoding, body)
        }
        Outcome::Gone(object) | Outcome::There(object) => form.one(StatusCode::OK, kind, &object),
    })
}

fn is_answered_with_object(kind: &Kind) -> bool {
    ANSWERED_WITH_OBJECT.contains(&format!("{}/{}", kind.group, kind.plural).as_str())
}

async fn delete_collection(api: &Api, kind: &Kind, call: &Call) -> Result<Response<Body>, Refusal> {
    let form = Presentation::of(call)?;
    let options = body::delete_options(call)?;
    let which = call.query.list_options()?;
    let list = api
        .registry
        .delete_collection(&call.caller, kind, call.path.namespace.as_deref(), &which, &options)
        .await?;
    Ok(form.many(kind, &list))
}

/// The row of a kind, for what outlives the request.
fn row(api: &Api, kind: &Kind) -> Result<Arc<Kind>, Refusal> {
    let row = api.registry.kinds().by_plural(&kind.group, &kind.version, &kind.plural).cloned();
    row.ok_or_else(Refusal::no_such_path)
}
