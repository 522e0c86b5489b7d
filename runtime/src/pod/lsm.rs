//! Profiles of Linux security modules, which this node does not enforce: a pod that counts on one is
//! refused, as the kubelet refuses it on a machine without the module.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, SELinuxOptions};

use crate::pod::observed::{Verdict, all_containers};

/// The annotation that named a container's AppArmor profile before there was a field for it.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// The SELinux type that confines nothing.
const UNCONFINED_TYPE: &str = "spc_t";

/// Refuses a pod that asks for a profile.
pub fn check(pod: &Pod) -> Result<(), Verdict> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let of_pod = spec.security_context.as_ref();
    let contexts = || all_containers(pod).filter_map(|(_, container)| container.security_context.as_ref());

    let profiles = contexts().filter_map(|context| context.app_armor_profile.as_ref());
    let of_pod_profile = of_pod.and_then(|context| context.app_armor_profile.as_ref());
    let annotations = pod.metadata.annotations.iter().flatten();
    let annotated = annotations.filter(|(key, value)| {
        key.starts_with(APP_ARMOR_ANNOTATION) && !["", "unconfined"].contains(&&***value)
    });
    if profiles.chain(of_pod_profile).any(confines) || annotated.count() > 0 {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Err(Verdict::rejected("AppArmor", message));
    }

    let options = contexts().filter_map(|context| context.se_linux_options.as_ref());
    if options.chain(of_pod.and_then(|context| context.se_linux_options.as_ref())).any(labels) {
        let message = "Cannot enforce SELinux: SELinux is not enabled on the host";
        return Err(Verdict::rejected("SELinux", message));
    }
    Ok(())
}

fn confines(profile: &AppArmorProfile) -> bool {
    profile.type_ != "Unconfined"
}

fn labels(options: &SELinuxOptions) -> bool {
    *options != SELinuxOptions::default() && options.type_.as_deref() != Some(UNCONFINED_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn profiles_that_nobody_enforces() {
        let check = |annotations: Value, of_pod: Value, own: Value, want: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"annotations": annotations},
                "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]},
            }))
            .unwrap();
            let said = super::check(&pod).err().map(|verdict| verdict.reason.to_string());
            assert_eq!(said.as_deref(), want, "{pod:?}");
        };
        let profile = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": "x"}});
        let options = |options: Value| json!({"seLinuxOptions": options});
        let key = format!("{APP_ARMOR_ANNOTATION}c");
        let none = || json!({});
        check(none(), none(), none(), None);
        check(none(), profile("Unconfined"), profile("Unconfined"), None);
        check(none(), profile("RuntimeDefault"), none(), Some("AppArmor"));
        check(none(), none(), profile("Localhost"), Some("AppArmor"));
        check(json!({&key: "localhost/strict"}), none(), none(), Some("AppArmor"));
        check(json!({&key: "unconfined"}), none(), none(), None);
        check(none(), options(none()), options(json!({"type": "spc_t"})), None);
        check(none(), options(json!({"level": "s0:c1,c2"})), none(), Some("SELinux"));
        check(none(), none(), options(json!({"type": "container_t"})), Some("SELinux"));
    }
}
