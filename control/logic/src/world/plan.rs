//! Plans: what a decision wants done, as plain data.
//!
//! Made by the controllers and the scheduler, executed by the shell in `proa-control`, which is
//! also where the time goes. A plan never does anything itself; [`Change`] and [`Guard`] only
//! compute on the values they are given.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::status::Resource;
use serde_json::{Value, json};

use super::autoscaling::memory::Memory;
use proa_kinds::Part;

/// What to do now, when to look again, and what to tell the owner of the object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they are to be executed.
    pub actions: Vec<Action>,
    /// When time alone changes the decision.
    pub again_at: Option<Timestamp>,
    /// What is wrong or noteworthy, to be shown as Events.
    pub problems: Vec<Problem>,
    /// What the next decision on the key is to know of this one, if that is not what it knows
    /// already. For autoscalers only: other decisions depend on nothing but objects and the time.
    pub memory: Option<Memory>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// What to do.
    pub verb: Verb,
    /// True if it makes sense only when every action before it succeeded.
    pub chained: bool,
    /// The Events that tell how it went.
    pub report: Option<Report>,
}

/// What an [`Action`] does.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Creates an object.
    Create {
        /// `apps/v1`.
        api_version: &'static str,
        /// `ReplicaSet`.
        kind: &'static str,
        /// Where; empty outside namespaces.
        namespace: String,
        /// The object as JSON.
        body: Value,
    },
    /// Changes an object.
    Patch {
        /// The object; its uid must still be the same.
        target: Reference,
        /// The object itself or its status.
        part: Part,
        /// What else must still hold.
        guard: Guard,
        /// What changes.
        change: Change,
    },
    /// Sets the size of a workload.
    Scale {
        /// The workload; its uid must still be the same.
        target: Reference,
        /// The size it must still have.
        from: i32,
        /// The size it is to have.
        to: i32,
    },
    /// Deletes an object.
    Delete {
        /// The object; its uid must still be the same.
        target: Reference,
        /// The revision it must still have.
        resource_version: Option<String>,
        /// `Background`, `Foreground` or `Orphan`; the kind's default if absent.
        propagation: Option<&'static str>,
        /// The pod's own grace period if absent.
        grace_period_seconds: Option<i64>,
        /// Not deleted if one of these exists after all: another kind's watch may be behind.
        unless: Vec<Reference>,
    },
    /// Deletes all objects of a kind in a namespace.
    DeleteAll {
        /// `v1`.
        api_version: &'static str,
        /// `Event`.
        kind: &'static str,
        /// The namespace to empty.
        namespace: String,
    },
    /// Binds a pod to a node.
    Bind {
        /// The pod.
        pod: Reference,
        /// The node's name.
        node: String,
    },
    /// Signs an approved CertificateSigningRequest; what cannot be signed is marked so.
    SignCertificate {
        /// The request.
        request: Reference,
        /// The uses that the certificate is for.
        usages: Vec<String>,
        /// When it ends, unless the authority ends before.
        not_after: Timestamp,
    },
    /// Writes a token of an account, and what goes with it, into the Secret for it.
    FillToken {
        /// The Secret.
        secret: Reference,
        /// The account.
        account: Reference,
    },
    /// Counts anew what a ResourceQuota holds.
    Recount {
        /// The quota.
        quota: Reference,
    },
    /// Lets a namespace go, if it is empty.
    Finalize {
        /// The namespace.
        namespace: Reference,
    },
}

/// Which object, exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `apps/v1`.
    pub api_version: Arc<str>,
    /// `ReplicaSet`.
    pub kind: Arc<str>,
    /// Empty outside namespaces.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// Empty where any object of this name is meant.
    pub uid: Arc<str>,
}

/// What must still hold of an object when it is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Nothing at all has changed.
    pub resource_version: Option<String>,
    /// The spec has not changed.
    pub generation: Option<i64>,
    /// This other object is not there, by the server's own word: its watch may be behind.
    pub absent: Option<Reference>,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A JSON merge patch (RFC 7386).
    Merge(Value),
    /// Conditions to put in the place of those of their type, in `status.conditions`. Another
    /// writer may own the rest of the list.
    Conditions(Vec<Value>),
}

/// Something to tell whoever looks at an object, as an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub about: Reference,
    /// True for `Warning`, false for `Normal`.
    pub warning: bool,
    /// A constant in CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Events that tell how an action went. In a text, `{}` stands for the name of the object when
/// it went well, and for the error when it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The object that the Events are about.
    pub about: Reference,
    /// Reason and text when it went well.
    pub done: Option<(&'static str, String)>,
    /// Reason and text when it did not.
    pub failed: Option<(&'static str, String)>,
}

impl Plan {
    /// True if nothing is to be done, now or later.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.problems.is_empty()
    }

    /// Adds an action.
    pub fn act(&mut self, verb: Verb) {
        self.actions.push(Action { verb, chained: false, report: None });
    }

    /// Adds an action that needs those before it.
    pub fn act_then(&mut self, verb: Verb) {
        self.actions.push(Action { verb, chained: true, report: None });
    }

    /// Adds an action whose outcome is told in Events.
    pub fn act_and_report(&mut self, verb: Verb, report: Report) {
        self.actions.push(Action { verb, chained: false, report: Some(report) });
    }

    /// Asks for another look, no later than `at`.
    pub fn look_again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |t| t.min(at)));
    }
}

impl Reference {
    /// A reference to whatever object has this name.
    pub fn named(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Reference {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: "".into(),
        }
    }

    /// The reference to a typed object.
    pub fn to<K>(object: &K) -> Self
    where
        K: k8s_openapi::Resource
            + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        let meta = object.metadata();
        let text = |t: &Option<String>| Arc::from(t.as_deref().unwrap_or_default());
        Reference {
            api_version: K::API_VERSION.into(),
            kind: K::KIND.into(),
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Guard {
    /// Nothing but the uid needs to hold.
    pub const NONE: Guard = Guard { resource_version: None, generation: None, absent: None };

    /// Nothing of the object has changed.
    pub fn unchanged(resource_version: &str) -> Self {
        Guard { resource_version: Some(resource_version.to_owned()), ..Guard::NONE }
    }

    /// The spec has not changed.
    pub fn same_generation(generation: Option<i64>) -> Self {
        Guard { generation, ..Guard::NONE }
    }

    /// Refuses as the API server does when an object is not the one that was decided upon.
    pub fn check(&self, uid: &str, resource: Resource<'_>, current: &Value) -> Result<(), Refusal> {
        let meta = &current["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        if !uid.is_empty() && meta["uid"].as_str() != Some(uid) {
            return Err(Refusal::not_found(resource, name));
        }
        let same_revision =
            self.resource_version.as_deref().is_none_or(|v| meta["resourceVersion"].as_str() == Some(v));
        let same_generation = self.generation.is_none_or(|g| meta["generation"].as_i64() == Some(g));
        if same_revision && same_generation { Ok(()) } else { Err(Refusal::stale(resource, name)) }
    }
}

impl Change {
    /// The object after the change.
    pub fn apply(&self, current: &Value) -> Value {
        let mut changed = current.clone();
        match self {
            Change::Merge(patch) => merge(&mut changed, patch),
            Change::Conditions(conditions) => {
                if !changed["status"].is_object() {
                    changed["status"] = json!({});
                }
                let list = &mut changed["status"]["conditions"];
                if !list.is_array() {
                    *list = json!([]);
                }
                for condition in conditions {
                    set_condition(list.as_array_mut().expect("made an array just now"), condition);
                }
            }
        }
        changed
    }
}

/// The merge patch (RFC 7386) that makes `old` into `new`, if they differ.
pub fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else { return Some(new.clone()) };
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let mut patch: serde_json::Map<String, Value> = gone.map(|n| (n.clone(), Value::Null)).collect();
    for (name, value) in after {
        let change = match before.get(name) {
            Some(old) => difference(old, value),
            None => Some(value.clone()),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    Some(Value::Object(patch))
}

fn set_condition(list: &mut Vec<Value>, new: &Value) {
    let mut new = new.clone();
    match list.iter_mut().find(|c| c["type"] == new["type"]) {
        Some(old) => {
            if old["status"] == new["status"] {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            merge(old, &new);
        }
        None => list.push(new),
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().expect("made an object just now");
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patches_follow_the_rfc() {
        let change = Change::Merge(json!({"a": {"b": null, "c": 2, "d": {"e": null}}, "l": [1]}));
        let after = change.apply(&json!({"a": {"b": 1, "x": 0}, "l": [3, 4]}));
        assert_eq!(after, json!({"a": {"x": 0, "c": 2, "d": {}}, "l": [1]}));
    }

    #[test]
    fn a_difference_makes_one_into_the_other() {
        let values = [json!({}), json!({"a": {"b": 1, "c": [1]}, "d": 2}), json!({"a": {"c": [2]}, "e": {}})];
        for old in &values {
            for new in &values {
                let after = difference(old, new).map(|patch| Change::Merge(patch).apply(old));
                assert_eq!(after.as_ref().unwrap_or(old), new);
            }
        }
    }

    #[test]
    fn a_condition_keeps_its_transition_time_and_its_neighbours() {
        let before = json!({"status": {"conditions": [
            {"type": "A", "status": "True", "lastTransitionTime": "1"}, {"type": "B", "status": "False"}]}});
        let new = |status: &str| {
            Change::Conditions(vec![json!({"type": "A", "status": status, "lastTransitionTime": "2"})])
        };
        assert_eq!(new("True").apply(&before), before);
        let after = new("False").apply(&before);
        assert_eq!(after["status"]["conditions"][0]["lastTransitionTime"], "2");
        assert_eq!(after["status"]["conditions"][1]["type"], "B");
    }

    #[test]
    fn guards_refuse_what_has_changed() {
        let pods = Resource { group: "", plural: "pods" };
        let object = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "5", "generation": 2}});
        assert!(Guard::unchanged("5").check("u", pods, &object).is_ok());
        assert_eq!(Guard::unchanged("4").check("u", pods, &object).unwrap_err().reason(), "Conflict");
        assert_eq!(Guard::NONE.check("v", pods, &object).unwrap_err().reason(), "NotFound");
        assert!(Guard::same_generation(Some(1)).check("u", pods, &object).is_err());
    }
}
