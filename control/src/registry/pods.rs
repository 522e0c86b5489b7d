//! The subresources of pods that write: binding and eviction.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use proa_api::Refusal;
use proa_api::field::{FieldErrors, Path};
use proa_api::status::Resource;
use proa_kinds::Kind;
use proa_kinds::admission::eviction::{self, Verdict};
use proa_logic::world::plan::Change;
use serde_json::{Map, Value, json};

use super::delete::check_preconditions;
use super::{ATTEMPTS, Caller, DeleteOptions, Registry, Unwritten, WriteOptions, metadata, now};

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
        let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default();
        let target_kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or_default();
        let mut errors = FieldErrors::new();
        let target = Path::root("target");
        if !target_kind.is_empty() && target_kind != "Node" {
            errors.not_supported(&target.field("kind"), target_kind, &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required(&target.field("name"), "");
        }
        if !errors.is_empty() {
            return Err(Refusal::invalid("", "Binding", pod_name, &errors));
        }
        tracing::debug!(user = caller.user, namespace, name = pod_name, node, "bind");
        let kind = self.pod_kind()?;
        for _ in 0..ATTEMPTS {
            let current = self.get_stored(&kind, namespace, pod_name)?;
            let old = current.value();
            let new = bound(&old, &binding, node)?;
            match self.write_over(&kind, &current, &old, new, options.dry_run).await {
                Ok(_) => return Ok(()),
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(BINDINGS, pod_name))
    }

    /// Evicts a pod: deletes it unless the budget that covers it is against it.
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
        tracing::debug!(user = caller.user, namespace, name = pod_name, "evict");
        let kind = self.pod_kind()?;
        let mut paid = false;
        for _ in 0..ATTEMPTS {
            match self.evict_once(&kind, namespace, pod_name, &delete, &mut paid).await {
                Ok(()) => return Ok(()),
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(kind.resource(), pod_name))
    }

    /// `paid` says whether a budget has paid for the pod; it does so once.
    async fn evict_once(
        &self,
        kind: &Kind,
        namespace: &str,
        pod_name: &str,
        delete: &DeleteOptions,
        paid: &mut bool,
    ) -> Result<(), Unwritten> {
        let current = self.get_stored(kind, namespace, pod_name)?;
        check_preconditions(kind, &current, delete)?;
        if !*paid {
            let pod: Pod = current.decode().map_err(Refusal::internal)?;
            if let Verdict::Paid(budget) = eviction::decide(&pod, self.budgets(namespace)?, now())? {
                self.pay(&budget, delete.dry_run).await?;
                *paid = true;
            }
        }
        let old = current.value();
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": metadata::time(now()),
        });
        let told = Change::Conditions(vec![condition]).apply(&old);
        let told = self.write_over(kind, &current, &old, told, delete.dry_run).await?;
        // What the client said of the version was of the one before the condition.
        let rest = DeleteOptions { resource_version: None, ..delete.clone() };
        self.delete_once(kind, &told, &rest).await.map(|_| ())
    }

    fn budgets(&self, namespace: &str) -> Result<Vec<PodDisruptionBudget>, Refusal> {
        let mut budgets = Vec::new();
        let collection = self.0.store.collection("poddisruptionbudgets.policy");
        collection.visit(
            Some(namespace),
            None,
            || 0,
            |object| {
                budgets.push(object.decode());
                true
            },
        );
        budgets.into_iter().collect::<Result<_, _>>().map_err(Refusal::internal)
    }

    /// Writes a budget that has paid, if it is still the one that was decided on.
    async fn pay(&self, budget: &PodDisruptionBudget, dry_run: bool) -> Result<(), Unwritten> {
        let table = &self.0.table;
        let kind = table.by_kind("policy/v1", "PodDisruptionBudget").ok_or_else(Refusal::no_such_path)?;
        let text = |member: &Option<String>| member.clone().unwrap_or_default();
        let meta = &budget.metadata;
        let current = self.get_stored(kind, &text(&meta.namespace), &text(&meta.name))?;
        if current.revision.to_string() != text(&meta.resource_version) {
            return Err(Unwritten::Raced);
        }
        let old = current.value();
        let mut new = old.clone();
        new["status"] = json!(budget.status);
        self.write_over(kind, &current, &old, new, dry_run).await.map(|_| ())
    }

    fn pod_kind(&self) -> Result<Arc<Kind>, Refusal> {
        self.0.table.by_kind("v1", "Pod").cloned().ok_or_else(Refusal::no_such_path)
    }
}

/// The pod with its node.
fn bound(pod: &Value, binding: &Value, node: &str) -> Result<Value, Refusal> {
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
        "lastTransitionTime": metadata::time(now()),
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
