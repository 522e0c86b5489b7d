//! ResourceQuotas: what a write takes or leaves of them, and what they hold in all.
//!
//! What counts how much is decided by `proa_kinds::admission::quota`. Here it is asked within the
//! store's one writer, on what is there at that moment: so no two writes take the same room, and
//! the quota is written in the same commit as what it has counted.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, ResourceQuotaStatus};
use proa_api::Refusal;
use proa_api::status::Resource;
use proa_kinds::Kind;
use proa_kinds::admission::quota::{Claim, Count, is_ignored, may_change, settle};
use serde_json::{Value, json};

use crate::store::{Draft, Live, Settle, Store};
use crate::write::stage::{Attempt, Stage};

const QUOTAS: &str = "resourcequotas";

/// Keeps what a namespace holds within its quotas.
pub struct ResourceQuota;

impl Stage for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.namespaced && !is_ignored(&kind.group, &kind.plural)
    }

    fn settle(&self, attempt: &Attempt<'_>, new: Option<&Value>) -> Option<Settle> {
        let (group, plural) = (attempt.kind.group.clone(), attempt.kind.plural.clone());
        let comes_or_goes = attempt.old.is_none() || new.is_none();
        if !comes_or_goes && !may_change(&group, &plural) {
            return None;
        }
        let key = crate::write::key(attempt.kind, attempt.namespace, attempt.name);
        let now = attempt.now;
        Some(Box::new(move |live: &Live<'_>, draft| {
            let quotas = live.list(QUOTAS, &key.namespace);
            if quotas.is_empty() {
                return Ok(Vec::new());
            }
            let claim = |object: Value| Claim::of(&group, &plural, &object, now);
            let before = live.get(&key).map(|object| claim(object.value()));
            let after = draft.map(|draft| claim(draft.value()));
            let mut drafts = Vec::new();
            for stored in quotas {
                // A quota that goes or comes counts itself in no other way than all else.
                if stored.key == key {
                    continue;
                }
                let quota: v1::ResourceQuota = stored.decode().map_err(Refusal::internal)?;
                let settled = settle(&quota, before.as_ref(), after.as_ref());
                let refused =
                    |why| Refusal::forbidden(Resource { group: &group, plural: &plural }, &key.name, why);
                if let Some(status) = settled.map_err(refused)? {
                    let mut value = stored.value();
                    value["status"] = json!(status);
                    drafts.push(Draft::encode(stored.key.clone(), &value, Vec::new()));
                }
            }
            Ok(drafts)
        }))
    }
}

/// What a quota holds now.
pub fn count(
    store: &Store,
    quota: &v1::ResourceQuota,
    namespace: &str,
    now: Timestamp,
) -> ResourceQuotaStatus {
    let mut count = Count::new(quota);
    for (plural, group) in count.kinds() {
        let resource = Resource { group: &group, plural: &plural }.to_string();
        for object in store.collection(&resource).all(Some(namespace)) {
            count.add(&Claim::of(&group, &plural, &object.value(), now));
        }
    }
    count.status()
}
