//! The subresources of pods that write: binding and eviction.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_api::status::Resource;
use proa_kinds::Kind;
use proa_kinds::admission::eviction::{self, Verdict};
use proa_kinds::syntax::{report, subdomain};
use proa_logic::world::plan::Change;
use serde_json::{Map, Value, json};

use super::{Caller, DeleteOptions, Object, Registry, WriteOptions};
use crate::write::delete::check_preconditions;
use crate::write::{Changer, Deed, metadata};

const BINDINGS: Resource<'static> = Resource { group: "", plural: "pods/binding" };

impl Registry {
    /// Binds a pod to the node that a `v1 Binding` names.
    ///
    /// # Errors
    /// 404 if there is no such pod, 409 if it is bound already or on its way out, 422 if the
    /// binding names no node.
    pub async fn bind(
        &self,
        caller: &Caller,
        namespace: &str,
        pod_name: &str,
        binding: Value,
        options: &WriteOptions,
    ) -> Result<(), Refusal> {
        let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (node, target_kind) = (text("/target/name").to_owned(), text("/target/kind"));
        let mut errors = FieldErrors::new();
        let target = Path::root("target");
        if !target_kind.is_empty() && target_kind != "Node" {
            errors.not_supported(&target.field("kind"), target_kind, &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required(&target.field("name"), "");
        } else {
            report(subdomain(&node), &target.field("name"), &node, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Refusal::invalid("", "Binding", pod_name, &errors));
        }
        let (kind, now) = (self.pod_kind()?, self.now());
        let change: Changer = Box::new(move |_, old| Ok(bound(old, &binding, &node, now)?));
        let deed = Deed::Connect("binding", change);
        self.write(caller, &kind, (namespace, pod_name), options, deed).await.map(|_| ())
    }

    /// Evicts a pod: deletes it unless the budget that covers it is against it. Goes on to its end
    /// whether or not somebody waits for it.
    ///
    /// # Errors
    /// 429 while its PodDisruptionBudget does not allow it, 500 if it has several, 400 for a body
    /// about another pod, and as for [`Registry::delete`].
    pub async fn evict(
        &self,
        caller: &Caller,
        namespace: &str,
        pod_name: &str,
        eviction: &Value,
        options: &WriteOptions,
    ) -> Result<(), Refusal> {
        let said = eviction.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(pod_name);
        if said != pod_name {
            return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut delete = match eviction.get("deleteOptions") {
            Some(body) if !body.is_null() => DeleteOptions::read(body)?,
            _ => DeleteOptions::default(),
        };
        delete.dry_run |= options.dry_run;
        delete.check()?;
        let kind = self.pod_kind()?;
        let current = self.get(&kind, namespace, pod_name)?;
        check_preconditions(&kind, &current, &delete)?;
        let (registry, caller) = (self.clone(), caller.clone());
        let evicted =
            tokio::spawn(async move { registry.evict_this(&caller, &kind, &current, delete).await });
        evicted.await.unwrap_or_else(|_| Err(Refusal::internal("an eviction failed")))
    }

    /// Evicts the pod that was looked at, and no other of its name.
    async fn evict_this(
        &self,
        caller: &Caller,
        kind: &Kind,
        seen: &Arc<Object>,
        mut delete: DeleteOptions,
    ) -> Result<(), Refusal> {
        let (namespace, name) = (&*seen.key.namespace, &*seen.key.name);
        let options = WriteOptions { dry_run: delete.dry_run, ..WriteOptions::default() };
        let now = self.now();
        let pod: Pod = seen.decode().map_err(Refusal::internal)?;
        if let Verdict::Paid(budget) = eviction::decide(&pod, self.budgets(namespace)?, now)? {
            self.pay(caller, pod, *budget, &options).await?;
        }
        delete.uid.get_or_insert_with(|| seen.uid.to_string());
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": metadata::time(now),
        });
        let (row, expected) = (self.pod_kind()?, delete.clone());
        let change: Changer = Box::new(move |current, old| {
            check_preconditions(&row, current, &expected)?;
            Ok(Change::Conditions(vec![condition.clone()]).apply(old))
        });
        self.write(caller, kind, (namespace, name), &options, Deed::Connect("eviction", change)).await?;
        // What the client said of the version was of the one before the condition.
        delete.resource_version = None;
        self.delete(caller, kind, namespace, name, &delete).await.map(|_| ())
    }

    fn budgets(&self, namespace: &str) -> Result<Vec<PodDisruptionBudget>, Refusal> {
        let stored = self.collection("poddisruptionbudgets.policy").all(Some(namespace));
        stored.iter().map(|budget| budget.decode()).collect::<Result<_, _>>().map_err(Refusal::internal)
    }

    /// Takes a pod from the budget that covers it.
    async fn pay(
        &self,
        caller: &Caller,
        pod: Pod,
        budget: PodDisruptionBudget,
        options: &WriteOptions,
    ) -> Result<(), Refusal> {
        let table = self.kinds();
        let kind = table.by_kind("policy/v1", "PodDisruptionBudget").ok_or_else(Refusal::no_such_path)?;
        let now = self.now();
        let change: Changer = Box::new(move |current, old| {
            let budget = current.decode().map_err(Refusal::internal)?;
            let mut new = old.clone();
            if let Verdict::Paid(budget) = eviction::decide(&pod, vec![budget], now)? {
                new["status"] = json!(budget.status);
            }
            Ok(new)
        });
        let meta = budget.metadata;
        let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        let deed = Deed::Connect("eviction", change);
        self.write(caller, kind, (&namespace, &name), options, deed).await.map(|_| ())
    }

    fn pod_kind(&self) -> Result<Arc<Kind>, Refusal> {
        self.kinds().by_kind("v1", "Pod").cloned().ok_or_else(Refusal::no_such_path)
    }
}

/// The pod with its node.
fn bound(pod: &Value, binding: &Value, node: &str, now: Timestamp) -> Result<Value, Refusal> {
    let name = metadata::text(pod, "name");
    let (uid, wanted_uid) = (metadata::text(pod, "uid"), metadata::text(binding, "uid"));
    if !wanted_uid.is_empty() && wanted_uid != uid {
        let why =
            format!("Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {uid}");
        return Err(Refusal::conflict(BINDINGS, name, why));
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(Refusal::conflict(BINDINGS, name, why));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        let why = format!("pod {name} has non-empty .spec.schedulingGates");
        return Err(Refusal::conflict(BINDINGS, name, why));
    }
    let assigned = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !assigned.is_empty() {
        let why = format!("pod {name} is already assigned to node \"{assigned}\"");
        return Err(Refusal::conflict(BINDINGS, name, why));
    }
    let mut pod = pod.clone();
    if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
        let own =
            metadata::metadata(&mut pod).entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Some(own) = own.as_object_mut() {
            own.extend(annotations.clone());
        }
    }
    pod["spec"]["nodeName"] = node.into();
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": metadata::time(now),
    });
    if !pod["status"].is_object() {
        pod["status"] = json!({"phase": "Pending"});
    }
    // Where room was made for it matters no longer.
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    match pod["status"]["conditions"].as_array_mut() {
        None => pod["status"]["conditions"] = json!([scheduled]),
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
    }
    Ok(pod)
}
