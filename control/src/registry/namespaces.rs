//! The finalize subresource of namespaces.

use std::sync::Arc;

use proa_api::Refusal;
use serde_json::{Map, Value};

use super::{ATTEMPTS, Caller, Registry, Unwritten, WriteOptions, metadata};
use crate::store::Object;

impl Registry {
    /// Sets `spec.finalizers` of a namespace to what `body`, a Namespace, has. One that is on its
    /// way out goes with its last finalizer.
    ///
    /// # Errors
    /// 404 if there is no such namespace, 409 if the body's resourceVersion is not the current one.
    pub async fn finalize_namespace(
        &self,
        caller: &Caller,
        name: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        tracing::debug!(user = caller.user, name, "finalize");
        let kind = self.0.table.by_kind("v1", "Namespace").cloned().ok_or_else(Refusal::no_such_path)?;
        let mut body = metadata::shape(&kind, body)?;
        metadata::check_identity(&kind, "", name, &mut body)?;
        let version = metadata::text(&body, "resourceVersion");
        let finalizers =
            body.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let current = self.get_stored(&kind, "", name)?;
            if !matches!(version, "" | "0") && version != current.revision.to_string() {
                break;
            }
            let old = current.value();
            let mut new = old.clone();
            if !new["spec"].is_object() {
                new["spec"] = Value::Object(Map::new());
            }
            if let Some(spec) = new["spec"].as_object_mut() {
                if finalizers.is_empty() {
                    spec.remove("finalizers");
                } else {
                    spec.insert("finalizers".to_owned(), finalizers.clone().into());
                }
            }
            match self.write_over(&kind, &current, &old, new, options.dry_run).await {
                Ok(made) => return Ok(made),
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(kind.resource(), name))
    }
}
