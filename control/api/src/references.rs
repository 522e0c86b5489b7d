//! What a pod refers to by name in its own namespace: ConfigMaps, Secrets and claims.
//!
//! One reading for all who ask: the node that fetches them, the authorizer that lets a node have what its
//! pods name and no more, and the admission of what an account may mount.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

/// Names of objects in the pod's namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets that reach containers, in their environment or as files.
    pub secrets: BTreeSet<String>,
}

impl References {
    /// What a container's environment refers to.
    pub fn of_environment(container: &Container) -> Self {
        let mut found = References::default();
        for from in container.env_from.iter().flatten() {
            found.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            found.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
            found.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            found.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
        found
    }

    /// What a pod's volumes refer to.
    pub fn of_volumes(spec: &PodSpec) -> Self {
        let mut found = References::default();
        for volume in spec.volumes.iter().flatten() {
            found.config_maps.extend(volume.config_map.as_ref().map(|s| s.name.clone()));
            found.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
            for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
                found.config_maps.extend(source.config_map.as_ref().map(|s| s.name.clone()));
                found.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
            }
        }
        found
    }

    /// What a pod refers to in all, but for the Secrets by which its images are pulled.
    pub fn of_pod(spec: &PodSpec) -> Self {
        let mut found = References::of_volumes(spec);
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let References { config_maps, secrets } = References::of_environment(container);
            found.config_maps.extend(config_maps);
            found.secrets.extend(secrets);
        }
        found
    }
}

/// The Secrets by which a pod's images are pulled.
pub fn pull_secrets(spec: &PodSpec) -> BTreeSet<String> {
    spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()).collect()
}

/// The claim behind a volume of the pod of this name, if there is one. That of a generic ephemeral volume is
/// named after both.
/// <https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming>
pub fn claim(pod: &str, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)))
}

/// The claims of a pod, in the order of its volumes.
pub fn claims(pod: &Pod) -> impl Iterator<Item = String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| claim(name, volume))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_that_a_pod_names_is_found() {
        let name = |name: &str| json!({ "name": name });
        let key = |name: &str| json!({ "name": name, "key": "k" });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "spec": {
                "imagePullSecrets": [name("pull")],
                "initContainers": [{ "name": "i", "envFrom": [
                    { "configMapRef": name("from") }, { "secretRef": name("from") },
                ] }],
                "containers": [{ "name": "c", "env": [
                    { "name": "A", "valueFrom": { "configMapKeyRef": key("env") } },
                    { "name": "B", "valueFrom": { "secretKeyRef": key("env") } },
                ] }],
                "volumes": [
                    { "name": "a", "configMap": name("volume") },
                    { "name": "b", "secret": { "secretName": "volume" } },
                    { "name": "c", "projected": { "sources": [
                        { "configMap": name("projected") }, { "secret": name("projected") },
                    ] } },
                    { "name": "d", "persistentVolumeClaim": { "claimName": "claim" } },
                    { "name": "e", "ephemeral": {} },
                ],
            },
        }))
        .unwrap();
        let spec = pod.spec.as_ref().unwrap();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        let all = names(&["env", "from", "projected", "volume"]);
        assert_eq!(References::of_pod(spec), References { config_maps: all.clone(), secrets: all });
        let files = names(&["projected", "volume"]);
        assert_eq!(References::of_volumes(spec), References { config_maps: files.clone(), secrets: files });
        assert_eq!(pull_secrets(spec), names(&["pull"]));
        assert_eq!(claims(&pod).collect::<Vec<_>>(), ["claim", "p-e"]);
    }
}
