//! The priority of a pod, by the PriorityClass that it names or the default one.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#priority>

use k8s_openapi::api::scheduling::v1::PriorityClass;
use proa_api::Refusal;
use proa_kinds::{Kind, Part};
use serde_json::Value;

use crate::store::{Object, Store};
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

const RESOURCE: &str = "priorityclasses.scheduling.k8s.io";
const PREEMPTS: &str = "PreemptLowerPriority";

/// Gives pods their priority, and keeps the default class the only one.
pub struct Priority;

impl Stage for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "Pod") || kind.is("scheduling.k8s.io", "PriorityClass")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        match (&attempt.operation, attempt.old) {
            (Operation::Create | Operation::Update(Part::Main), _) if attempt.kind.kind != "Pod" => {
                check_default(attempt.store, attempt.kind, new).into()
            }
            (Operation::Create, _) => set(attempt.store, attempt.kind, new).into(),
            (Operation::Update(Part::Main), Some(old)) => {
                keep(old, new);
                Verdict::PASSED
            }
            _ => Verdict::PASSED,
        }
    }
}

/// Writes the priority into a new pod, and whether it pushes out others. What it says of that
/// itself must be the same.
fn set(store: &Store, kind: &Kind, pod: &mut Value) -> Result<(), Refusal> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let forbidden = |why: String| Err(Refusal::forbidden(kind.resource(), &pod_name, why));
    // A body without a spec is for validation to refuse.
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    let named = spec["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if named.is_empty() {
        default_class(store)
    } else {
        match store.collection(RESOURCE).get("", &named) {
            Some(object) => Some(decode(&object)?),
            None => return forbidden(format!("no PriorityClass with name {named} was found")),
        }
    };
    let priority = class.as_ref().map_or(0, |class| i64::from(class.value));
    if let Some(said) = spec["priority"].as_i64().filter(|said| *said != priority) {
        return forbidden(format!(
            "the integer value of priority ({said}) must not be provided in pod spec; priority admission \
             controller computed {priority} from the given PriorityClass name"
        ));
    }
    let policy = match &class {
        Some(class) => class.preemption_policy.clone(),
        None => Some(PREEMPTS.to_owned()),
    };
    let policy = policy.unwrap_or_else(|| PREEMPTS.to_owned());
    let said = spec["preemptionPolicy"].as_str().unwrap_or_default();
    if !said.is_empty() && said != policy {
        return forbidden(format!(
            "the string value of PreemptionPolicy ({said}) must not be provided in pod spec; priority \
             admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(name) = class.and_then(|class| class.metadata.name) {
        spec["priorityClassName"] = name.into();
    }
    spec["priority"] = priority.into();
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

/// Keeps what was written into a pod when it was made, in a change that does not say it.
fn keep(old: &Value, new: &mut Value) {
    for member in ["priority", "preemptionPolicy"] {
        let before = &old["spec"][member];
        if new["spec"].is_object() && new["spec"][member].is_null() && !before.is_null() {
            new["spec"][member] = before.clone();
        }
    }
}

/// Refuses a second default class.
fn check_default(store: &Store, kind: &Kind, class: &Value) -> Result<(), Refusal> {
    if class["globalDefault"] != true {
        return Ok(());
    }
    let name = class["metadata"]["name"].as_str().unwrap_or_default();
    match default_class(store).and_then(|default| default.metadata.name) {
        Some(default) if default != name => Err(Refusal::forbidden(
            kind.resource(),
            name,
            format!("PriorityClass {default} is already marked as default. Only one default can exist"),
        )),
        _ => Ok(()),
    }
}

/// The default class. Of several, which two writers at once can make, the lowest counts.
fn default_class(store: &Store) -> Option<PriorityClass> {
    let classes = store.collection(RESOURCE).all(None);
    let defaults = classes.iter().filter_map(|object| decode(object).ok());
    defaults.filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value)
}

fn decode(object: &Object) -> Result<PriorityClass, Refusal> {
    object.decode().map_err(Refusal::internal)
}
