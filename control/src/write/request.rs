//! What the verbs that write are asked with, and what they give back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proa_api::field::{FieldErrors, Path};
use proa_api::{Refusal, names};
use serde_json::Value;

/// Members may do everything.
const GROUP_MASTERS: &str = "system:masters";

/// Who asks. Authentication has made sure of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's name.
    pub user: String,
    /// The user's uid; may be empty.
    pub uid: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// What else is known of the user, for those who are told; nothing here is decided by it.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// A node.
    pub fn node(name: &str) -> Caller {
        let groups = vec![names::GROUP_NODES.to_owned(), "system:authenticated".to_owned()];
        Caller { user: format!("{}{name}", names::NODE_USER_PREFIX), groups, ..Caller::default() }
    }

    /// True for members of `system:masters`, who may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == GROUP_MASTERS)
    }

    /// One of the cluster's own parts, which may do everything: `system:kube-scheduler`.
    pub fn system(user: &str) -> Caller {
        let groups = vec![GROUP_MASTERS.to_owned(), "system:authenticated".to_owned()];
        Caller { user: user.to_owned(), groups, ..Caller::default() }
    }

    /// One of the cluster's own parts that may do only what roles let it.
    pub fn part(user: &str) -> Caller {
        let groups = vec!["system:authenticated".to_owned()];
        Caller { user: user.to_owned(), groups, ..Caller::default() }
    }
}

/// How a create, update or patch is done.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Decides everything and writes nothing.
    pub dry_run: bool,
    /// Who manages the fields; accepted and not kept.
    pub field_manager: String,
    /// Where the client is told what does not end its request.
    pub warnings: Warnings,
}

/// Takes what a client is to be warned of, if somebody wants to know; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Option<Arc<Mutex<Vec<String>>>>);

impl Warnings {
    /// Nobody wants to know.
    pub const NONE: Warnings = Warnings(None);

    /// Keeps them for [`Warnings::take`].
    pub fn kept() -> Warnings {
        Warnings(Some(Arc::default()))
    }

    /// Takes one; what was decided more than once is told once.
    pub fn add(&self, text: String) {
        let Some(kept) = &self.0 else { return };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.contains(&text) {
            kept.push(text);
        }
    }

    /// What has been taken since.
    pub fn take(&self) -> Vec<String> {
        let kept = self.0.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
    }
}

/// How a delete is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteOptions {
    /// Seconds a pod gets to stop; absent for its own default.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
    /// The uid the object must have.
    pub uid: Option<String>,
    /// The resourceVersion the object must have.
    pub resource_version: Option<String>,
    /// Decides everything and writes nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads a `DeleteOptions` object, as bodies of deletes and evictions hold it.
    pub fn read(body: &Value) -> Result<DeleteOptions, Refusal> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let grace = match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => None,
            Some(seconds) => Some(seconds.as_i64().ok_or_else(|| {
                Refusal::bad_request("gracePeriodSeconds of DeleteOptions must be a whole number")
            })?),
        };
        // The field that propagationPolicy replaced.
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        if orphan.is_some() && body.get("propagationPolicy").is_some_and(Value::is_string) {
            let mut errors = FieldErrors::new();
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.invalid(&Path::root("propagationPolicy"), body["propagationPolicy"].clone(), why);
            return Err(Refusal::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        let policy = orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        Ok(DeleteOptions {
            grace_period_seconds: grace,
            propagation_policy: text("/propagationPolicy").or(policy),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: body.pointer("/dryRun/0").is_some(),
        })
    }

    /// Refuses what no object can be deleted with.
    pub fn check(&self) -> Result<(), Refusal> {
        const POLICIES: [&str; 3] = ["Background", "Foreground", "Orphan"];
        let mut errors = FieldErrors::new();
        if let Some(policy) = self.propagation_policy.as_deref()
            && !POLICIES.contains(&policy)
        {
            errors.not_supported(&Path::root("propagationPolicy"), policy, &POLICIES);
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Refusal::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}
