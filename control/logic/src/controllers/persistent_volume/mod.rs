//! Claims and volumes: which volume serves which claim, and what becomes of it after.
//!
//! Rules: <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>. A claim and a volume
//! name each other; the volume's word comes first and is guarded by its revision, so that no
//! volume is ever promised to two claims. Making and removing the storage itself is its
//! provisioner's: `claim.rs` only says whose turn it is.
//!
//! - `matching`: which volume is good for a claim
//! - `claim`, `volume`: the two halves of the binder
//! - `protection`: what holds claims and volumes that are in use
//! - `expansion`: claims that ask for more than they have

mod claim;
mod expansion;
mod matching;
mod protection;
#[cfg(test)]
mod tests;
mod volume;

pub use claim::reconcile as reconcile_claim;
pub use expansion::reconcile as reconcile_expansion;
pub use protection::{
    reconcile_claim as reconcile_claim_protection, reconcile_volume as reconcile_volume_protection,
};
pub use volume::reconcile as reconcile_volume;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::world::plan::{Change, Guard, Problem, Reference, Verb};
use proa_kinds::Part;

fn is_deleted(object: &impl Metadata<Ty = ObjectMeta>) -> bool {
    object.metadata().deletion_timestamp.is_some()
}

/// A change of an object that must still be the one that was seen.
fn change<K>(object: &K, patch: Value) -> Verb
where
    K: k8s_openapi::Resource + Metadata<Ty = ObjectMeta>,
{
    let revision = object.metadata().resource_version.as_deref().unwrap_or_default();
    Verb::Patch {
        target: Reference::to(object),
        part: Part::Main,
        guard: Guard::unchanged(revision),
        change: Change::Merge(patch),
    }
}

/// A change of an object's status.
fn change_status<K>(object: &K, status: Value) -> Verb
where
    K: k8s_openapi::Resource + Metadata<Ty = ObjectMeta>,
{
    Verb::Patch {
        target: Reference::to(object),
        part: Part::STATUS,
        guard: Guard::NONE,
        change: Change::Merge(serde_json::json!({ "status": status })),
    }
}

fn problem(about: Reference, warning: bool, reason: &'static str, message: impl Into<String>) -> Problem {
    Problem { about, warning, reason, message: message.into() }
}
