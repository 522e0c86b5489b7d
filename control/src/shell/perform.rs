//! The verbs of plans, performed on the registry: the only place where the controllers write.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::names::{ANNOTATION_ACCOUNT_UID, FINALIZER_KUBERNETES};
use proa_kinds::{Kind, Part};
use proa_logic::world::plan::{Change, Guard, Reference, Verb};
use serde_json::{Value, json};

use crate::pki::Pki;
use crate::pki::token::LegacyClaims;
use crate::registry::{Caller, DeleteOptions, ListOptions, Registry, WriteOptions};
use crate::store::Object;

/// Performs what is planned, in the name of one controller.
#[derive(Clone)]
pub struct Performer {
    /// Where.
    pub registry: Registry,
    /// Who.
    pub caller: Arc<Caller>,
    /// Signs certificates and tokens.
    pub pki: Option<Arc<Pki>>,
}

/// What one verb has written, if anything.
pub type Done = Result<Option<(Arc<Kind>, Arc<Object>)>, Refusal>;

impl Performer {
    /// Does it.
    pub async fn perform(&self, verb: &Verb) -> Done {
        match verb {
            Verb::Create { api_version, kind, namespace, body } => {
                let kind = self.kind(api_version, kind)?;
                let options = WriteOptions::default();
                let object =
                    self.registry.create(&self.caller, &kind, namespace, body.clone(), &options).await?;
                Ok(Some((kind, object)))
            }
            Verb::Patch { target, part, guard, change } => {
                if guard.absent.as_ref().is_some_and(|reference| self.exists(reference)) {
                    return Ok(None);
                }
                let kind = self.kind(&target.api_version, &target.kind)?;
                let resource_kind = kind.clone();
                let (guard, change, uid) = (guard.clone(), change.clone(), target.uid.clone());
                let apply = move |current: &Value| {
                    guard.check(&uid, resource_kind.resource(), current)?;
                    Ok(change.apply(current))
                };
                let (namespace, name) = (&target.namespace, &target.name);
                let options = WriteOptions::default();
                let patch =
                    self.registry.patch(&self.caller, &kind, namespace, name, part.clone(), apply, &options);
                let patched = patch.await;
                gone_is_fine(patched.map(|object| Some((kind, object))))
            }
            Verb::Scale { target, from, to } => {
                let kind = self.kind(&target.api_version, &target.kind)?;
                let resource_kind = kind.clone();
                let (from, to, target_uid, target_name) =
                    (*from, *to, target.uid.clone(), target.name.clone());
                let apply = move |scale: &Value| {
                    Guard::NONE.check(&target_uid, resource_kind.resource(), scale)?;
                    let mut scale = scale.clone();
                    // A scale of zero is shown as none.
                    if scale["spec"]["replicas"].as_i64().unwrap_or(0) != i64::from(from) {
                        return Err(Refusal::stale(resource_kind.resource(), &target_name));
                    }
                    scale["spec"]["replicas"] = to.into();
                    Ok(scale)
                };
                let (namespace, name) = (&target.namespace, &target.name);
                let (part, options) = (Part::SCALE, WriteOptions::default());
                let patch = self.registry.patch(&self.caller, &kind, namespace, name, part, apply, &options);
                let patched = patch.await;
                gone_is_fine(patched.map(|object| Some((kind, object))))
            }
            Verb::Delete { target, resource_version, propagation, grace_period_seconds, unless } => {
                if unless.iter().any(|reference| self.exists(reference)) {
                    return Ok(None);
                }
                let kind = self.kind(&target.api_version, &target.kind)?;
                let options = DeleteOptions {
                    grace_period_seconds: *grace_period_seconds,
                    propagation_policy: propagation.map(str::to_owned),
                    uid: Some(target.uid.to_string()).filter(|uid| !uid.is_empty()),
                    resource_version: resource_version.clone(),
                    dry_run: false,
                };
                let (namespace, name) = (&target.namespace, &target.name);
                let deleted = self.registry.delete(&self.caller, &kind, namespace, name, &options).await;
                gone_is_fine(deleted.map(|deleted| Some((kind, deleted.object().clone()))))
            }
            Verb::DeleteAll { api_version, kind, namespace } => {
                let kind = self.kind(api_version, kind)?;
                let list = ListOptions::default();
                let propagation_policy = Some("Background".to_owned());
                let options = DeleteOptions { propagation_policy, ..DeleteOptions::default() };
                self.registry
                    .delete_collection(&self.caller, &kind, Some(namespace), &list, &options)
                    .await?;
                Ok(None)
            }
            Verb::Bind { pod, node } => {
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding",
                    "metadata": { "name": &*pod.name, "namespace": &*pod.namespace, "uid": &*pod.uid },
                    "target": { "apiVersion": "v1", "kind": "Node", "name": node },
                });
                let options = WriteOptions::default();
                self.registry.bind(&self.caller, &pod.namespace, &pod.name, binding, &options).await?;
                Ok(None)
            }
            Verb::SignCertificate { request, usages, not_after } => {
                let done = self.sign(request, usages, *not_after).await;
                gone_is_fine(done)
            }
            Verb::FillToken { secret, account } => gone_is_fine(self.fill_token(secret, account).await),
            Verb::Recount { quota } => {
                let kind = self.kind("v1", "ResourceQuota")?;
                let counted = self.registry.recount(&self.caller, &quota.namespace, &quota.name).await;
                gone_is_fine(counted.map(|written| written.map(|object| (kind, object))))
            }
            Verb::Finalize { namespace } => self.finalize(namespace).await,
        }
    }

    /// Signs what a request asks for, or says in the request why not.
    async fn sign(&self, request: &Reference, usages: &[String], not_after: Timestamp) -> Done {
        let Some(pki) = &self.pki else { return Ok(None) };
        let kind = self.kind(&request.api_version, &request.kind)?;
        let current = self.registry.get(&kind, "", &request.name)?;
        if *current.uid != *request.uid {
            return Ok(None);
        }
        let pem = current.value()["spec"]["request"].as_str().and_then(|text| BASE64.decode(text).ok());
        let now = self.registry.now();
        let signed = pki.authority().sign_request(&pem.unwrap_or_default(), usages, now, not_after);
        let change = match signed {
            Ok(certificate) => {
                Change::Merge(json!({ "status": { "certificate": BASE64.encode(certificate) } }))
            }
            Err(error) => Change::Conditions(vec![json!({
                "type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                "message": error.to_string(),
            })]),
        };
        let (uid, row) = (request.uid.clone(), kind.clone());
        let apply = move |current: &Value| {
            Guard::NONE.check(&uid, row.resource(), current)?;
            Ok(change.apply(current))
        };
        let options = WriteOptions::default();
        let patched = self
            .registry
            .patch(&self.caller, &kind, "", &request.name, Part::STATUS, apply, &options)
            .await?;
        Ok(Some((kind, patched)))
    }

    /// Puts the token of an account, and what clients need beside it, into its Secret. A token that is
    /// there stays.
    async fn fill_token(&self, secret: &Reference, account: &Reference) -> Done {
        let Some(pki) = self.pki.clone() else { return Ok(None) };
        let kind = self.kind(&secret.api_version, &secret.kind)?;
        let (row, about, account) = (kind.clone(), secret.clone(), account.clone());
        let fill = move |current: &Value| {
            Guard::NONE.check(&about.uid, row.resource(), current)?;
            let mut filled = current.clone();
            if !filled["data"].is_object() {
                filled["data"] = json!({});
            }
            filled["data"]["ca.crt"] = BASE64.encode(pki.ca_pem()).into();
            filled["data"]["namespace"] = BASE64.encode(&*about.namespace).into();
            filled["metadata"]["annotations"][ANNOTATION_ACCOUNT_UID] = (*account.uid).into();
            if filled["data"]["token"].as_str().unwrap_or_default().is_empty() {
                let claims = LegacyClaims::new(&about.namespace, &about.name, &account.name, &account.uid);
                let token = pki.signer().sign(&claims).map_err(Refusal::internal)?;
                filled["data"]["token"] = BASE64.encode(token).into();
            }
            Ok(filled)
        };
        let options = WriteOptions::default();
        let (namespace, name) = (&secret.namespace, &secret.name);
        let written =
            self.registry.patch(&self.caller, &kind, namespace, name, Part::Main, fill, &options).await?;
        Ok(Some((kind, written)))
    }

    /// Lets a namespace go if nothing but Events is left in it, by the store's own word.
    async fn finalize(&self, namespace: &Reference) -> Done {
        let kind = self.kind("v1", "Namespace")?;
        let current = self.registry.get(&kind, "", &namespace.name)?;
        if *current.uid != *namespace.uid {
            return Ok(None);
        }
        let one = ListOptions { limit: 1, ..ListOptions::default() };
        // What expires by itself holds nothing up.
        let kinds = self.registry.kinds();
        for other in kinds.stored().filter(|other| other.namespaced && other.time_to_live.is_none()) {
            if !self.registry.list(other, Some(&namespace.name), &one)?.items.is_empty() {
                return Err(Refusal::stale(kind.resource(), &namespace.name));
            }
        }
        let mut body = current.value();
        let finalizers =
            body.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        let rest: Vec<Value> = finalizers.into_iter().filter(|f| f != FINALIZER_KUBERNETES).collect();
        body["spec"]["finalizers"] = json!(rest);
        let options = WriteOptions::default();
        let finalize = Part::FINALIZE;
        let object =
            self.registry.update(&self.caller, &kind, "", &namespace.name, finalize, body, &options).await?;
        Ok(Some((kind, object)))
    }

    fn kind(&self, api_version: &str, kind: &str) -> Result<Arc<Kind>, Refusal> {
        let table = self.registry.kinds();
        table.by_kind(api_version, kind).cloned().ok_or_else(Refusal::no_such_path)
    }

    /// True if the object is there after all, or nobody can tell.
    fn exists(&self, reference: &Reference) -> bool {
        let table = self.registry.kinds();
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let Some(kind) = table.stored_of(group, &reference.kind) else {
            return true;
        };
        let found = self.registry.get(kind, &reference.namespace, &reference.name);
        found.is_ok_and(|object| reference.uid.is_empty() || object.uid == reference.uid)
    }
}

/// What is to be changed or deleted and is not there any more needs no retry: the index is about
/// to learn it.
fn gone_is_fine(done: Done) -> Done {
    match done {
        Err(refusal) if refusal.code() == 404 => Ok(None),
        other => other,
    }
}
