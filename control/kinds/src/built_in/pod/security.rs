//! What is wrong with security contexts of pods and containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, PodSpec, SeccompProfile, Sysctl};
use proa_api::field::{FieldErrors, Path};

use super::volume;
use crate::syntax::not_between;

const ID_MAX: i64 = i32::MAX as i64;
const SYSCTL_MAX_BYTES: usize = 253;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// What is wrong with a pod's security context.
pub fn pod(spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.host_pid == Some(true) && spec.share_process_namespace == Some(true) {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.field("shareProcessNamespace"), true, text);
    }
    let Some(context) = &spec.security_context else { return };
    id(context.fs_group, &path.field("fsGroup"), errors);
    id(context.run_as_user, &path.field("runAsUser"), errors);
    id(context.run_as_group, &path.field("runAsGroup"), errors);
    let groups = path.field("supplementalGroups");
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &groups.index(i), errors);
    }
    sysctls(context.sysctls.as_deref().unwrap_or_default(), spec, &path.field("sysctls"), errors);
    let words: [(&str, Option<&str>, &[&str]); 3] = [
        ("fsGroupChangePolicy", context.fs_group_change_policy.as_deref(), &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", context.supplemental_groups_policy.as_deref(), &["Merge", "Strict"]),
        ("seLinuxChangePolicy", context.se_linux_change_policy.as_deref(), &["MountOption", "Recursive"]),
    ];
    for (field, value, allowed) in words {
        if let Some(value) = value.filter(|value| !allowed.contains(value)) {
            errors.not_supported(&path.field(field), value, allowed);
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), errors);
}

/// What is wrong with a container's security context.
pub fn container(container: &Container, spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(context) = &container.security_context else { return };
    id(context.run_as_user, &path.field("runAsUser"), errors);
    id(context.run_as_group, &path.field("runAsGroup"), errors);
    if let Some(mount) = context.proc_mount.as_deref() {
        let at = path.field("procMount");
        if !["Default", "Unmasked"].contains(&mount) {
            errors.not_supported(&at, mount, &["Default", "Unmasked"]);
        } else if mount == "Unmasked" && spec.host_users != Some(false) {
            errors.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), errors);
    if context.allow_privilege_escalation != Some(false) {
        return;
    }
    let value = serde_json::to_value(context).unwrap_or_default();
    if context.privileged == Some(true) {
        let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, value.clone(), text);
    }
    let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
    if added.into_iter().any(|capability| capability == "CAP_SYS_ADMIN") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid(path, value, text);
    }
}

fn id(id: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(id) = id.filter(|id| !(0..=ID_MAX).contains(id)) {
        errors.invalid(path, id, not_between(0, ID_MAX));
    }
}

fn sysctls(sysctls: &[Sysctl], spec: &PodSpec, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let entry = path.index(i);
        let at = entry.field("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            errors.invalid(
                &at,
                name,
                format!(
                    "must have at most {SYSCTL_MAX_BYTES} characters and match regex \
                     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                ),
            );
        } else if !seen.insert(name) {
            errors.duplicate(&at, name);
        }
        let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.replace('/', ".").starts_with(prefix));
        if spec.host_network == Some(true) && of(&["net."]) {
            errors.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.host_ipc == Some(true) && of(&["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."])
        {
            errors.invalid(&at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let segment = |text: &str| {
        let bytes = text.as_bytes();
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|b| alphanumeric(Some(b)) || b"-_".contains(b))
    };
    name.len() <= SYSCTL_MAX_BYTES && name.split(['.', '/']).all(segment)
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(&path.field("type"), "type is required when seccompProfile is set"),
        type_ if PROFILES.contains(&type_) => {}
        other => errors.not_supported(&path.field("type"), other, &PROFILES),
    }
    let at = path.field("localhostProfile");
    match (profile.type_ == "Localhost", profile.localhost_profile.as_deref()) {
        (true, None) => errors.required(&at, "must be set when seccomp type is Localhost"),
        (true, Some(file)) => volume::descending_path(file, &at, errors),
        (false, Some(_)) => {
            let value = serde_json::to_value(profile).unwrap_or_default();
            errors.invalid(&at, value, "can only be set when seccomp type is Localhost");
        }
        (false, None) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    let at = path.field("localhostProfile");
    let name = profile.localhost_profile.as_deref();
    match profile.type_.as_str() {
        "" => errors.required(&path.field("type"), "type is required when appArmorProfile is set"),
        "Localhost" => match name {
            None | Some("") => errors.required(&at, "must be set when AppArmor type is Localhost"),
            Some(name) if name.trim() != name => {
                errors.invalid(&at, name, "must not be padded with whitespace");
            }
            Some(_) => {}
        },
        type_ if PROFILES.contains(&type_) => {
            if let Some(name) = name {
                errors.invalid(&at, name, "can only be set when AppArmor type is Localhost");
            }
        }
        other => errors.not_supported(&path.field("type"), other, &PROFILES),
    }
}
