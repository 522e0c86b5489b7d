//! Claims and volumes: nodes that make directories for claims, users who delete claims that are in
//! use, and what must hold of the data at every step and at rest.

use std::collections::{BTreeMap, BTreeSet};

use proa_api::local_path::{self, Order, Orders, Outcome, Outcomes};
use proa_kinds::Part;
use serde_json::{Value, json};

use super::api::{reference, text};
use super::{NODES, World, workloads};

const PROVISIONER: &str = "proa.dev/local-path";

/// What has been seen of claims and volumes.
#[derive(Default)]
pub struct Ledger {
    /// The directories on the nodes, by volume.
    directories: BTreeSet<String>,
    /// The volumes that each pod has been started with, by uid.
    mounted: BTreeMap<String, Vec<String>>,
    /// Claims that nobody has told to go, by uid.
    kept: BTreeSet<String>,
    /// To which claim each volume was promised, by uid.
    promised: BTreeMap<String, String>,
    /// How much of the log has been looked through.
    read: usize,
}

/// The claims that a pod names, and those that it brings along.
fn claims_of(pod: &Value) -> impl Iterator<Item = String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| {
        let named = text(volume, "/persistentVolumeClaim/claimName");
        if volume["ephemeral"].is_object() {
            Some(format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")))
        } else {
            Some(named.to_owned()).filter(|name| !name.is_empty())
        }
    })
}

/// The template and the policy of the sets that have one: what is kept, and what goes along.
pub fn add_templates(app: &str, spec: &mut Value) {
    let policy = match app {
        "a" => "Retain",
        "c" => "Delete",
        _ => return,
    };
    spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": policy, "whenScaled": policy});
    spec["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }]);
}

impl World {
    pub fn start_storage(&mut self) {
        let class = json!({
            "metadata": {"name": "local-path"}, "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        });
        self.api.create("storage.k8s.io/v1", "StorageClass", "", class).unwrap();
    }

    /// What one node makes of its orders now; true if it did something.
    pub fn provision(&mut self, node: &str) -> bool {
        let Some(object) = self.api.get("v1 Node", "", node).cloned() else { return false };
        let annotation = |name: &str| object["metadata"]["annotations"][name].as_str();
        let orders: Orders = local_path::read(annotation(local_path::ANNOTATION_ORDERS));
        let mut outcomes: Outcomes = local_path::read(annotation(local_path::ANNOTATION_OUTCOMES));
        let before = outcomes.clone();
        outcomes.retain(|name, _| orders.contains_key(name));
        for (name, order) in &orders {
            match (order, outcomes.get(name)) {
                (Order::Make, Some(Outcome::Made(_))) | (Order::Remove, Some(Outcome::Removed)) => {}
                (Order::Make, _) => {
                    self.storage.directories.insert(name.clone());
                    outcomes.insert(name.clone(), Outcome::Made(format!("/{name}")));
                }
                (Order::Remove, _) if self.is_mounted(name) => {}
                (Order::Remove, _) => {
                    self.storage.directories.remove(name);
                    outcomes.insert(name.clone(), Outcome::Removed);
                }
            }
        }
        if outcomes == before {
            return false;
        }
        let mut new = object.clone();
        if !new["metadata"]["annotations"].is_object() {
            new["metadata"]["annotations"] = json!({});
        }
        new["metadata"]["annotations"][local_path::ANNOTATION_OUTCOMES] =
            local_path::write(&outcomes).unwrap_or_default().into();
        self.api.update(&reference(&object), Part::Main, new).is_ok()
    }

    /// True if a pod that has not ended was started with the volume.
    fn is_mounted(&self, volume: &str) -> bool {
        self.api.list("v1 Pod").filter(|pod| !workloads::has_ended(pod)).any(|pod| {
            let volumes = self.storage.mounted.get(text(pod, "/metadata/uid"));
            volumes.is_some_and(|volumes| volumes.iter().any(|v| v == volume))
        })
    }

    /// True if the pod has all its claims, or is under way with them.
    pub fn has_claims(&self, pod: &Value) -> bool {
        self.storage.mounted.contains_key(text(pod, "/metadata/uid"))
            || claims_of(pod).all(|name| {
                self.api.get("v1 PersistentVolumeClaim", "default", &name).is_some_and(|claim| {
                    claim["status"]["phase"] == "Bound" && claim["metadata"]["deletionTimestamp"].is_null()
                })
            })
    }

    /// The pod is started with what its claims are bound to.
    pub fn mount(&mut self, pod: &Value) {
        let uid = text(pod, "/metadata/uid").to_owned();
        if self.storage.mounted.contains_key(&uid) {
            return;
        }
        let volume = |name: String| {
            let claim = self.api.get("v1 PersistentVolumeClaim", "default", &name);
            claim.map(|claim| text(claim, "/spec/volumeName").to_owned())
        };
        let volumes: Vec<String> = claims_of(pod).filter_map(volume).collect();
        if !volumes.is_empty() {
            self.storage.mounted.insert(uid, volumes);
        }
    }

    /// A user deletes a claim, whoever uses it.
    pub fn delete_a_claim(&mut self) {
        let claims: Vec<Value> = self.api.list("v1 PersistentVolumeClaim").cloned().collect();
        if !claims.is_empty() {
            let claim = &claims[self.random.below(claims.len())];
            self.storage.kept.remove(text(claim, "/metadata/uid"));
            self.api.delete(&reference(claim), None, None);
        }
    }

    /// A pod that came to its node after its claim was told to go never starts, and holds the claim:
    /// the user who deleted the one has to delete the other. True if there was such a pod.
    fn free_the_stuck(&mut self) -> bool {
        let stuck = |pod: &&Value| {
            !text(pod, "/spec/nodeName").is_empty()
                && pod["metadata"]["deletionTimestamp"].is_null()
                && !workloads::has_ended(pod)
                && !self.has_claims(pod)
        };
        let pods: Vec<Value> = self.api.list("v1 Pod").filter(stuck).cloned().collect();
        pods.iter().for_each(|pod| {
            self.api.delete(&reference(pod), None, None);
        });
        !pods.is_empty()
    }

    /// What must hold at every step.
    pub fn check_storage(&mut self) {
        let claims: BTreeMap<String, Value> = self
            .api
            .list("v1 PersistentVolumeClaim")
            .map(|c| (text(c, "/metadata/uid").to_owned(), c.clone()))
            .collect();
        let holds = |uid: &str, volume: &str| {
            let named = claims.get(uid).map(|c| text(c, "/spec/volumeName"));
            named.is_some_and(|named| named.is_empty() || named == volume)
        };
        for entry in self.api.log[self.storage.read..].iter().filter(|e| e.kind == "v1 PersistentVolume") {
            let volume = &entry.object;
            let (name, uid) = (text(volume, "/metadata/name"), text(volume, "/spec/claimRef/uid"));
            let released = volume["status"]["phase"] == "Released";
            assert!(
                !released || !holds(uid, name),
                "{name} is released under its claim:\n{}",
                self.api.tail(40)
            );
            let volume_uid = text(volume, "/metadata/uid").to_owned();
            let before = self.storage.promised.insert(volume_uid, uid.to_owned()).unwrap_or_default();
            let moved = before != uid && !before.is_empty() && !uid.is_empty();
            assert!(!moved || !holds(&before, name), "{name} is promised twice:\n{}", self.api.tail(40));
        }
        self.storage.read = self.api.log.len();
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (uid, claim) in &claims {
            let (name, volume) = (text(claim, "/metadata/name"), text(claim, "/spec/volumeName"));
            if text(claim, "/metadata/name").starts_with("data-sa-")
                && claim["metadata"]["deletionTimestamp"].is_null()
            {
                self.storage.kept.insert(uid.clone());
            }
            if volume.is_empty() {
                continue;
            }
            let other = owners.insert(volume, name);
            assert!(other.is_none(), "{other:?} and {name} have one volume:\n{}", self.api.tail(40));
            let there = self.storage.directories.contains(volume);
            assert!(there, "the data of {name} is gone:\n{}", self.api.tail(40));
        }
        for uid in &self.storage.kept {
            assert!(claims.contains_key(uid), "a claim that is to be kept is gone:\n{}", self.api.tail(40));
        }
        for pod in self.api.list("v1 Pod").filter(|pod| !workloads::has_ended(pod)) {
            for volume in self.storage.mounted.get(text(pod, "/metadata/uid")).into_iter().flatten() {
                let there = self.storage.directories.contains(volume);
                assert!(there, "{volume} is taken from a running pod:\n{}", self.api.tail(40));
            }
        }
    }

    /// True for a claim on its way out that a pod still uses, and for its volume.
    pub fn is_held_by_a_pod(&self, object: &Value) -> bool {
        let name = match text(object, "/kind") {
            "PersistentVolumeClaim" => text(object, "/metadata/name"),
            "PersistentVolume" => text(object, "/spec/claimRef/name"),
            _ => return false,
        };
        self.api
            .list("v1 Pod")
            .any(|pod| !text(pod, "/spec/nodeName").is_empty() && claims_of(pod).any(|claim| claim == name))
    }

    /// True for a pod that its set has left behind, without a claim that it names: nobody makes it.
    pub fn is_forsaken(&self, pod: &Value) -> bool {
        pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty) && !self.has_claims(pod)
    }

    /// What must hold when nothing is left to do.
    pub fn check_storage_at_rest(&self) {
        for pod in self.api.list("v1 Pod").filter(|pod| !workloads::has_ended(pod)) {
            assert!(
                self.has_claims(pod) || self.is_forsaken(pod),
                "{} has not got its claims:\n{}",
                text(pod, "/metadata/name"),
                self.api.tail(60)
            );
        }
        let volumes: BTreeSet<&str> =
            self.api.list("v1 PersistentVolume").map(|v| text(v, "/metadata/name")).collect();
        for volume in self.api.list("v1 PersistentVolume") {
            assert_eq!(volume["status"]["phase"], "Bound", "{volume:#}");
        }
        let directories: BTreeSet<&str> = self.storage.directories.iter().map(String::as_str).collect();
        assert!(volumes.is_subset(&directories), "{volumes:?} of {directories:?}");
        // Of a claim that went while its node was gone the directory may be left, but never its data.
        for left in directories.difference(&volumes) {
            let was_used = self.storage.mounted.values().flatten().any(|volume| volume == left);
            assert!(!was_used, "{left} is left on its node:\n{}", self.api.tail(60));
        }
        // What goes along with its set leaves nothing but what the set still owns: of a pod that was
        // lost before the set was scaled down, the claim stays until the set goes.
        for claim in self.api.list("v1 PersistentVolumeClaim") {
            let owners = claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            for owner in owners {
                let alive = self.api.objects.values().any(|o| o["metadata"]["uid"] == owner["uid"]);
                let alive = alive || self.is_held_by_a_pod(claim);
                assert!(alive, "{} is left over: {claim:#}", text(claim, "/metadata/name"));
            }
        }
    }
}

/// Lets every node's provisioner work; true if one had something to do.
pub fn provision_everywhere(world: &mut World) -> bool {
    NODES.iter().fold(world.free_the_stuck(), |done, node| world.provision(node) || done)
}
