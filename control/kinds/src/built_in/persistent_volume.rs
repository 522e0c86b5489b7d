//! PersistentVolume: a piece of storage that a claim can be bound to.

use k8s_openapi::api::core::v1::{LocalVolumeSource, PersistentVolume, PersistentVolumeSpec};
use proa_api::field::{FieldErrors, Path};
use proa_api::names::STORAGE;
use proa_api::quantity::Amount;

use super::pod::{scheduling, volume};
use super::storage_modes::{
    VOLUME_MODES, access_modes, access_modes_column, attributes_class_column, deleting_or_phase, positive,
};
use crate::Kind;
use crate::columns::{age, column, name, text, wide};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};

const SPEC: Path<'static> = Path::root("spec");
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];

/// The rules of PersistentVolumes.
pub struct PersistentVolumes;

/// The row of PersistentVolumes.
pub fn kind() -> Kind {
    Kind {
        short_names: vec!["pv".into()],
        columns: vec![
            name(),
            column("Capacity", "string", "What the volume holds.", |o, _| {
                text(o, "/spec/capacity/storage").into()
            }),
            column("Access Modes", "string", "How the volume may be mounted.", |o, _| {
                access_modes_column(o, "/spec/accessModes").into()
            }),
            column("Reclaim Policy", "string", "What becomes of it when its claim is gone.", |o, _| {
                text(o, "/spec/persistentVolumeReclaimPolicy").into()
            }),
            column("Status", "string", "Phase of the volume.", |o, _| deleting_or_phase(o).into()),
            column("Claim", "string", "The claim that it is bound to.", |o, _| claim(o).into()),
            column("StorageClass", "string", "Name of the StorageClass it belongs to.", |o, _| {
                text(o, "/spec/storageClassName").into()
            }),
            column("VolumeAttributesClass", "string", "Name of its VolumeAttributesClass.", |o, _| {
                attributes_class_column(o).into()
            }),
            column("Reason", "string", "Why it is in its phase.", |o, _| text(o, "/status/reason").into()),
            age(),
            wide("VolumeMode", "Whether the volume has a filesystem.", |o, _| {
                match text(o, "/spec/volumeMode") {
                    "" => "<unset>".into(),
                    mode => mode.into(),
                }
            }),
        ],
        ..row::<PersistentVolumes>()
    }
}

fn claim(volume: &serde_json::Value) -> String {
    match volume.pointer("/spec/claimRef") {
        None => String::new(),
        Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
    }
}

impl TypedRules for PersistentVolumes {
    type Object = PersistentVolume;
    const NAMESPACED: bool = false;
    const HAS_STATUS: bool = true;

    fn default(volume: &mut PersistentVolume) {
        let spec = volume.spec.get_or_insert_default();
        spec.persistent_volume_reclaim_policy.get_or_insert_with(|| "Retain".to_owned());
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        // A claim tells no class from a class of no name; a volume does not.
        spec.storage_class_name.take_if(|class| class.is_empty());
        if let Some(path) = &mut spec.host_path {
            path.type_.get_or_insert_default();
        }
        if let Some(iscsi) = &mut spec.iscsi {
            iscsi.iscsi_interface.get_or_insert_with(|| "default".to_owned());
        }
        volume.status.get_or_insert_default().phase.get_or_insert_with(|| "Pending".to_owned());
    }

    fn validate(volume: &PersistentVolume, errors: &mut FieldErrors) {
        let Some(spec) = &volume.spec else { return };
        usage(spec, errors);
        source(spec, &SPEC, errors);
        let root = spec.host_path.as_ref().is_some_and(|host| is_root(&host.path));
        if root && spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
            errors.forbidden(
                &SPEC.field("persistentVolumeReclaimPolicy"),
                "may not be 'recycle' for a hostPath mount of '/'",
            );
        }
        if let Some(class) = spec.storage_class_name.as_deref() {
            report(syntax::subdomain(class), &SPEC.field("storageClassName"), class, errors);
        }
        if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !VOLUME_MODES.contains(mode)) {
            errors.not_supported(&SPEC.field("volumeMode"), mode, &VOLUME_MODES);
        }
        if let Some(class) = spec.volume_attributes_class_name.as_deref() {
            report(syntax::subdomain(class), &SPEC.field("volumeAttributesClassName"), class, errors);
            if spec.csi.is_none() {
                errors
                    .required(&SPEC.field("csi"), "has to be specified when using volumeAttributesClassName");
            }
        }
    }

    fn validate_update(old: &PersistentVolume, new: &PersistentVolume, errors: &mut FieldErrors) {
        let (Some(before), Some(after)) = (&old.spec, &new.spec) else { return };
        if sources_of(before) != sources_of(after) {
            let text = "spec.persistentvolumesource is immutable after creation";
            errors.forbidden(&SPEC.field("persistentvolumesource"), text);
        }
        if before.volume_mode != after.volume_mode {
            let value = serde_json::to_value(&after.volume_mode).unwrap_or_default();
            errors.invalid(&Path::root("volumeMode"), value, IMMUTABLE);
        }
        if before.node_affinity.is_some() && before.node_affinity != after.node_affinity {
            let value = serde_json::to_value(&after.node_affinity).unwrap_or_default();
            errors.invalid(&Path::root("nodeAffinity"), value, IMMUTABLE);
        }
    }
}

/// `/`, `//`, `/./`: a path that names nothing below the root.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|step| step.is_empty() || step == ".")
}

/// What is wrong with how a volume is to be used.
fn usage(spec: &PersistentVolumeSpec, errors: &mut FieldErrors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&SPEC.field("accessModes"), "");
    }
    access_modes(modes, &SPEC.field("accessModes"), errors);
    let path = SPEC.field("capacity");
    match &spec.capacity {
        None => errors.required(&path, ""),
        Some(capacity) => {
            if !capacity.contains_key(STORAGE) || capacity.len() > 1 {
                let value = serde_json::to_value(capacity).unwrap_or_default();
                errors.not_supported(&path, value, &[STORAGE]);
            }
            for (resource, amount) in capacity {
                let at = path.key(resource);
                if Amount::parse(&amount.0).is_ok_and(Amount::is_negative) {
                    errors.invalid(&at, amount.0.as_str(), "must be a valid resource quantity");
                }
                positive(amount, &at, errors);
            }
        }
    }
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !RECLAIM_POLICIES.contains(&policy) {
        errors.not_supported(&SPEC.field("persistentVolumeReclaimPolicy"), policy, &RECLAIM_POLICIES);
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = SPEC.field("nodeAffinity");
        match &affinity.required {
            None => errors.required(&path.field("required"), "must specify required node constraints"),
            Some(selector) => scheduling::node_selector(selector, &path.field("required"), errors),
        }
    }
}

/// What is wrong with where the storage is. `path` is that of the spec that holds the source.
pub fn source(spec: &PersistentVolumeSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let sources = sources(spec);
    let Some((first, more)) = sources.split_first() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    for field in more {
        errors.forbidden(&path.field(field), "may not specify more than 1 volume type");
    }
    let at = path.field(first);
    let mut needed = |field: &str, value: &str| {
        if value.is_empty() {
            errors.required(&at.field(field), "");
        }
    };
    if let (&"nfs", Some(nfs)) = (first, &spec.nfs) {
        needed("server", &nfs.server);
        needed("path", &nfs.path);
        if !nfs.path.is_empty() && !nfs.path.starts_with('/') {
            errors.invalid(&at.field("path"), nfs.path.as_str(), "must be an absolute path");
        }
    } else if let (&"csi", Some(csi)) = (first, &spec.csi) {
        needed("driver", &csi.driver);
        needed("volumeHandle", &csi.volume_handle);
    } else if let (&"iscsi", Some(iscsi)) = (first, &spec.iscsi) {
        needed("targetPortal", &iscsi.target_portal);
        needed("iqn", &iscsi.iqn);
    }
    if let Some(host) = &spec.host_path {
        volume::host_path(host, &at, errors);
    } else if let Some(local) = &spec.local {
        self::local(local, spec, path, errors);
    }
}

fn local(local: &LocalVolumeSource, spec: &PersistentVolumeSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.field("local");
    if local.path.is_empty() {
        errors.required(&at.field("path"), "");
    } else {
        volume::no_backsteps(&local.path, &at.field("path"), errors);
    }
    if spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()).is_none() {
        errors.required(&path.field("nodeAffinity"), "Local volume requires node affinity");
    }
}

/// The names of the sources that a volume has; it should have one.
pub fn sources(spec: &PersistentVolumeSpec) -> Vec<&'static str> {
    let all = [
        ("hostPath", spec.host_path.is_some()),
        ("local", spec.local.is_some()),
        ("nfs", spec.nfs.is_some()),
        ("csi", spec.csi.is_some()),
        ("iscsi", spec.iscsi.is_some()),
        ("fc", spec.fc.is_some()),
        ("awsElasticBlockStore", spec.aws_elastic_block_store.is_some()),
        ("azureDisk", spec.azure_disk.is_some()),
        ("azureFile", spec.azure_file.is_some()),
        ("cephfs", spec.cephfs.is_some()),
        ("cinder", spec.cinder.is_some()),
        ("flexVolume", spec.flex_volume.is_some()),
        ("flocker", spec.flocker.is_some()),
        ("gcePersistentDisk", spec.gce_persistent_disk.is_some()),
        ("glusterfs", spec.glusterfs.is_some()),
        ("photonPersistentDisk", spec.photon_persistent_disk.is_some()),
        ("portworxVolume", spec.portworx_volume.is_some()),
        ("quobyte", spec.quobyte.is_some()),
        ("rbd", spec.rbd.is_some()),
        ("scaleIO", spec.scale_io.is_some()),
        ("storageos", spec.storageos.is_some()),
        ("vsphereVolume", spec.vsphere_volume.is_some()),
    ];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// A spec with nothing in it but where the storage is.
fn sources_of(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::Part;
    use crate::check::{created, refusals, update_refusals, updated};

    const BASE: &str = "{apiVersion: v1, kind: PersistentVolume, spec: {accessModes: [ReadWriteOnce], \
                        capacity: {storage: 1024Mi}, storageClassName: '', hostPath: {path: /data}}}";

    #[test]
    fn defaults() {
        created(
            BASE,
            expect![[r#"
            apiVersion: v1
            kind: PersistentVolume
            metadata:
              name: x
            spec:
              accessModes:
              - ReadWriteOnce
              capacity:
                storage: 1Gi
              hostPath:
                path: /data
                type: ''
              persistentVolumeReclaimPolicy: Retain
              volumeMode: Filesystem
            status:
              phase: Pending
        "#]],
        );
    }

    #[test]
    fn refused() {
        refusals(
            BASE,
            &[
                "{spec: {accessModes: []}}",
                "{spec: {capacity: null}}",
                "{spec: {capacity: {storage: '0'}}}",
                "{spec: {capacity: {cpu: '1'}}}",
                "{spec: {accessModes: [ReadWriteOncePod, ReadOnlyMany]}}",
                "{spec: {persistentVolumeReclaimPolicy: Burn}}",
                "{spec: {persistentVolumeReclaimPolicy: Recycle, hostPath: {path: //}}}",
                "{spec: {hostPath: null}}",
                "{spec: {hostPath: {path: /a/../b}}}",
                "{spec: {nfs: {server: '', path: rel}}}",
                "{spec: {hostPath: null, nfs: {server: '', path: rel}}}",
                "{spec: {hostPath: null, local: {path: /x}}}",
                "{spec: {hostPath: null, csi: {driver: ''}}}",
                "{spec: {nodeAffinity: {}}}",
                "{spec: {nodeAffinity: {required: {nodeSelectorTerms: []}}}}",
                "{spec: {storageClassName: A_b, volumeMode: Tape}}",
                "{spec: {volumeAttributesClassName: gold}}",
            ],
            expect![[r#"
                spec.accessModes: Required value
                spec.capacity: Required value
                spec.capacity[storage]: Invalid value: "0": must be greater than zero
                spec.capacity: Unsupported value: {"cpu":"1","storage":"1Gi"}: supported values: "storage"
                spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes
                spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"
                spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'
                spec: Required value: must specify a volume type
                spec.hostPath.path: Invalid value: "/a/../b": must not contain '..'
                spec.nfs: Forbidden: may not specify more than 1 volume type
                spec.nfs.server: Required value
                spec.nfs.path: Invalid value: "rel": must be an absolute path
                spec.nodeAffinity: Required value: Local volume requires node affinity
                spec.csi.driver: Required value
                spec.csi.volumeHandle: Required value
                spec.nodeAffinity.required: Required value: must specify required node constraints
                spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term
                spec.storageClassName: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"
                spec.csi: Required value: has to be specified when using volumeAttributesClassName
            "#]],
        );
    }

    /// The empty type of the path is a default, which a write of the status once took away; the
    /// next write of the rest was then refused as a change of the source.
    #[test]
    fn a_write_of_the_status_leaves_the_rest_alone() {
        updated(
            BASE,
            &BASE.replace("{path: /data}}}", "{path: /data}}, status: {phase: Available, message: ''}}"),
            Part::STATUS,
            expect![[r#"
                apiVersion: v1
                kind: PersistentVolume
                metadata:
                  name: x
                spec:
                  accessModes:
                  - ReadWriteOnce
                  capacity:
                    storage: 1Gi
                  hostPath:
                    path: /data
                    type: ''
                  persistentVolumeReclaimPolicy: Retain
                  volumeMode: Filesystem
                status:
                  phase: Available
            "#]],
        );
    }

    #[test]
    fn what_may_change() {
        update_refusals(
            BASE,
            &[
                "{spec: {persistentVolumeReclaimPolicy: Delete, capacity: {storage: 2Gi}}}",
                "{spec: {claimRef: {namespace: a, name: b}}}",
                "{spec: {hostPath: {path: /other}}}",
                "{spec: {volumeMode: Block}}",
                "{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}}",
            ],
            expect![[r#"
                accepted: {"spec":{"persistentVolumeReclaimPolicy":"Delete","capacity":{"storage":"2Gi"}}}
                accepted: {"spec":{"claimRef":{"namespace":"a","name":"b"}}}
                spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation
                volumeMode: Invalid value: "Block": field is immutable
                accepted: {"spec":{"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}}
            "#]],
        );
    }
}
