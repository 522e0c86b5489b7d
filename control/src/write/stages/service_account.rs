//! The service account of a pod: its name, its pull secrets and the volume with its token.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#serviceaccount-admission-controller>

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodSpec;
use proa_api::Refusal;
use proa_api::names::CONFIG_MAP_ROOT_CA;
use proa_api::references::{self, References};
use proa_kinds::Kind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::write::metadata;
use crate::write::stage::{Attempt, Operation, Stage, Verdict};

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and seven seconds, by which the stock server's tokens are known.
const TOKEN_SECONDS: i64 = 3607;

/// Fills in the service account of a new pod and what comes with it.
pub struct ServiceAccount {
    /// Puts the volume with the account's token into pods.
    pub token_volumes: bool,
}

impl Stage for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn concerns(&self, kind: &Kind) -> bool {
        kind.is("", "Pod")
    }

    fn mutates(&self, _kind: &Kind) -> bool {
        true
    }

    fn mutate<'a>(&'a self, attempt: &'a Attempt<'_>, new: &'a mut Value) -> Verdict<'a> {
        match attempt.operation {
            Operation::Create => self.fill(attempt, new).into(),
            _ => Verdict::PASSED,
        }
    }
}

impl ServiceAccount {
    /// A namespace's `default` account is made a moment after the namespace; a pod that is faster is
    /// let through. One that names another account which is not there is refused.
    fn fill(&self, attempt: &Attempt<'_>, pod: &mut Value) -> Result<(), Refusal> {
        let text =
            |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (attempt.namespace, attempt.name);
        let account_name = [text("/spec/serviceAccountName"), text("/spec/serviceAccount")]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_else(|| DEFAULT.to_owned());
        let account = attempt.store.collection("serviceaccounts").get(namespace, &account_name);
        if account.is_none() && account_name != DEFAULT {
            return Err(Refusal::forbidden(
                attempt.kind.resource(),
                name,
                format!(
                    "error looking up service account {namespace}/{account_name}: \
                 serviceaccount \"{account_name}\" not found"
                ),
            ));
        }
        // A body without a spec is for validation to refuse.
        let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
        spec["serviceAccountName"] = account_name.into();
        let account = account.map(|account| account.value()).unwrap_or_default();
        if account["metadata"]["annotations"][ENFORCE_MOUNTABLE_SECRETS] == "true"
            && let Some(secret) = not_mountable(spec, &account)?
        {
            let why = format!(
                "secret {secret:?} is not allowed because service account {} does not reference that secret",
                account["metadata"]["name"].as_str().unwrap_or_default(),
            );
            return Err(Refusal::forbidden(attempt.kind.resource(), name, why));
        }
        let pulls = spec["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty());
        if let (false, Some(secrets)) = (pulls, account.get("imagePullSecrets")) {
            spec["imagePullSecrets"] = secrets.clone();
        }
        let own = spec["automountServiceAccountToken"].as_bool();
        let mounts = own.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true);
        if self.token_volumes && mounts {
            mount_token(spec, attempt.chance);
        }
        Ok(())
    }
}

/// A Secret that the pod uses and the account does not name, if there is one. Secrets for pulling images
/// have a list of their own.
/// <https://kubernetes.io/docs/concepts/security/service-accounts/#enforce-mountable-secrets>
fn not_mountable(spec: &Value, account: &Value) -> Result<Option<String>, Refusal> {
    let spec = PodSpec::deserialize(spec).map_err(Refusal::internal)?;
    let named = |list: &str| -> BTreeSet<&str> {
        let entries = account[list].as_array().into_iter().flatten();
        entries.filter_map(|entry| entry["name"].as_str()).collect()
    };
    let (mountable, pulls) = (named("secrets"), named("imagePullSecrets"));
    let mut used = References::of_pod(&spec).secrets.into_iter();
    let other = used.find(|name| !mountable.contains(&**name));
    Ok(other.or_else(|| references::pull_secrets(&spec).into_iter().find(|name| !pulls.contains(&**name))))
}

const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME_PREFIX: &str = "kube-api-access-";

/// Adds the projected volume, and mounts it in every container that has nothing at its path. A pod
/// that is a copy of another brings the volume along.
fn mount_token(spec: &mut Value, chance: u128) {
    let names = spec["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
    let brought = names.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let mut volume = brought.clone();
    let mut mounts_it = false;
    for list in ["containers", "initContainers"] {
        let Some(containers) = spec[list].as_array_mut() else { continue };
        for container in containers.iter_mut().filter(|container| container.is_object()) {
            let mounted = container["volumeMounts"]
                .as_array()
                .is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH));
            if mounted {
                continue;
            }
            mounts_it = true;
            let name = volume.get_or_insert_with(|| format!("{VOLUME_PREFIX}{}", metadata::suffix(chance)));
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    let Some(name) = volume.filter(|_| mounts_it && brought.is_none()) else { return };
    let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": CONFIG_MAP_ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}});
    match spec["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_may_name_all_the_secrets_that_its_pods_use() {
        let account = json!({"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "pull"}]});
        for (spec, other) in [
            (
                json!({"volumes": [{"secret": {"secretName": "a"}}], "imagePullSecrets": [{"name": "pull"}]}),
                None,
            ),
            (json!({"volumes": [{"secret": {"secretName": "b"}}]}), Some("b")),
            (json!({"imagePullSecrets": [{"name": "a"}]}), Some("a")),
        ] {
            assert_eq!(not_mountable(&spec, &account).unwrap().as_deref(), other, "{spec}");
        }
    }

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut spec = json!({
            "containers": [
                {"name": "a"},
                {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
            ],
            "initContainers": [{"name": "c", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}],
        });
        mount_token(&mut spec, 7);
        let name = spec["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("kube-api-access-"), "{name}");
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], *name);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(spec["initContainers"][0]["volumeMounts"][1]["mountPath"], MOUNT_PATH);

        // A copy of it with one more container.
        let copied = spec.clone();
        mount_token(&mut spec, 7);
        assert_eq!(spec, copied);
        spec["containers"].as_array_mut().unwrap().push(json!({"name": "d"}));
        mount_token(&mut spec, 7);
        assert_eq!(spec["volumes"], copied["volumes"]);
        assert_eq!(spec["containers"][2]["volumeMounts"][0]["name"], *name);
    }
}
