//! CSIDriver, CSINode, VolumeAttachment, VolumeAttributesClass: what drivers of storage write down.
//!
//! They are kept and checked for the drivers and operators that need them to be there. No part of
//! Proa attaches a volume or talks to a driver.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSINodeDriver, VolumeAttachment, VolumeAttributesClass,
};
use proa_api::field::{FieldErrors, Path};
use serde_json::Value;

use super::persistent_volume;
use crate::Kind;
use crate::columns::{age, column, count, items, join, name, text};
use crate::rules::{TypedRules, row};
use crate::syntax::{self, IMMUTABLE, report};

const SPEC: Path<'static> = Path::root("spec");
const NAME_MAX_BYTES: usize = 63;
const NODE_ID_MAX_BYTES: usize = 192;
const LIFECYCLE_MODES: [&str; 2] = ["Ephemeral", "Persistent"];
const FS_GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];

/// The rules of CSIDrivers.
pub struct CsiDrivers;

/// The rules of CSINodes.
pub struct CsiNodes;

/// The rules of VolumeAttachments.
pub struct VolumeAttachments;

/// The rules of VolumeAttributesClasses.
pub struct VolumeAttributesClasses;

/// The row of CSIDrivers.
pub fn driver() -> Kind {
    Kind {
        unconditional_update: false,
        columns: vec![
            name(),
            column("AttachRequired", "boolean", "Whether volumes must be attached", |o, _| {
                flag(o, "/spec/attachRequired")
            }),
            column("PodInfoOnMount", "boolean", "Whether the driver is told of the pod", |o, _| {
                flag(o, "/spec/podInfoOnMount")
            }),
            column("StorageCapacity", "boolean", "Whether the scheduler looks at its capacity", |o, _| {
                flag(o, "/spec/storageCapacity")
            }),
            column("TokenRequests", "string", "Audiences of the tokens it is given", |o, _| {
                let audiences = join(items(o, "/spec/tokenRequests").map(|t| text(t, "/audience")));
                if audiences.is_empty() { "<unset>".into() } else { audiences.into() }
            }),
            column("RequiresRepublish", "boolean", "Whether it is called again and again", |o, _| {
                flag(o, "/spec/requiresRepublish")
            }),
            column("Modes", "string", "Life cycles of its volumes", |o, _| {
                let modes = join(items(o, "/spec/volumeLifecycleModes").filter_map(Value::as_str));
                if modes.is_empty() { "<unset>".into() } else { modes.into() }
            }),
            age(),
        ],
        ..row::<CsiDrivers>()
    }
}

/// The row of CSINodes.
pub fn node() -> Kind {
    Kind {
        unconditional_update: false,
        columns: vec![
            name(),
            column("Drivers", "integer", "How many drivers are on the node", |o, _| {
                count(o, "/spec/drivers").into()
            }),
            age(),
        ],
        ..row::<CsiNodes>()
    }
}

/// The row of VolumeAttachments.
pub fn attachment() -> Kind {
    Kind {
        unconditional_update: false,
        columns: vec![
            name(),
            column("Attacher", "string", "Who attaches", |o, _| text(o, "/spec/attacher").into()),
            column("PV", "string", "What is attached", |o, _| {
                text(o, "/spec/source/persistentVolumeName").into()
            }),
            column("Node", "string", "Where to", |o, _| text(o, "/spec/nodeName").into()),
            column("Attached", "boolean", "Whether it is", |o, _| flag(o, "/status/attached")),
            age(),
        ],
        ..row::<VolumeAttachments>()
    }
}

/// The row of VolumeAttributesClasses.
pub fn attributes_class() -> Kind {
    Kind {
        short_names: vec!["vac".into()],
        columns: vec![
            name(),
            column("DriverName", "string", "The driver that understands it", |o, _| {
                text(o, "/driverName").into()
            }),
            age(),
        ],
        ..row::<VolumeAttributesClasses>()
    }
}

fn flag(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or_default().into()
}

impl TypedRules for CsiDrivers {
    type Object = CSIDriver;
    const NAMESPACED: bool = false;

    fn default(driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        spec.attach_required.get_or_insert(true);
        for flag in [
            &mut spec.pod_info_on_mount,
            &mut spec.storage_capacity,
            &mut spec.requires_republish,
            &mut spec.se_linux_mount,
        ] {
            flag.get_or_insert(false);
        }
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        spec.volume_lifecycle_modes.get_or_insert_with(|| vec!["Persistent".to_owned()]);
    }

    fn validate(driver: &CSIDriver, errors: &mut FieldErrors) {
        let meta = Path::root("metadata");
        driver_name(driver.metadata.name.as_deref().unwrap_or_default(), &meta.field("name"), errors);
        let spec = &driver.spec;
        for mode in spec.volume_lifecycle_modes.iter().flatten() {
            if !LIFECYCLE_MODES.contains(&mode.as_str()) {
                errors.not_supported(&SPEC.field("volumeLifecycleModes"), mode.as_str(), &LIFECYCLE_MODES);
            }
        }
        let policy = spec.fs_group_policy.as_deref().unwrap_or_default();
        if !FS_GROUP_POLICIES.contains(&policy) {
            errors.not_supported(&SPEC.field("fsGroupPolicy"), policy, &FS_GROUP_POLICIES);
        }
        let path = SPEC.field("tokenRequests");
        let requests = spec.token_requests.as_deref().unwrap_or_default();
        let mut audiences = BTreeSet::new();
        for (i, request) in requests.iter().enumerate() {
            if !audiences.insert(&request.audience) {
                let at = path.index(i);
                errors.duplicate(&at.field("audience"), request.audience.as_str());
            }
        }
    }

    fn validate_update(old: &CSIDriver, new: &CSIDriver, errors: &mut FieldErrors) {
        let (old, new) = (&old.spec, &new.spec);
        if old.attach_required != new.attach_required {
            errors.invalid(&SPEC.field("attachedRequired"), new.attach_required, IMMUTABLE);
        }
        if old.volume_lifecycle_modes != new.volume_lifecycle_modes {
            let value = new.volume_lifecycle_modes.clone().unwrap_or_default();
            errors.invalid(&SPEC.field("volumeLifecycleModes"), value, IMMUTABLE);
        }
    }
}

fn driver_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > NAME_MAX_BYTES {
        errors.too_long(path, NAME_MAX_BYTES);
    }
    report(syntax::subdomain(&name.to_lowercase()), path, name, errors);
}

impl TypedRules for CsiNodes {
    type Object = CSINode;
    const NAMESPACED: bool = false;

    fn validate(node: &CSINode, errors: &mut FieldErrors) {
        let path = SPEC.field("drivers");
        let mut names = BTreeSet::new();
        for (i, driver) in node.spec.drivers.iter().enumerate() {
            node_driver(driver, &path.index(i), errors);
            if !names.insert(&driver.name) {
                let at = path.index(i);
                errors.duplicate(&at.field("name"), driver.name.as_str());
            }
        }
    }

    fn validate_update(old: &CSINode, new: &CSINode, errors: &mut FieldErrors) {
        let path = SPEC.field("drivers");
        let before: BTreeMap<&str, &str> =
            old.spec.drivers.iter().map(|driver| (driver.name.as_str(), driver.node_id.as_str())).collect();
        for driver in &new.spec.drivers {
            if before.get(driver.name.as_str()).is_some_and(|node_id| *node_id != driver.node_id) {
                let value = serde_json::to_value(driver).unwrap_or_default();
                errors.invalid(&path, value, IMMUTABLE);
            }
        }
    }
}

fn node_driver(driver: &CSINodeDriver, path: &Path<'_>, errors: &mut FieldErrors) {
    driver_name(&driver.name, &path.field("name"), errors);
    let at = path.field("nodeID");
    match driver.node_id.len() {
        0 => errors.required(&at, ""),
        1..=NODE_ID_MAX_BYTES => {}
        _ => errors.invalid(&at, driver.node_id.as_str(), "must be 192 characters or less"),
    }
    if let Some(limit) = driver.allocatable.as_ref().and_then(|a| a.count).filter(|count| *count < 0) {
        let allocatable = path.field("allocatable");
        errors.invalid(&allocatable.field("count"), limit, syntax::NOT_NEGATIVE);
    }
    let keys = path.field("topologyKeys");
    let list = driver.topology_keys.as_deref().unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (i, key) in list.iter().enumerate() {
        report(syntax::qualified_name(key), &keys, key, errors);
        if !seen.insert(key) {
            errors.duplicate(&keys.index(i), key.as_str());
        }
    }
}

impl TypedRules for VolumeAttachments {
    type Object = VolumeAttachment;
    const NAMESPACED: bool = false;
    const HAS_STATUS: bool = true;

    fn validate(attachment: &VolumeAttachment, errors: &mut FieldErrors) {
        let spec = &attachment.spec;
        driver_name(&spec.attacher, &SPEC.field("attacher"), errors);
        let source = SPEC.field("source");
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => errors
                .required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (Some(_), Some(_)) => errors
                .forbidden(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (Some(inline), None) => {
                persistent_volume::source(inline, &source.field("inlineVolumeSpec"), errors);
            }
            (None, Some(name)) => {
                report(syntax::subdomain(name), &source.field("persistentVolumeName"), name, errors);
            }
        }
        let node = &SPEC.field("nodeName");
        report(syntax::subdomain(&spec.node_name), node, &spec.node_name, errors);
    }

    fn validate_update(old: &VolumeAttachment, new: &VolumeAttachment, errors: &mut FieldErrors) {
        if old.spec != new.spec {
            let value = serde_json::to_value(&new.spec).unwrap_or_default();
            errors.invalid(&SPEC, value, IMMUTABLE);
        }
    }
}

impl TypedRules for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;
    const NAMESPACED: bool = false;

    fn validate(class: &VolumeAttributesClass, errors: &mut FieldErrors) {
        match class.driver_name.as_str() {
            "" => errors.required(&Path::root("driverName"), ""),
            name => {
                report(syntax::qualified_name(&name.to_lowercase()), &Path::root("driverName"), name, errors)
            }
        }
        if class.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
            errors.required(&Path::root("parameters"), "must contain at least one key/value pair");
        }
    }

    fn validate_update(old: &VolumeAttributesClass, new: &VolumeAttributesClass, errors: &mut FieldErrors) {
        let changed = [
            ("driverName", old.driver_name != new.driver_name),
            ("parameters", old.parameters != new.parameters),
        ];
        for (field, _) in changed.iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&Path::root(field), format!("updates to {field} are forbidden."));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use crate::check::{created, refusals, update_refusals};

    const DRIVER: &str = "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: a.b}, spec: {}}";
    const NODE: &str =
        "{apiVersion: storage.k8s.io/v1, kind: CSINode, spec: {drivers: [{name: a.b, nodeID: n}]}}";
    const ATTACHMENT: &str = "{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, spec: {attacher: a.b, \
                              nodeName: n, source: {persistentVolumeName: v}}}";
    const CLASS: &str = "{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, driverName: a.b, \
                         parameters: {iops: '5'}}";

    #[test]
    fn drivers() {
        created(
            DRIVER,
            expect![[r#"
            apiVersion: storage.k8s.io/v1
            kind: CSIDriver
            metadata:
              name: a.b
            spec:
              attachRequired: true
              fsGroupPolicy: ReadWriteOnceWithFSType
              podInfoOnMount: false
              requiresRepublish: false
              seLinuxMount: false
              storageCapacity: false
              volumeLifecycleModes:
              - Persistent
        "#]],
        );
        refusals(
            DRIVER,
            &[
                "{spec: {volumeLifecycleModes: [Eternal], fsGroupPolicy: All}}",
                "{spec: {tokenRequests: [{audience: a}, {audience: a}]}}",
            ],
            expect![[r#"
                spec.volumeLifecycleModes: Unsupported value: "Eternal": supported values: "Ephemeral", "Persistent"
                spec.fsGroupPolicy: Unsupported value: "All": supported values: "File", "None", "ReadWriteOnceWithFSType"
                spec.tokenRequests[1].audience: Duplicate value: "a"
            "#]],
        );
        update_refusals(
            DRIVER,
            &["{spec: {attachRequired: false}}", "{spec: {podInfoOnMount: true}}"],
            expect![[r#"
                spec.attachedRequired: Invalid value: false: field is immutable
                accepted: {"spec":{"podInfoOnMount":true}}
            "#]],
        );
    }

    #[test]
    fn nodes() {
        refusals(
            NODE,
            &["{spec: {drivers: [{nodeID: ''}]}}", "{spec: {drivers: [{}, {name: a.b, nodeID: m}]}}"],
            expect![[r#"
                spec.drivers[0].nodeID: Required value
                spec.drivers[1].name: Duplicate value: "a.b"
            "#]],
        );
        update_refusals(
            NODE,
            &["{spec: {drivers: [{nodeID: m}]}}", "{spec: {drivers: []}}"],
            expect![[r#"
                spec.drivers: Invalid value: {"name":"a.b","nodeID":"m"}: field is immutable
                accepted: {"spec":{"drivers":[]}}
            "#]],
        );
    }

    #[test]
    fn attachments() {
        refusals(
            ATTACHMENT,
            &[
                "{spec: {source: {persistentVolumeName: null}}}",
                "{spec: {attacher: '', nodeName: A_b}}",
                "{spec: {source: {persistentVolumeName: null, inlineVolumeSpec: {}}}}",
            ],
            expect![[r#"
                spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName
                spec.attacher: Required value
                spec.nodeName: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                spec.source.inlineVolumeSpec: Required value: must specify a volume type
            "#]],
        );
        update_refusals(
            ATTACHMENT,
            &["{spec: {nodeName: m}}"],
            expect![[r#"
            spec: Invalid value: {"attacher":"a.b","nodeName":"m","source":{"persistentVolumeName":"v"}}: field is immutable
        "#]],
        );
    }

    #[test]
    fn attributes_classes() {
        refusals(
            CLASS,
            &["{driverName: ''}", "{parameters: null}"],
            expect![[r#"
            driverName: Required value
            parameters: Required value: must contain at least one key/value pair
        "#]],
        );
        update_refusals(
            CLASS,
            &["{driverName: c.d}", "{parameters: {iops: '6'}}"],
            expect![[r#"
            driverName: Forbidden: updates to driverName are forbidden.
            parameters: Forbidden: updates to parameters are forbidden.
        "#]],
        );
    }
}
