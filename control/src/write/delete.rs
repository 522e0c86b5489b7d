//! delete.

use jiff::{SignedDuration, Timestamp};
use proa_api::Refusal;
use proa_api::names::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use proa_kinds::Kind;
use serde_json::{Value, json};

use super::request::DeleteOptions;
use super::stage::Operation;
use super::{Intent, Outcome, Pipeline, Unwritten, metadata, told};
use crate::store::Object;

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

impl Pipeline {
    pub(super) async fn delete(
        &self,
        intent: &Intent,
        options: &DeleteOptions,
    ) -> Result<Outcome, Unwritten> {
        let kind = &intent.kind;
        let current = self.load(intent)?;
        check_preconditions(kind, &current, options)?;
        let old = current.value();
        let attempt = self.attempt(intent, &intent.name, Operation::Delete, Some(&old));
        let stages = self.stages(kind);
        for stage in &stages {
            told(&**stage, &attempt, stage.validate_delete(&attempt).get().await)?;
        }
        match step(kind, old.clone(), options, attempt.now) {
            Step::Wait => Ok(Outcome::There(current)),
            Step::Remove => Ok(Outcome::Gone(self.remove(&attempt, &stages, &current).await?)),
            Step::Mark(marked) => self.commit(&attempt, &stages, Some(&current), marked).await,
        }
    }
}

/// Refuses to delete another object than the one that is meant.
pub fn check_preconditions(kind: &Kind, current: &Object, options: &DeleteOptions) -> Result<(), Refusal> {
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
    if kind.is("", "Namespace") {
        return namespace_step(object, &finalizers, deleting, now);
    }
    let grace = if kind.is("", "Pod") { pod_grace(&object, options) } else { Grace::Seconds(0) };
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
