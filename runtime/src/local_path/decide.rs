//! What the provisioner of local paths has to do on one node. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::names::{
    ANNOTATION_PROVISIONED_BY, ANNOTATION_SELECTED_NODE, ANNOTATION_STORAGE_PROVISIONER, LABEL_HOSTNAME,
    LOCAL_PATH_PROVISIONER, STORAGE,
};

/// What StorageClasses name, and who Events come from.
pub const PROVISIONER: &str = LOCAL_PATH_PROVISIONER;
/// Held on a volume until its directory is removed.
pub const FINALIZER: &str = "proa.dev/local-path";

/// What one node's provisioner sees.
pub struct Seen<'a> {
    /// All claims.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// All classes.
    pub classes: &'a [Arc<StorageClass>],
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make a directory and this volume for the claim.
    Provision {
        /// For whom.
        claim: Arc<PersistentVolumeClaim>,
        /// What.
        volume: Box<PersistentVolume>,
    },
    /// Tell that the claim cannot be served.
    Refuse {
        /// Which.
        claim: Arc<PersistentVolumeClaim>,
        /// Why, with the field.
        message: String,
    },
    /// Remove the volume with its data, if the API server confirms it.
    Remove {
        /// Which.
        volume: Arc<PersistentVolume>,
    },
    /// Let the volume go without its data: the user keeps that.
    LetGo {
        /// Which.
        volume: Arc<PersistentVolume>,
    },
}

impl Action {
    /// The name of the volume that it is about.
    pub fn volume(&self) -> &str {
        match self {
            Action::Provision { volume, .. } => name(&volume.metadata),
            Action::Remove { volume } | Action::LetGo { volume } => name(&volume.metadata),
            Action::Refuse { claim, .. } => claim.metadata.uid.as_deref().unwrap_or_default(),
        }
    }
}

/// Decides what is to be done on a node whose volumes lie in `root`.
pub fn decide(seen: &Seen<'_>, node: &str, root: &Path) -> Vec<Action> {
    let made = seen.claims.iter().filter_map(|claim| for_claim(seen, claim, node, root));
    let of_node = seen.volumes.iter().filter(|volume| is_here(volume, node));
    let gone = of_node.filter_map(|volume| for_volume(seen, volume));
    made.chain(gone).collect()
}

fn for_claim(seen: &Seen<'_>, claim: &Arc<PersistentVolumeClaim>, node: &str, root: &Path) -> Option<Action> {
    let meta = &claim.metadata;
    let spec = claim.spec.as_ref()?;
    let bound = spec.volume_name.as_deref().is_some_and(|name| !name.is_empty());
    let ours = annotation(meta, ANNOTATION_STORAGE_PROVISIONER) == Some(PROVISIONER)
        && annotation(meta, ANNOTATION_SELECTED_NODE) == Some(node);
    if !ours || bound || meta.deletion_timestamp.is_some() {
        return None;
    }
    let class_name = spec.storage_class_name.as_deref()?;
    let class = seen.classes.iter().find(|class| class.metadata.name.as_deref() == Some(class_name))?;
    let volume_name = format!("pvc-{}", meta.uid.as_deref()?);
    let exists = seen.volumes.iter().any(|volume| name(&volume.metadata) == volume_name);
    if class.provisioner != PROVISIONER || exists {
        return None;
    }
    let claim = Arc::clone(claim);
    Some(match refusal(&claim, class) {
        Some(message) => Action::Refuse { claim, message },
        None => {
            let volume = Box::new(volume(&claim, class, &volume_name, node, root));
            Action::Provision { claim, volume }
        }
    })
}

/// What cannot be had as a directory.
fn refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.as_ref()?;
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

fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    volume_name: &str,
    node: &str,
    root: &Path,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|r| r.requests).unwrap_or_default();
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned());
    let here = NodeSelectorRequirement {
        key: LABEL_HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name.to_owned()),
            annotations: Some(BTreeMap::from([(
                ANNOTATION_PROVISIONED_BY.to_owned(),
                PROVISIONER.to_owned(),
            )])),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(requests.into_iter().filter(|(name, _)| name == STORAGE).collect()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: claim.metadata.name.clone(),
                namespace: claim.metadata.namespace.clone(),
                uid: claim.metadata.uid.clone(),
                resource_version: claim.metadata.resource_version.clone(),
                field_path: None,
            }),
            local: Some(LocalVolumeSource {
                path: root.join(volume_name).to_string_lossy().into_owned(),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

fn for_volume(seen: &Seen<'_>, volume: &Arc<PersistentVolume>) -> Option<Action> {
    if is_removable(volume) {
        let has_claim = seen.claims.iter().any(|claim| is_of(volume, claim));
        return (!has_claim).then(|| Action::Remove { volume: Arc::clone(volume) });
    }
    let spec = volume.spec.as_ref()?;
    let held = volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let keeps = spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete");
    let leaving = volume.metadata.deletion_timestamp.is_some();
    (held && keeps && leaving).then(|| Action::LetGo { volume: Arc::clone(volume) })
}

/// True for a volume of this provisioner that the binder has released and whose policy has it
/// removed.
pub fn is_removable(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    annotation(&volume.metadata, ANNOTATION_PROVISIONED_BY) == Some(PROVISIONER)
        && policy == Some("Delete")
        && phase == Some("Released")
}

/// True if the volume is this claim's, unless the claim has another one.
pub fn is_of(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    reference.is_some_and(|r| r.uid == claim.metadata.uid)
        && (named.is_empty() || named == name(&volume.metadata))
}

/// True if the volume was made by the provisioner of this node.
fn is_here(volume: &PersistentVolume, node: &str) -> bool {
    let affinity =
        volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    let expressions = affinity.iter().flat_map(|selector| &selector.node_selector_terms);
    let mut expressions = expressions.flat_map(|term| term.match_expressions.iter().flatten());
    let values = |e: &NodeSelectorRequirement| e.values.clone().unwrap_or_default();
    annotation(&volume.metadata, ANNOTATION_PROVISIONED_BY) == Some(PROVISIONER)
        && expressions.any(|e| e.key == LABEL_HOSTNAME && e.operator == "In" && values(e) == [node])
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn merge(target: &mut Value, patch: Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                patch.into_iter().for_each(|(k, v)| merge(target.entry(k).or_insert(Value::Null), v));
            }
            (target, patch) => *target = patch,
        }
    }

    fn of<K: serde::de::DeserializeOwned>(mut base: Value, patch: Value) -> Arc<K> {
        merge(&mut base, patch);
        Arc::new(serde_json::from_value(base).unwrap())
    }

    fn claim(patch: Value) -> Arc<PersistentVolumeClaim> {
        let annotations = json!({
            "volume.kubernetes.io/selected-node": "n1",
            "volume.kubernetes.io/storage-provisioner": "proa.dev/local-path",
        });
        let base = json!({
            "metadata": {"name": "c", "namespace": "d", "uid": "u1", "annotations": annotations},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        of(base, patch)
    }

    fn class(patch: Value) -> Arc<StorageClass> {
        of(
            json!({"metadata": {"name": "local-path"}, "provisioner": "proa.dev/local-path", "reclaimPolicy": "Delete"}),
            patch,
        )
    }

    /// What was made for the claim, on node n1.
    fn made(patch: Value) -> Arc<PersistentVolume> {
        let Action::Provision { volume, .. } = &look(&[claim(json!({}))], &[], json!({}))[0] else {
            panic!()
        };
        let mut base = serde_json::to_value(volume).unwrap();
        base["status"] = json!({"phase": "Bound"});
        of(base, patch)
    }

    fn look(
        claims: &[Arc<PersistentVolumeClaim>],
        volumes: &[Arc<PersistentVolume>],
        class_patch: Value,
    ) -> Vec<Action> {
        let seen = Seen { claims, volumes, classes: &[class(class_patch)] };
        decide(&seen, "n1", Path::new("/data/volumes-local"))
    }

    fn check(claims: &[Arc<PersistentVolumeClaim>], volumes: &[Arc<PersistentVolume>], expected: &[&str]) {
        let found = look(claims, volumes, json!({}));
        let lines = found.iter().map(|action| match action {
            Action::Provision { .. } => format!("provision {}", action.volume()),
            Action::Refuse { message, .. } => format!("refuse {message}"),
            Action::Remove { .. } => format!("remove {}", action.volume()),
            Action::LetGo { .. } => format!("let go {}", action.volume()),
        });
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_claim_whose_node_was_chosen_gets_a_directory() {
        check(&[claim(json!({}))], &[], &["provision pvc-u1"]);
        let other = |patch: Value| check(&[claim(patch)], &[], &[]);
        other(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}}));
        other(json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "x"}}}));
        other(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        other(json!({"spec": {"volumeName": "v"}}));
        other(json!({"spec": {"storageClassName": "other"}}));
        check(&[claim(json!({}))], &[made(json!({}))], &[]);
        let volume = made(json!({}));
        let spec = volume.spec.as_ref().unwrap();
        assert_eq!(spec.local.as_ref().unwrap().path, "/data/volumes-local/pvc-u1");
        assert_eq!(spec.claim_ref.as_ref().unwrap().uid.as_deref(), Some("u1"));
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    }

    #[test]
    fn what_cannot_be_a_directory_is_refused() {
        let refused = |patch: Value, text: &str| check(&[claim(patch)], &[], &[&format!("refuse {text}")]);
        refused(
            json!({"spec": {"accessModes": ["ReadWriteMany"]}}),
            "spec.accessModes: ReadWriteMany is not supported by proa.dev/local-path: a directory of one node",
        );
        refused(
            json!({"spec": {"volumeMode": "Block"}}),
            "spec.volumeMode: Block is not supported by proa.dev/local-path",
        );
        refused(
            json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}}),
            "spec.dataSource is not supported by proa.dev/local-path",
        );
        let found = look(&[claim(json!({}))], &[], json!({"parameters": {"nodePath": "/x"}}));
        assert!(
            matches!(&found[0], Action::Refuse { message, .. } if message.starts_with("parameters.nodePath"))
        );
    }

    #[test]
    fn data_goes_only_when_the_claim_is_gone() {
        let released = || made(json!({"status": {"phase": "Released"}}));
        check(&[], &[released()], &["remove pvc-u1"]);
        check(&[claim(json!({"spec": {"volumeName": "pvc-u1"}}))], &[released()], &[]);
        // It has another one, or another claim has its name.
        check(&[claim(json!({"spec": {"volumeName": "other"}}))], &[released()], &["remove pvc-u1"]);
        let namesake = claim(json!({"metadata": {"uid": "u2"}, "spec": {"volumeName": "other"}}));
        check(&[namesake], &[released()], &["remove pvc-u1"]);
        check(&[], &[made(json!({}))], &[]);
        check(&[], &[made(json!({"status": {"phase": "Failed"}}))], &[]);
        let keep =
            json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Released"}});
        check(&[], &[made(keep.clone())], &[]);
        let mut leaving = keep;
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        check(&[], &[made(leaving)], &["let go pvc-u1"]);
        // Somebody else's, or another node's.
        let foreign = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}, "status": {"phase": "Released"}});
        check(&[], &[made(foreign)], &[]);
        let seen = Seen { claims: &[], volumes: &[released()], classes: &[] };
        assert_eq!(decide(&seen, "n2", Path::new("/data")), []);
    }
}
