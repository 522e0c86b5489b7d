//! The provisioner of local paths, by node: directories of the node as PersistentVolumes.
//!
//! It makes and deletes the volumes, for claims whose node the scheduler has chosen; the node makes
//! and removes the directories, as [`proa_api::local_path`] says. So no volume is ever promised to a
//! claim at a node's word. What is made belongs to the claim that it was made for; it is removed when
//! the binder has released it and the claim is gone by the API server's own word. Nothing is ever
//! removed because it is not known.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use proa_api::local_path::{self, ANNOTATION_ORDERS, FINALIZER, MAX_ORDERS, Order, Orders, Outcome};
use proa_api::names::{
    ANNOTATION_PROVISIONED_BY, LABEL_HOSTNAME, LOCAL_PATH_PROVISIONER as PROVISIONER, STORAGE,
};
use serde_json::{Value, json};

use crate::world::facts::{Key, Node};
use crate::world::observed::Observed;
use crate::world::plan::{Change, Guard, Plan, Problem, Reference, Report, Verb};
use crate::world::volumes::{node_of_claim, node_of_volume};
use proa_kinds::Part;

/// What the names of volumes begin with; the uid of the claim follows.
const VOLUME_PREFIX: &str = "pvc-";
/// A path of a node is no longer than the kernel takes.
const MAX_PATH_BYTES: usize = 4095;

/// Decides what is to be done for the local paths of one node.
pub fn reconcile(seen: &Observed, key: &Key) -> Plan {
    let mut plan = Plan::default();
    let Some(node) = seen.nodes.get(&key.name) else { return plan };
    let mut view = View { seen, node, orders: Orders::new() };
    for (_, claim) in seen.persistent_volume_claims.iter() {
        view.claim(claim, &mut plan);
    }
    for (_, volume) in seen.persistent_volumes.iter().filter(|(_, volume)| is_of_node(volume, &key.name)) {
        view.volume(volume, &mut plan);
    }
    view.leftovers(&mut plan);
    view.order(&mut plan);
    plan
}

struct View<'a> {
    seen: &'a Observed,
    node: &'a Node,
    /// What is to be ordered.
    orders: Orders,
}

impl View<'_> {
    fn ordered(&self, volume: &str) -> Option<Order> {
        self.node.local_path_orders.get(volume).copied()
    }

    fn outcome(&self, volume: &str) -> Option<&Outcome> {
        self.node.local_path_outcomes.get(volume)
    }

    /// A claim that waits for its volume on this node.
    fn claim(&mut self, claim: &PersistentVolumeClaim, plan: &mut Plan) {
        let (meta, node) = (&claim.metadata, &*self.node.meta.key.name);
        let Some(spec) = &claim.spec else { return };
        let bound = spec.volume_name.as_deref().is_some_and(|name| !name.is_empty());
        if node_of_claim(claim) != Some(node) || bound || meta.deletion_timestamp.is_some() {
            return;
        }
        let class = spec.storage_class_name.as_deref().unwrap_or_default();
        let class = self.seen.storage_classes.get(&Key::new("", class));
        let (Some(class), Some(uid)) = (class.filter(|c| c.provisioner == PROVISIONER), &meta.uid) else {
            return;
        };
        let volume = format!("{VOLUME_PREFIX}{uid}");
        if self.seen.persistent_volumes.get(&Key::new("", &volume)).is_some() {
            return;
        }
        let failed = |message: String| Problem {
            about: Reference::to(claim),
            warning: true,
            reason: "ProvisioningFailed",
            message: format!("failed to provision volume: {message}"),
        };
        if let Some(message) = refusal(spec, class) {
            plan.problems.push(failed(message));
            return;
        }
        // A directory that is being removed is removed before it is made again.
        if self.ordered(&volume) == Some(Order::Remove) {
            return;
        }
        self.orders.insert(volume.clone(), Order::Make);
        match self.outcome(&volume) {
            Some(Outcome::Made(path)) if self.ordered(&volume).is_some() => match check_path(path, &volume) {
                Ok(()) => plan.act_and_report(
                    Verb::Create {
                        api_version: "v1",
                        kind: "PersistentVolume",
                        namespace: String::new(),
                        body: volume_json(claim, spec, class, &volume, node, path),
                    },
                    Report {
                        about: Reference::to(claim),
                        done: Some((
                            "ProvisioningSucceeded",
                            "Successfully provisioned volume {}".to_owned(),
                        )),
                        failed: Some(("ProvisioningFailed", "failed to provision volume: {}".to_owned())),
                    },
                ),
                Err(why) => plan.problems.push(failed(why)),
            },
            Some(Outcome::Failed(why)) => plan.problems.push(failed(why.clone())),
            _ if self.ordered(&volume).is_none() => {
                let text = |part: &Option<String>| part.clone().unwrap_or_default();
                plan.problems.push(Problem {
                    about: Reference::to(claim),
                    warning: false,
                    reason: "Provisioning",
                    message: format!(
                        "External provisioner is provisioning volume for claim \"{}/{}\"",
                        text(&meta.namespace),
                        text(&meta.name)
                    ),
                });
            }
            _ => {}
        }
    }

    /// A volume of this node, when its claim is gone.
    fn volume(&mut self, volume: &PersistentVolume, plan: &mut Plan) {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        if is_removable(volume) {
            if self.seen.persistent_volume_claims.iter().any(|(_, claim)| is_of(volume, claim)) {
                return;
            }
            self.orders.insert(name.to_owned(), Order::Remove);
            match self.outcome(name) {
                Some(Outcome::Removed) if self.ordered(name) == Some(Order::Remove) => {
                    delete(volume, plan);
                    let_go(volume, plan);
                }
                Some(Outcome::Failed(why)) => plan.problems.push(Problem {
                    about: Reference::to(volume),
                    warning: true,
                    reason: "VolumeFailedDelete",
                    message: why.clone(),
                }),
                _ => {}
            }
            return;
        }
        let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
        if policy != Some("Delete") && volume.metadata.deletion_timestamp.is_some() {
            // The user keeps the data.
            let_go(volume, plan);
        }
    }

    /// Directories that were ordered, and of which nothing came: the claim went before its volume was
    /// made. Once begun, a removal is brought to its end.
    fn leftovers(&mut self, plan: &mut Plan) {
        for (name, order) in &self.node.local_path_orders {
            let is_volume = self.seen.persistent_volumes.get(&Key::new("", name)).is_some();
            if is_volume || self.orders.contains_key(name) {
                continue;
            }
            match (order, self.outcome(name)) {
                (Order::Remove, Some(Outcome::Removed)) => {}
                (Order::Remove, _) => {
                    self.orders.insert(name.clone(), Order::Remove);
                }
                (Order::Make, _) => {
                    // The watch of volumes may be behind.
                    let mut guard = Guard::NONE;
                    guard.absent = Some(Reference::named("v1", "PersistentVolume", "", name));
                    let mut orders = self.node.local_path_orders.clone();
                    orders.insert(name.clone(), Order::Remove);
                    plan.act(self.annotate(&orders, guard));
                    // That first; the others have their turn after it.
                    self.orders = self.node.local_path_orders.clone();
                    return;
                }
            }
        }
    }

    /// Writes the orders, if they are others than before.
    fn order(&self, plan: &mut Plan) {
        let before = &self.node.local_path_orders;
        // What stands goes on; new ones are added while there is room.
        let (standing, new): (Vec<_>, Vec<_>) =
            self.orders.iter().partition(|(name, _)| before.contains_key(*name));
        let orders: Orders =
            standing.into_iter().chain(new).take(MAX_ORDERS).map(|(n, o)| (n.clone(), *o)).collect();
        if orders != *before {
            plan.act(self.annotate(&orders, Guard::NONE));
        }
    }

    fn annotate(&self, orders: &Orders, guard: Guard) -> Verb {
        let annotations = json!({ ANNOTATION_ORDERS: local_path::write(orders) });
        Verb::Patch {
            target: self.node.meta.reference(),
            part: Part::Main,
            guard,
            change: Change::Merge(json!({ "metadata": { "annotations": annotations } })),
        }
    }
}

fn delete(volume: &PersistentVolume, plan: &mut Plan) {
    if volume.metadata.deletion_timestamp.is_none() {
        plan.act(Verb::Delete {
            target: Reference::to(volume),
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
            unless: Vec::new(),
        });
    }
}

/// Takes the provisioner's hand off a volume.
fn let_go(volume: &PersistentVolume, plan: &mut Plan) {
    let finalizers = volume.metadata.finalizers.as_deref().unwrap_or_default();
    // What is about to be deleted has no deletion timestamp yet: the next look takes the hand off.
    if volume.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return;
    }
    let rest: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
    let revision = volume.metadata.resource_version.as_deref().unwrap_or_default();
    plan.act(Verb::Patch {
        target: Reference::to(volume),
        part: Part::Main,
        guard: Guard::unchanged(revision),
        change: Change::Merge(json!({ "metadata": { "finalizers": rest } })),
    });
}

/// What cannot be had as a directory.
fn refusal(spec: &PersistentVolumeClaimSpec, class: &StorageClass) -> Option<String> {
    let of_one_node = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
    let mode = spec.access_modes.iter().flatten().find(|mode| !of_one_node(mode));
    if let Some(mode) = mode {
        return Some(format!(
            "spec.accessModes: {mode} is not supported by {PROVISIONER}: a directory of one node"
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some(format!("spec.volumeMode: Block is not supported by {PROVISIONER}"));
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some(format!("spec.dataSource is not supported by {PROVISIONER}"));
    }
    if spec.selector.is_some() {
        return Some("claim Selector is not supported".to_owned());
    }
    if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Some(format!("mountOptions of the StorageClass is not supported by {PROVISIONER}"));
    }
    if let Some(parameter) = class.parameters.as_ref().and_then(|parameters| parameters.keys().next()) {
        return Some(format!("parameters.{parameter} of the StorageClass is not supported by {PROVISIONER}"));
    }
    None
}

/// A path that a node gives must be one, and the volume's.
fn check_path(path: &str, volume: &str) -> Result<(), String> {
    let mut parts = Path::new(path).components();
    let plain = parts.clone().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let last = parts.next_back() == Some(Component::Normal(volume.as_ref()));
    if path.starts_with('/') && plain && last && path.len() <= MAX_PATH_BYTES {
        return Ok(());
    }
    Err(format!("the node gave no path of volume {volume}"))
}

fn volume_json(
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    class: &StorageClass,
    name: &str,
    node: &str,
    path: &str,
) -> Value {
    let requests = spec.resources.as_ref().and_then(|r| r.requests.clone()).unwrap_or_default();
    let capacity: BTreeMap<_, _> = requests.into_iter().filter(|(name, _)| name == STORAGE).collect();
    let meta = &claim.metadata;
    let here = json!({ "key": LABEL_HOSTNAME, "operator": "In", "values": [node] });
    json!({
        "metadata": {
            "name": name,
            "annotations": { ANNOTATION_PROVISIONED_BY: PROVISIONER },
            "finalizers": [FINALIZER],
        },
        "spec": {
            "accessModes": spec.access_modes,
            "capacity": capacity,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": meta.name,
                "namespace": meta.namespace, "uid": meta.uid, "resourceVersion": meta.resource_version,
            },
            "local": { "path": path },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] } },
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "volumeMode": "Filesystem",
        },
    })
}

/// True for a volume of this provisioner that the binder has released and whose policy has it
/// removed.
fn is_removable(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    policy == Some("Delete") && phase == Some("Released")
}

/// True if the volume is this claim's, unless the claim has another one.
fn is_of(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    reference.is_some_and(|r| r.uid == claim.metadata.uid)
        && (named.is_empty() || Some(named) == volume.metadata.name.as_deref())
}

fn is_of_node(volume: &PersistentVolume, node: &str) -> bool {
    node_of_volume(volume) == Some(node)
}

#[cfg(test)]
mod tests;
