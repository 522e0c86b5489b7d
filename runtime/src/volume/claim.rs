//! Volumes that a pod has through a claim: which path of the node they are.
//!
//! Fed with the claim and the volume that it is bound to; what was found is noted beside the
//! pod's other volumes, so that a pod which has its volume keeps it whatever becomes of the claim,
//! also when the agent comes back. The note is also how it is known that a path is in use.
//! Source: <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#claims-as-volumes>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, NodeSelector, NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim,
    Pod, Volume,
};
use proa_api::references;
use proa_api::selector::{Operator, Requirement};
use serde::{Deserialize, Serialize};

use crate::node::paths::Paths;

/// Labels of the node.
pub type Labels = BTreeMap<String, String>;

/// What was fetched from the API for the claims of a pod that have not been found yet.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// By name.
    pub claims: BTreeMap<String, Fetched>,
    /// Labels of the node, if a claim is looked for.
    pub node_labels: Labels,
}

/// What the API server has of one claim that a pod mounts.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// The claim.
    pub claim: Option<PersistentVolumeClaim>,
    /// The volume that it names.
    pub volume: Option<PersistentVolume>,
}

/// Where a claim's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The PersistentVolume's name.
    pub volume: String,
    /// The path on this node.
    pub path: PathBuf,
    /// Whoever has the claim may only read.
    pub read_only: bool,
}

/// What has to be done at the path before it is used.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepare {
    /// What a hostPath volume of this type asks for.
    HostPath(HostPathVolumeSource),
    /// It must be there; the pod's `fsGroup` gets it.
    Local,
}

/// The name of the claim behind a volume, if there is one.
pub fn name(pod: &Pod, volume: &Volume) -> Option<String> {
    references::claim(pod.metadata.name.as_deref().unwrap_or_default(), volume)
}

/// The claims that a pod mounts and that have not been found yet.
pub fn wanted(pod: &Pod, paths: &Paths) -> BTreeSet<String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let named = volumes.iter().filter_map(|volume| Some((volume, name(pod, volume)?)));
    named.filter(|(volume, _)| noted(paths, uid, &volume.name).is_none()).map(|(_, name)| name).collect()
}

/// What was noted when the volume was put in place.
pub fn noted(paths: &Paths, uid: &str, volume: &str) -> Option<Found> {
    serde_json::from_slice(&std::fs::read(paths.claim(uid, volume)).ok()?).ok()
}

/// Notes what was found.
pub fn note(paths: &Paths, uid: &str, volume: &str, found: &Found) -> std::io::Result<()> {
    let path = paths.claim(uid, volume);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let next = path.with_extension("new");
    std::fs::write(&next, serde_json::to_vec(found)?)?;
    std::fs::rename(next, path)
}

/// True if a pod of this node has the PersistentVolume, by the notes.
pub fn in_use(paths: &Paths, volume: &str) -> std::io::Result<bool> {
    let entries = |dir: &Path| match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    for pod in entries(&paths.volumes())? {
        for entry in entries(&pod.path().join("claims"))? {
            // What cannot be read may be anything.
            let found = std::fs::read(entry.path()).ok();
            let found = found.and_then(|bytes| serde_json::from_slice::<Found>(&bytes).ok());
            if found.is_none_or(|found| found.volume == volume) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Where the files of a pod's volume are. An error is the rest of a `FailedMount` message.
pub fn find(
    pod: &Pod,
    volume: &Volume,
    fetched: &Fetched,
    node: &Labels,
) -> Result<(Found, Prepare), String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = name(pod, volume).unwrap_or_default();
    let failed = |why: String| format!("error processing PVC {namespace}/{name}: {why}");
    let Some(claim) = &fetched.claim else {
        let text =
            format!("failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found");
        return Err(failed(text));
    };
    if volume.ephemeral.is_some() && !is_owner(pod, claim) {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        let text =
            format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)");
        return Err(failed(text));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("can't start pod because PVC {namespace}/{name} is being deleted"));
    }
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|_| bound);
    let Some(volume_name) = volume_name.filter(|name| !name.is_empty()) else {
        return Err(failed("PVC is not bound".to_owned()));
    };
    let Some(found) = &fetched.volume else {
        let text = format!(
            "failed to fetch PV {volume_name} from API server: persistentvolumes \"{volume_name}\" not found"
        );
        return Err(failed(text));
    };
    promised(found, claim, volume_name).map_err(failed)?;
    at(found, volume_name, node).map(|(path, prepare)| {
        let read_only = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only).unwrap_or(false);
        (Found { volume: volume_name.to_owned(), path, read_only }, prepare)
    })
}

fn is_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref())
}

fn promised(volume: &PersistentVolume, claim: &PersistentVolumeClaim, name: &str) -> Result<(), String> {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object \"{name}\" but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid == claim.metadata.uid {
        return Ok(());
    }
    let text = |uid: &Option<String>| uid.clone().unwrap_or_default();
    Err(format!(
        "found PV object \"{name}\" but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {}",
        text(&reference.uid),
        text(&claim.metadata.uid)
    ))
}

fn at(volume: &PersistentVolume, name: &str, node: &Labels) -> Result<(PathBuf, Prepare), String> {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("PersistentVolume {name}: spec.volumeMode: Block is not supported by this node"));
    }
    if spec.mount_options.is_some_and(|options| !options.is_empty()) {
        return Err(format!("PersistentVolume {name}: spec.mountOptions is not supported by this node"));
    }
    if let Some(selector) = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref())
        && !matches(selector, node)
    {
        return Err("storage node affinity check failed : no matching NodeSelectorTerms".to_owned());
    }
    if let Some(local) = spec.local {
        return Ok((PathBuf::from(local.path), Prepare::Local));
    }
    if let Some(host) = spec.host_path {
        return Ok((PathBuf::from(&host.path), Prepare::HostPath(host)));
    }
    let spec = serde_json::to_value(volume.spec.clone().unwrap_or_default()).unwrap_or_default();
    let field = SOURCES.iter().find(|field| spec.get(**field).is_some()).unwrap_or(&"source");
    Err(format!("PersistentVolume {name}: spec.{field} is not supported by this node"))
}

/// Kinds of storage that this node cannot mount.
const SOURCES: [&str; 20] = [
    "nfs",
    "csi",
    "iscsi",
    "fc",
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// True if a node with these labels is meant. Of fields only the name is there to be asked for,
/// and volumes are not matched by it.
pub fn matches(selector: &NodeSelector, node: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        !expressions.is_empty() && fields.is_empty() && expressions.iter().all(|e| holds(e, node))
    })
}

fn holds(expression: &NodeSelectorRequirement, node: &Labels) -> bool {
    let operator = match expression.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return false,
    };
    let values = expression.values.clone().unwrap_or_default();
    let requirement = Requirement { key: expression.key.clone(), operator, values };
    requirement.matches(node.get(&expression.key).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn merged(mut base: Value, patch: Value) -> Value {
        fn merge(target: &mut Value, patch: Value) {
            match (target, patch) {
                (Value::Object(target), Value::Object(patch)) => {
                    patch.into_iter().for_each(|(k, v)| merge(target.entry(k).or_insert(Value::Null), v));
                }
                (target, patch) => *target = patch,
            }
        }
        merge(&mut base, patch);
        base
    }

    /// The path, or the error.
    fn check(claim: Value, volume: Value, expected: Result<&str, &str>) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
        }))
        .unwrap();
        let base = json!({
            "metadata": {"name": "c", "uid": "cu"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"},
        });
        let claim = (!claim.is_null()).then(|| serde_json::from_value(merged(base, claim)).unwrap());
        let base = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "cu"}}});
        let volume = (!volume.is_null()).then(|| serde_json::from_value(merged(base, volume)).unwrap());
        let node = Labels::from([("kubernetes.io/hostname".to_owned(), "here".to_owned())]);
        let wanted = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        let found = find(&pod, wanted, &Fetched { claim, volume }, &node);
        let found = found.map(|(found, _)| found.path.to_string_lossy().into_owned());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    fn on(host: &str) -> Value {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]});
        json!({"spec": {"local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}})
    }

    #[test]
    fn a_pod_waits_for_its_claim() {
        check(
            Value::Null,
            Value::Null,
            Err(
                "error processing PVC n/c: failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found",
            ),
        );
        check(
            json!({"status": {"phase": "Pending"}}),
            Value::Null,
            Err("error processing PVC n/c: PVC is not bound"),
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            on("here"),
            Err("can't start pod because PVC n/c is being deleted"),
        );
        check(
            json!({}),
            json!({"spec": {"claimRef": {"uid": "other"}}}),
            Err(
                "error processing PVC n/c: found PV object \"pv\" but its pv.Spec.ClaimRef.UID other does not point to \
                 claim.UID cu",
            ),
        );
    }

    #[test]
    fn what_a_volume_is_made_of() {
        check(json!({}), on("here"), Ok("/x"));
        check(
            json!({}),
            on("there"),
            Err("storage node affinity check failed : no matching NodeSelectorTerms"),
        );
        check(json!({}), json!({"spec": {"hostPath": {"path": "/y"}}}), Ok("/y"));
        check(
            json!({}),
            json!({"spec": {"nfs": {"server": "s", "path": "/"}}}),
            Err("PersistentVolume pv: spec.nfs is not supported by this node"),
        );
        check(
            json!({}),
            json!({"spec": {"hostPath": {"path": "/y"}, "volumeMode": "Block"}}),
            Err("PersistentVolume pv: spec.volumeMode: Block is not supported by this node"),
        );
    }

    #[test]
    fn notes_tell_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        assert!(!in_use(&paths, "pv").unwrap());
        let found = Found { volume: "pv".to_owned(), path: "/x".into(), read_only: false };
        note(&paths, "u", "v", &found).unwrap();
        assert_eq!(noted(&paths, "u", "v"), Some(found));
        assert!(in_use(&paths, "pv").unwrap() && !in_use(&paths, "other").unwrap());
        std::fs::write(paths.claim("u", "w"), "half").unwrap();
        assert!(in_use(&paths, "other").unwrap(), "a note that cannot be read may be any");
    }

    #[test]
    fn notes_of_every_version_are_read() {
        let found = Found { volume: "v".to_owned(), path: "/data/v".into(), read_only: true };
        let written = r#"{"volume":"v","path":"/data/v","read_only":true}"#;
        assert_eq!(serde_json::to_string(&found).unwrap(), written);
        let later = written.replace('}', r#","of_a_later_version":1}"#);
        for text in [written, &later] {
            assert_eq!(serde_json::from_str::<Found>(text).unwrap(), found);
        }
    }
}
