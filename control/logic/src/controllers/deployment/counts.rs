//! The numbers that rolling and scaling reckon with: what is wanted, what each set has, and what it
//! is to have.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::names;

use super::replica_sets::Sets;
use crate::controllers::templates::resolve;

/// How many replicas each set is to have; the old ones in the order of [`Sets::old`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub new: i32,
    pub old: Vec<i32>,
}

/// All that the arithmetic of rolling and scaling reads.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub wanted: i32,
    pub surge: i32,
    pub unavailable: i32,
    pub rolling: bool,
    pub new: Option<SetCounts>,
    /// Oldest first.
    pub old: Vec<SetCounts>,
}

/// The numbers of one ReplicaSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SetCounts {
    /// In its spec.
    pub replicas: i32,
    /// In its status.
    pub available: i32,
    /// Pods that there may be: those in its spec, or those in its status if they are more.
    pub present: i32,
    /// True if its controller has seen its spec. Before, it may still be making pods that an
    /// earlier one asked for.
    pub settled: bool,
    /// What the Deployment wanted when it last sized this set.
    pub desired: Option<i32>,
    /// What the Deployment allowed then, with the surge.
    pub maximum: Option<i32>,
    /// Seconds since the epoch.
    pub created: i64,
}

pub(super) fn replica_counts(spec: &DeploymentSpec, sets: &Sets) -> Counts {
    let (surge, unavailable) = limits(spec);
    let number = |set: &ReplicaSet, name: &str| {
        set.metadata.annotations.as_ref().and_then(|a| a.get(name)).and_then(|v| v.parse().ok())
    };
    let of = |set: &Arc<ReplicaSet>| SetCounts {
        replicas: replicas(set),
        available: set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0),
        present: set.status.as_ref().map_or(0, |s| s.replicas).max(replicas(set)),
        settled: set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation,
        desired: number(set, names::ANNOTATION_DESIRED_REPLICAS),
        maximum: number(set, names::ANNOTATION_MAX_REPLICAS),
        created: set.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
    };
    Counts {
        wanted: wanted(spec),
        surge,
        unavailable,
        rolling: spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("Recreate"),
        new: sets.new.as_ref().map(of),
        old: sets.old.iter().map(of).collect(),
    }
}

/// The replicas wanted.
pub(super) fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

/// The replicas in a set's spec.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// How many pods above and below the wanted number a roll-out may go. Percents of surge round
/// up, of unavailability down; if both come to nothing, one may be unavailable, or nothing would
/// ever move.
pub(super) fn limits(spec: &DeploymentSpec) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        return (0, wanted(spec));
    }
    let rolling = strategy.and_then(|s| s.rolling_update.clone()).unwrap_or_default();
    let quarter = IntOrString::String("25%".to_owned());
    let surge = resolve(rolling.max_surge.as_ref().unwrap_or(&quarter), wanted(spec), true);
    let unavailable = resolve(rolling.max_unavailable.as_ref().unwrap_or(&quarter), wanted(spec), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted(spec))) }
}
