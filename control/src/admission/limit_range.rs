//! The LimitRanges of a namespace, around the hooks of pods and claims.

use k8s_openapi::api::core::v1::LimitRange;
use proa_api::Refusal;
use proa_kinds::Kind;
use proa_kinds::admission::limit_range;
use serde::Deserialize;
use serde_json::Value;

use crate::store::Store;

/// Gives the containers of a new pod what they leave out.
pub fn fill(store: &Store, pod: &mut Value) -> Result<(), Refusal> {
    let ranges = ranges(store, pod)?;
    limit_range::fill(&ranges, pod);
    Ok(())
}

/// Refuses a pod or claim that is out of range.
pub fn check(store: &Store, kind: &Kind, object: &Value) -> Result<(), Refusal> {
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
    let mut ranges = Vec::new();
    store.collection("limitranges").visit(
        Some(namespace),
        None,
        || 0,
        |range| {
            ranges.push(range.decode());
            true
        },
    );
    ranges.into_iter().collect::<Result<_, _>>().map_err(Refusal::internal)
}
