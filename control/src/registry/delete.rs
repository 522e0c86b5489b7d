//! delete and deletecollection.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proa_api::Refusal;
use proa_api::names::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN, PROTECTED_NAMESPACES};
use proa_kinds::Kind;
use serde_json::{Value, json};

use super::{
    ATTEMPTS, Caller, DeleteOptions, Deleted, ListOptions, Registry, Unwritten, is_core, metadata, now,
};
use crate::store::{Change, Expect, Object, Write};

/// What a delete does to an object.
#[derive(Debug, PartialEq)]
enum Step {
    /// Removes it now.
    Remove,
    /// Writes it back as one that is on its way out.
    Mark(Value),
    /// Nothing: it is on its way out already.
    Wait,
}

impl Registry {
    /// Deletes an object, or marks it for those who hold it.
    ///
    /// # Errors
    /// 404 if there is none, 409 if a precondition does not hold, 403 for namespaces that every
    /// cluster has.
    pub async fn delete(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Refusal> {
        let Some(viewed) = self.viewed(kind) else {
            return self.delete_stored(caller, kind, namespace, name, options).await;
        };
        Ok(match self.delete_stored(caller, &viewed.stored, namespace, name, options).await? {
            Deleted::Gone(object) => Deleted::Gone(viewed.shown(kind, &object)),
            Deleted::Pending(object) => Deleted::Pending(viewed.shown(kind, &object)),
        })
    }

    /// Deletes all objects that a list would show, and gives them.
    ///
    /// # Errors
    /// As for [`Registry::list`] and [`Registry::delete`]; objects that are gone meanwhile are none.
    pub async fn delete_collection(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Object>>, Refusal> {
        options.check()?;
        let mut deleted = Vec::new();
        for object in self.list(kind, namespace, list)?.items {
            match self.delete(caller, kind, &object.key.namespace, &object.key.name, options).await {
                Ok(done) => deleted.push(done.object().clone()),
                Err(refusal) if refusal.code() == 404 => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(deleted)
    }

    async fn delete_stored(
        &self,
        caller: &Caller,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Refusal> {
        tracing::debug!(user = caller.user, kind = kind.kind, namespace, name, "delete");
        options.check()?;
        if is_core(kind, "Namespace") && PROTECTED_NAMESPACES.contains(&name) {
            return Err(Refusal::forbidden(kind.resource(), name, "this namespace may not be deleted"));
        }
        for _ in 0..ATTEMPTS {
            let current = self.get_stored(kind, namespace, name)?;
            match self.delete_once(kind, &current, options).await {
                Ok(deleted) => return Ok(deleted),
                Err(Unwritten::Raced) => {}
                Err(Unwritten::Refused(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::stale(kind.resource(), name))
    }

    pub(super) async fn delete_once(
        &self,
        kind: &Kind,
        current: &Arc<Object>,
        options: &DeleteOptions,
    ) -> Result<Deleted, Unwritten> {
        check_preconditions(kind, current, options)?;
        let expect = Expect::Revision(current.revision);
        match step(kind, current.value(), options, now()) {
            Step::Wait => Ok(Deleted::Pending(current.clone())),
            Step::Remove if options.dry_run => Ok(Deleted::Gone(current.clone())),
            Step::Remove => {
                let write = Write { change: Change::Delete(current.key.clone()), expect, guard: None };
                let settle = self.settlement(kind, &current.key.namespace, Some(current.clone()), None);
                let gone = self.0.store.write_and_settle(write, settle).await?;
                self.0.admission.after_delete(kind, &gone);
                Ok(Deleted::Gone(gone))
            }
            Step::Mark(marked) => {
                let draft = self.draft(kind, current.key.clone(), &marked);
                if options.dry_run {
                    return Ok(Deleted::Pending(Arc::new(draft.at_revision(current.revision))));
                }
                let write = Write { change: Change::Put(draft), expect, guard: None };
                Ok(Deleted::Pending(self.0.store.write(write).await?))
            }
        }
    }
}

pub(super) fn check_preconditions(
    kind: &Kind,
    current: &Object,
    options: &DeleteOptions,
) -> Result<(), Refusal> {
    let failed = |what: &str, wanted: &str, found: &str| {
        let why =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Err(Refusal::conflict(kind.resource(), &current.key.name, why))
    };
    match (&options.uid, &options.resource_version) {
        (Some(uid), _) if **uid != *current.uid => failed("UID", uid, &current.uid),
        (_, Some(version)) if *version != current.revision.to_string() => {
            failed("ResourceVersion", version, &current.revision.to_string())
        }
        _ => Ok(()),
    }
}

/// Decides what a delete does.
fn step(kind: &Kind, object: Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let deleting = object["metadata"]["deletionTimestamp"].is_string();
    let policy = options.propagation_policy.as_deref().or(default_policy(kind));
    let finalizers = finalizers_after(&object, policy);
    let finalizers_change = finalizers != metadata::finalizers(&object);
    let finalizers: Vec<String> = finalizers.into_iter().map(str::to_owned).collect();
    if is_core(kind, "Namespace") {
        return namespace_step(object, &finalizers, deleting, now);
    }
    let grace = if is_core(kind, "Pod") { pod_grace(&object, options) } else { Grace::Seconds(0) };
    let (seconds, until) = match grace {
        Grace::AsBefore if finalizers_change => {
            let mut marked = object;
            set_finalizers(&mut marked, &finalizers);
            return Step::Mark(marked);
        }
        Grace::AsBefore => return Step::Wait,
        Grace::Seconds(0) if finalizers.is_empty() => return Step::Remove,
        Grace::Seconds(seconds) => (seconds, now + SignedDuration::from_secs(seconds)),
        Grace::Shortened(seconds, until) => (seconds, until),
    };
    let shortened = object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_none_or(|old| seconds < old);
    if deleting && !finalizers_change && !shortened {
        return Step::Wait;
    }
    let mut marked = object;
    set_finalizers(&mut marked, &finalizers);
    if !deleting && marked["metadata"]["generation"].as_i64().is_some_and(|generation| generation > 0) {
        metadata::next_generation(&mut marked);
    }
    if !deleting || shortened {
        let metadata = metadata::metadata(&mut marked);
        metadata.insert("deletionTimestamp".to_owned(), metadata::time(until).into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
    }
    Step::Mark(marked)
}

/// What becomes of the dependents if a delete says nothing: those of the kinds that are older than
/// the garbage collector are let go, as they were before anybody collected them.
fn default_policy(kind: &Kind) -> Option<&'static str> {
    let old = [("batch", "Job"), ("", "ReplicationController")];
    old.contains(&(kind.group.as_str(), kind.kind.as_str())).then_some("Orphan")
}

/// How long a pod has to stop.
#[derive(Debug, PartialEq)]
enum Grace {
    /// It is on its way out and nothing about that changes.
    AsBefore,
    /// This long from now.
    Seconds(i64),
    /// It is on its way out, and gets less time than it was given.
    Shortened(i64, Timestamp),
}

fn pod_grace(pod: &Value, options: &DeleteOptions) -> Grace {
    let metadata = &pod["metadata"];
    if let Some(until) = metadata["deletionTimestamp"].as_str() {
        let before = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        return match (options.grace_period_seconds, until.parse::<Timestamp>()) {
            (Some(0), _) => Grace::Seconds(0),
            // A negative period means the shortest one that lets the pod stop by itself.
            (Some(seconds), Ok(until)) if seconds.max(1) < before => {
                let seconds = seconds.max(1);
                Grace::Shortened(seconds, until - SignedDuration::from_secs(before - seconds))
            }
            _ => Grace::AsBefore,
        };
    }
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || finished {
        return Grace::Seconds(0);
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    match options.grace_period_seconds.unwrap_or(own) {
        seconds if seconds < 0 => Grace::Seconds(1),
        // Far beyond what a time stamp can hold; a century is as good.
        seconds => Grace::Seconds(seconds.min(100 * 365 * 86_400)),
    }
}

fn namespace_step(mut namespace: Value, finalizers: &[String], deleting: bool, now: Timestamp) -> Step {
    let held = namespace["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if !held && finalizers.is_empty() {
        return Step::Remove;
    }
    if deleting {
        return Step::Wait;
    }
    set_finalizers(&mut namespace, finalizers);
    metadata::metadata(&mut namespace).insert("deletionTimestamp".to_owned(), metadata::time(now).into());
    match namespace["status"].as_object_mut() {
        Some(status) => {
            status.insert("phase".to_owned(), "Terminating".into());
        }
        None => namespace["status"] = json!({"phase": "Terminating"}),
    }
    Step::Mark(namespace)
}

/// The finalizers that an object has once it is marked: the garbage collector's own follow the
/// propagation policy, or stay as they are without one.
fn finalizers_after<'v>(object: &'v Value, policy: Option<&str>) -> Vec<&'v str> {
    let before = metadata::finalizers(object);
    let wanted = match policy {
        Some("Orphan") => Some(FINALIZER_ORPHAN),
        Some("Foreground") => Some(FINALIZER_FOREGROUND),
        Some(_) => None,
        None => return before,
    };
    let of_collector = |finalizer: &&str| [FINALIZER_ORPHAN, FINALIZER_FOREGROUND].contains(finalizer);
    if wanted.is_some_and(|wanted| before.contains(&wanted)) {
        return before.into_iter().filter(|f| !of_collector(f) || Some(*f) == wanted).collect();
    }
    before.into_iter().filter(|f| !of_collector(f)).chain(wanted).collect()
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = metadata::metadata(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}
