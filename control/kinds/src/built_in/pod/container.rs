//! What is wrong with containers: names, images, ports, mounts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, VolumeMount};
use proa_api::field::{FieldErrors, Path};

use super::volume::Volumes;
use super::{env, probe, resources, security, volume};
use crate::syntax::{self, one_of, report};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";

/// The init containers of a pod.
pub fn init(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// What is wrong with the containers and init containers of a pod.
pub fn containers(spec: &PodSpec, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.field("containers");
    if spec.containers.is_empty() {
        errors.required(&list, "");
    }
    let mut names = BTreeSet::new();
    let claims = spec.resource_claims.iter().flatten().map(|claim| claim.name.as_str()).collect();
    for (i, container) in spec.containers.iter().enumerate() {
        let at = list.index(i);
        common(container, spec, volumes, &at, errors);
        resources::claims(container.resources.as_ref(), &claims, &at.field("resources"), errors);
        if !names.insert(container.name.as_str()) {
            errors.duplicate(&at.field("name"), container.name.as_str());
        }
        probe::all(container, spec, &at, errors);
        if container.restart_policy.is_some() {
            errors.forbidden(&at.field("restartPolicy"), "may not be set for non-init containers");
        }
    }
    host_ports(&spec.containers, &list, errors);
    let list = path.field("initContainers");
    for (i, container) in init(spec).iter().enumerate() {
        let at = list.index(i);
        common(container, spec, volumes, &at, errors);
        resources::claims(container.resources.as_ref(), &claims, &at.field("resources"), errors);
        if !container.name.is_empty() && !names.insert(container.name.as_str()) {
            errors.duplicate(&at.field("name"), container.name.as_str());
        }
        init_only(container, spec, &at, errors);
        // Init containers run one after the other, so their ports only meet their own.
        host_ports(std::slice::from_ref(container), &list, errors);
    }
}

fn init_only(container: &Container, spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = container.restart_policy.as_deref();
    if let Some(policy) = policy.filter(|policy| *policy != "Always") {
        errors.not_supported(&path.field("restartPolicy"), policy, &["Always"]);
    }
    if policy == Some("Always") {
        probe::all(container, spec, path, errors);
        return;
    }
    let forbidden = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, _) in forbidden.iter().filter(|(_, there)| *there) {
        errors.forbidden(&path.field(field), ONLY_SIDECARS);
    }
}

fn common(
    container: &Container,
    spec: &PodSpec,
    volumes: &Volumes<'_>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if container.name.is_empty() {
        errors.required(&path.field("name"), "");
    } else {
        report(syntax::label(&container.name), &path.field("name"), &container.name, errors);
    }
    if container.image.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.field("image"), "");
    }
    let policy = container.termination_message_policy.as_deref();
    one_of(policy, &MESSAGE_POLICIES, &path.field("terminationMessagePolicy"), errors);
    ports(container.ports.as_deref().unwrap_or_default(), &path.field("ports"), errors);
    env::variables(container.env.as_deref().unwrap_or_default(), &path.field("env"), errors);
    env::sources(container.env_from.as_deref().unwrap_or_default(), &path.field("envFrom"), errors);
    mounts(container, volumes, &path.field("volumeMounts"), errors);
    devices(container, volumes, &path.field("volumeDevices"), errors);
    one_of(container.image_pull_policy.as_deref(), &PULL_POLICIES, &path.field("imagePullPolicy"), errors);
    resources::requirements(container.resources.as_ref(), &path.field("resources"), errors);
    security::container(container, spec, &path.field("securityContext"), errors);
}

fn ports(ports: &[ContainerPort], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let faults = syntax::port_name(name);
            if !faults.is_empty() {
                report(faults, &at.field("name"), name, errors);
            } else if !names.insert(name) {
                errors.duplicate(&at.field("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&at.field("containerPort"), "");
        } else {
            number(port.container_port, &at.field("containerPort"), errors);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            number(host_port, &at.field("hostPort"), errors);
        }
        one_of(port.protocol.as_deref(), &["SCTP", "TCP", "UDP"], &at.field("protocol"), errors);
    }
}

fn number(port: i32, path: &Path<'_>, errors: &mut FieldErrors) {
    for fault in syntax::port_number(port.into()) {
        errors.invalid(path, port, fault);
    }
}

fn host_ports(containers: &[Container], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let container_path = path.index(i);
        let ports = container_path.field("ports");
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let ip = port.host_ip.as_deref().unwrap_or_default();
            let key = format!("{protocol}/{ip}/{host_port}");
            if !taken.insert(key.clone()) {
                errors.duplicate(&ports.index(j).field("hostPort"), key);
            }
        }
    }
}

fn mounts(container: &Container, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut paths = BTreeSet::new();
    let devices = container.volume_devices.iter().flatten();
    let (device_names, device_paths): (BTreeSet<&str>, BTreeSet<&str>) =
        devices.map(|device| (device.name.as_str(), device.device_path.as_str())).unzip();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = path.index(i);
        if mount.name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        if !volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&at.field("name"), mount.name.as_str());
        }
        if mount.mount_path.is_empty() {
            errors.required(&at.field("mountPath"), "");
        }
        if !paths.insert(mount.mount_path.as_str()) {
            errors.invalid(&at.field("mountPath"), mount.mount_path.as_str(), "must be unique");
        }
        if device_names.contains(mount.name.as_str()) {
            let text = "must not already exist in volumeDevices";
            errors.invalid(&at.field("name"), mount.name.as_str(), text);
        }
        if device_paths.contains(mount.mount_path.as_str()) {
            let text = "must not already exist as a path in volumeDevices";
            errors.invalid(&at.field("mountPath"), mount.mount_path.as_str(), text);
        }
        mount_options(mount, container, path, &at, errors);
    }
}

/// What a mount says beside volume and place. The stock server names the list, not the entry, in
/// the paths of some of these.
fn mount_options(
    mount: &VolumeMount,
    container: &Container,
    list: &Path<'_>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    if !sub_path.is_empty() {
        volume::descending_path(sub_path, &list.field("subPath"), errors);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            let text = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.field("subPathExpr"), expression, text);
        }
        volume::descending_path(expression, &list.field("subPathExpr"), errors);
    }
    if let Some(propagation) = mount.mount_propagation.as_deref() {
        let privileged = container.security_context.as_ref().and_then(|c| c.privileged) == Some(true);
        let path = list.field("mountPropagation");
        one_of(Some(propagation), &PROPAGATIONS, &path, errors);
        if propagation == "Bidirectional" && !privileged {
            errors.forbidden(
                &path,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    if let Some(recursive) = mount.recursive_read_only.as_deref() {
        let path = list.field("recursiveReadOnly");
        let values = ["Disabled", "Enabled", "IfPossible"];
        if !values.contains(&recursive) {
            errors.not_supported(&path, recursive, &values);
        } else if recursive != "Disabled" && mount.read_only != Some(true) {
            errors.forbidden(&path, "may only be specified when readOnly is true");
        }
    }
}

fn devices(container: &Container, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mut paths = BTreeSet::new();
    for (i, device) in devices.iter().enumerate() {
        let at = path.index(i);
        if device.name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        match volumes.get(device.name.as_str()) {
            None => errors.not_found(&at.field("name"), device.name.as_str()),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let text =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&at.field("name"), device.name.as_str(), text);
            }
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            errors.required(&at.field("devicePath"), "");
        }
        if !paths.insert(&device.device_path) {
            errors.invalid(&at.field("devicePath"), device.device_path.as_str(), "must be unique");
        }
    }
}
