//! The LimitRanges of a namespace, around the hooks of pods and claims.

use k8s_openapi::api::core::v1::LimitRange;
use proa_api::Refusal;
use proa_kinds::admission::limit_range;
use proa_kinds::{Kind, Part};
use serde::Deserialize;
use serde_json::Value;

use crate::store::Store;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

/// Keeps pods and claims within the LimitRanges of their namespace.
pub struct LimitRanger;

impl Stage for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "Pod") || kind.is("", "PersistentVolumeClaim")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        match &attempt.operation {
            Operation::Create if attempt.kind.kind == "Pod" => fill(attempt.store, new).into(),
            _ => Verdict::PASSED,
        }
    }

    fn validate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a Value) -> Verdict<'a> {
        let changes = match (&attempt.operation, attempt.old) {
            (Operation::Create, _) => true,
            // What is said of a claim's status must get through whatever the limits are by now.
            (Operation::Update(Part::Main), Some(old)) => {
                attempt.kind.kind != "Pod" && old["spec"] != new["spec"]
            }
            _ => false,
        };
        if changes { check(attempt.store, attempt.kind, new).into() } else { Verdict::PASSED }
    }
}

/// Gives the containers of a new pod what they leave out.
fn fill(store: &Store, pod: &mut Value) -> Result<(), Refusal> {
    let ranges = ranges(store, pod)?;
    limit_range::fill(&ranges, pod);
    Ok(())
}

/// Refuses a pod or claim that is out of range.
fn check(store: &Store, kind: &Kind, object: &Value) -> Result<(), Refusal> {
    let ranges = ranges(store, object)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let checked = match kind.kind.as_str() {
        "Pod" => {
            limit_range::check_pod(&ranges, &Deserialize::deserialize(object).map_err(Refusal::internal)?)
        }
        _ => limit_range::check_claim(&ranges, &Deserialize::deserialize(object).map_err(Refusal::internal)?),
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    checked.map_err(|why| Refusal::forbidden(kind.resource(), name, why))
}

fn ranges(store: &Store, object: &Value) -> Result<Vec<LimitRange>, Refusal> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let stored = store.collection("limitranges").all(Some(namespace));
    stored.iter().map(|range| range.decode()).collect::<Result<_, _>>().map_err(Refusal::internal)
}
