//! What quotas hold, counted anew.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceQuota;
use proa_api::Refusal;
use serde_json::json;

use super::{Caller, Object, Registry, WriteOptions};
use crate::write::stages::count;
use crate::write::{Changer, Deed, Unwritten};

impl Registry {
    /// Counts what a quota holds, and writes it into its status. Gives the quota if it has changed.
    ///
    /// # Errors
    /// 404 if there is no such quota, 409 if others keep changing it.
    pub async fn recount(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Refusal> {
        let kind = self.kinds().by_kind("v1", "ResourceQuota").cloned().ok_or_else(Refusal::no_such_path)?;
        let before = self.get(&kind, namespace, name)?.revision;
        let (store, now, place) = (self.store().clone(), self.now(), namespace.to_owned());
        let change: Changer = Box::new(move |current, old| {
            // All that the quota has counted has to be seen before it is counted again.
            if store.revision() < current.revision {
                return Err(Unwritten::Raced);
            }
            let quota: ResourceQuota = current.decode().map_err(Refusal::internal)?;
            let mut new = old.clone();
            new["status"] = json!(count(&store, &quota, &place, now));
            Ok(new)
        });
        let deed = Deed::Connect("status", change);
        let made = self.write(caller, &kind, (namespace, name), &WriteOptions::default(), deed).await?;
        let made = made.into_object();
        Ok((made.revision != before).then_some(made))
    }
}
