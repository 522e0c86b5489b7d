//! create.

use std::sync::Arc;

use proa_api::Refusal;
use proa_kinds::Kind;
use serde_json::Value;

use super::{ATTEMPTS, Caller, Registry, Unwritten, WriteOptions, certificates, metadata, now};
use crate::admission::{node, pod_security};
use crate::store::{Change, Expect, Object, Write, WriteError};

impl Registry {
    pub(super) async fn create_stored(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        let mut body = metadata::shape(kind, body)?;
        metadata::check_namespace(kind, namespace, &mut body)?;
        metadata::check_new(kind, &body)?;
        tracing::debug!(
            user = caller.user,
            kind = kind.kind,
            namespace,
            name = metadata::text(&body, "name"),
            "create"
        );
        if !metadata::text(&body, "name").is_empty() {
            let name = metadata::text(&body, "name").to_owned();
            return match self.create_once(caller, kind, namespace, body, options).await {
                Ok(made) => Ok(made),
                Err(Unwritten::Raced) => Err(Refusal::already_exists(kind.resource(), &name)),
                Err(Unwritten::Refused(refusal)) => Err(refusal),
            };
        }
        let prefix = metadata::text(&body, "generateName").to_owned();
        for _ in 0..ATTEMPTS {
            let mut body = body.clone();
            let name = metadata::generated_name(&prefix);
            metadata::metadata(&mut body).insert("name".to_owned(), name.into());
            match self.create_once(caller, kind, namespace, body, options).await {
                Ok(made) => return Ok(made),
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::already_exists(kind.resource(), &prefix))
    }

    /// Raced means that the name is taken.
    async fn create_once(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        mut body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Unwritten> {
        let name = metadata::text(&body, "name").to_owned();
        let key = self.key(kind, namespace, &name);
        let admission = &self.0.admission;
        certificates::set_requester(caller, kind, &mut body)?;
        node::check_create(caller, kind, &body)?;
        admission.before_create(&self.0.store, kind, &mut body)?;
        metadata::set_uid(&mut body);
        let mut object = (kind.hooks.create)(body)?;
        metadata::finish_create(kind, &mut object, now());
        admission.check_node_addresses(&self.0.store, caller, kind, None, &object)?;
        pod_security::check_create(&self.0.store, kind, &object, &options.warnings)?;
        let reservation = admission.after_create(&self.0.store, kind, &mut object)?;
        let draft = self.bounded_draft(kind, key.clone(), &object, 0)?;
        let settle = self.settlement(kind, namespace, None, Some(object));
        if options.dry_run {
            if let Some(settle) = settle {
                self.0.store.settle_dry(settle)?;
            }
            let taken = self.0.store.collection(&key.resource).get(&key.namespace, &name).is_some();
            return if taken { Err(Unwritten::Raced) } else { Ok(Arc::new(draft.unwritten())) };
        }
        let guard = admission.guard(kind, namespace);
        let write = Write { change: Change::Put(draft), expect: Expect::Absent, guard };
        match self.0.store.write_and_settle(write, settle).await {
            Ok(made) => {
                reservation.keep();
                Ok(made)
            }
            Err(WriteError::Guard) => {
                // The namespace began to go after it was looked at, or is another one by now.
                admission.check_namespace(&self.0.store, kind, namespace, &name)?;
                Err(Unwritten::Refused(Refusal::conflict(
                    kind.resource(),
                    &name,
                    "its namespace has changed",
                )))
            }
            Err(error) => Err(error.into()),
        }
    }
}
