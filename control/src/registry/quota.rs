//! ResourceQuotas: what a write takes or leaves of them, and what they hold in all.
//!
//! What counts how much is decided by `proa_kinds::admission::quota`. Here it is asked within the
//! store's one writer, on what is there at that moment: so no two writes take the same room, and
//! the quota is written in the same commit as what it has counted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceQuota;
use proa_api::Refusal;
use proa_kinds::Kind;
use proa_kinds::admission::quota::{Claim, Count, is_ignored, may_change, settle};
use serde_json::{Value, json};

use super::{ATTEMPTS, Caller, Registry, Unwritten, now};
use crate::store::{Draft, Live, Object, Settle};

const QUOTAS: &str = "resourcequotas";

impl Registry {
    /// How a write of an object of this kind settles with the quotas of its namespace; `None` if
    /// it does not touch them.
    pub(super) fn settlement(
        &self,
        kind: &Kind,
        namespace: &str,
        old: Option<Arc<Object>>,
        new: Option<Value>,
    ) -> Option<Settle> {
        let (group, plural) = (kind.group.clone(), kind.plural.clone());
        let changes = old.is_none() || new.is_none() || may_change(&group, &plural);
        if !kind.namespaced || is_ignored(&group, &plural) || !changes {
            return None;
        }
        let (namespace, now) = (namespace.to_owned(), now());
        let qualified = kind.resource().to_string();
        Some(Box::new(move |live: &Live<'_>| {
            let quotas = live.list(QUOTAS, &namespace);
            if quotas.is_empty() {
                return Ok(Vec::new());
            }
            let old_value = old.as_ref().map(|object| object.value());
            let name = new.as_ref().or(old_value.as_ref()).map(|object| object["metadata"]["name"].clone());
            let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
            let claim = |object: &Value| Claim::of(&group, &plural, object, now);
            let (before, after) = (old_value.as_ref().map(claim), new.as_ref().map(claim));
            let mut drafts = Vec::new();
            for stored in quotas {
                // A quota that goes or comes counts itself in no other way than all else.
                if qualified == QUOTAS && *stored.key.name == *name {
                    continue;
                }
                let quota: ResourceQuota = stored.decode().map_err(Refusal::internal)?;
                let settled = settle(&quota, before.as_ref(), after.as_ref());
                let refused = |why| {
                    let resource = proa_api::status::Resource { group: &group, plural: &plural };
                    Refusal::forbidden(resource, name, why)
                };
                if let Some(status) = settled.map_err(refused)? {
                    let mut value = stored.value();
                    value["status"] = json!(status);
                    drafts.push(Draft::encode(stored.key.clone(), &value, Vec::new()));
                }
            }
            Ok(drafts)
        }))
    }

    /// Counts what a quota holds, and writes it into its status.
    ///
    /// # Errors
    /// 404 if there is no such quota, 409 if others keep changing it.
    pub async fn recount(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Refusal> {
        tracing::debug!(user = caller.user, namespace, name, "recount");
        let kind = self.0.table.by_kind("v1", "ResourceQuota").cloned().ok_or_else(Refusal::no_such_path)?;
        for _ in 0..ATTEMPTS {
            let current = self.get_stored(&kind, namespace, name)?;
            // All that the quota has counted has to be seen before it is counted again.
            if self.0.store.revision() < current.revision {
                tokio::task::yield_now().await;
                continue;
            }
            let quota: ResourceQuota = current.decode().map_err(Refusal::internal)?;
            let status = self.count(&quota, namespace);
            let old = current.value();
            let mut new = old.clone();
            new["status"] = json!(status);
            match self.write_over(&kind, &current, &old, new, false).await {
                Ok(made) => return Ok((made.revision != current.revision).then_some(made)),
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(kind.resource(), name))
    }

    fn count(
        &self,
        quota: &ResourceQuota,
        namespace: &str,
    ) -> k8s_openapi::api::core::v1::ResourceQuotaStatus {
        let now = now();
        let mut count = Count::new(quota);
        for (plural, group) in count.kinds() {
            let resource = proa_api::status::Resource { group: &group, plural: &plural }.to_string();
            self.0.store.collection(&resource).visit(
                Some(namespace),
                None,
                || 0,
                |object| {
                    count.add(&Claim::of(&group, &plural, &object.value(), now));
                    true
                },
            );
        }
        count.status()
    }
}
