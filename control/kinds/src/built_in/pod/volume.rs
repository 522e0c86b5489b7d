//! Volumes of a pod: where their files come from, and what is wrong with that.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PersistentVolumeClaimTemplate,
    ProjectedVolumeSource, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proa_api::field::{FieldErrors, Path};
use proa_api::quantity::Amount;

use super::env;
use crate::built_in::persistent_volume_claim;
use crate::meta;
use crate::syntax::{self, report};

/// The volumes that mounts may refer to.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const DOWNWARD_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Bounds of a projected token's life, in seconds.
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;

/// What is wrong with a pod's volumes; gives the sound ones, which mounts may refer to.
pub fn volumes<'a>(volumes: &'a [Volume], path: &Path<'_>, errors: &mut FieldErrors) -> Volumes<'a> {
    let mut sound = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let mut faults = FieldErrors::new();
        source(volume, &at, &mut faults);
        let name = at.field("name");
        if volume.name.is_empty() {
            faults.required(&name, "");
        } else {
            report(syntax::label(&volume.name), &name, &volume.name, &mut faults);
        }
        if sound.contains_key(volume.name.as_str()) {
            faults.duplicate(&name, volume.name.as_str());
        }
        if faults.is_empty() {
            sound.insert(&volume.name, volume);
        }
        errors.extend(faults);
    }
    sound
}

fn source(volume: &Volume, path: &Path<'_>, errors: &mut FieldErrors) {
    let sources = sources(volume);
    let Some((first, more)) = sources.split_first() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    for field in more {
        errors.forbidden(&path.field(field), "may not specify more than 1 volume type");
    }
    let at = path.field(first);
    if let Some(dir) = &volume.empty_dir {
        let limit = dir.size_limit.as_ref().map(|limit| Amount::parse(&limit.0));
        if limit.is_some_and(|limit| limit.is_ok_and(Amount::is_negative)) {
            errors.forbidden(&at.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
    } else if let Some(host) = &volume.host_path {
        host_path(host, &at, errors);
    } else if let Some(map) = &volume.config_map {
        needed(&map.name, &at.field("name"), errors);
        mode(map.default_mode, &at.field("defaultMode"), errors);
        keys(map.items.as_deref().unwrap_or_default(), &at.field("items"), errors);
    } else if let Some(secret) = &volume.secret {
        needed(secret.secret_name.as_deref().unwrap_or_default(), &at.field("secretName"), errors);
        mode(secret.default_mode, &at.field("defaultMode"), errors);
        keys(secret.items.as_deref().unwrap_or_default(), &at.field("items"), errors);
    } else if let Some(projected) = &volume.projected {
        self::projected(projected, &at, errors);
    } else if let Some(downward) = &volume.downward_api {
        mode(downward.default_mode, &at.field("defaultMode"), errors);
        for file in downward.items.iter().flatten() {
            downward_file(file, &at, errors);
        }
    } else if let Some(claim) = &volume.persistent_volume_claim {
        needed(&claim.claim_name, &at.field("claimName"), errors);
    } else if let Some(ephemeral) = &volume.ephemeral {
        let path = at.field("volumeClaimTemplate");
        match &ephemeral.volume_claim_template {
            None => errors.required(&path, ""),
            Some(template) => claim_template(template, &path, errors),
        }
    } else if let Some(nfs) = &volume.nfs {
        needed(&nfs.server, &at.field("server"), errors);
        needed(&nfs.path, &at.field("path"), errors);
        if !nfs.path.starts_with('/') {
            errors.invalid(&at.field("path"), nfs.path.as_str(), "must be an absolute path");
        }
    }
}

fn claim_template(template: &PersistentVolumeClaimTemplate, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(meta) = &template.metadata {
        let at = path.field("metadata");
        meta::labels(meta.labels.as_ref(), &at.field("labels"), errors);
        meta::annotations(meta.annotations.as_ref(), &at.field("annotations"), errors);
        let kept = ObjectMeta {
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            ..ObjectMeta::default()
        };
        if kept != *meta {
            let text = "cannot set metadata fields other than labels and annotations";
            errors.forbidden(&at, text);
        }
    }
    persistent_volume_claim::validate_spec(&template.spec, &path.field("spec"), errors);
}

fn needed(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(path, "");
    }
}

fn mode(mode: Option<i32>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, BAD_MODE);
    }
}

/// What is wrong with a directory or file of the node.
pub fn host_path(host: &HostPathVolumeSource, path: &Path<'_>, errors: &mut FieldErrors) {
    if host.path.is_empty() {
        errors.required(&path.field("path"), "");
        return;
    }
    no_backsteps(&host.path, &path.field("path"), errors);
    let type_ = host.type_.as_deref().unwrap_or_default();
    if !HOST_PATH_TYPES.contains(&type_) {
        errors.not_supported(&path.field("type"), type_, &HOST_PATH_TYPES);
    }
}

fn keys(items: &[KeyToPath], path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, item) in items.iter().enumerate() {
        let at = path.index(i);
        needed(&item.key, &at.field("key"), errors);
        needed(&item.path, &at.field("path"), errors);
        local_path(&item.path, &at.field("path"), errors);
        mode(item.mode, &at.field("mode"), errors);
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path<'_>, errors: &mut FieldErrors) {
    needed(&file.path, &path.field("path"), errors);
    local_path(&file.path, &path.field("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_ref(field, &DOWNWARD_FIELDS, &path.field("fieldRef"), errors);
            if resource.is_some() {
                let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", text);
            }
        }
        (None, Some(resource)) => env::resource_ref(resource, true, &path.field("resourceFieldRef"), errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file.mode, &path.field("mode"), errors);
}

fn projected(projected: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut FieldErrors) {
    mode(projected.default_mode, &path.field("defaultMode"), errors);
    let sources = path.field("sources");
    let mut taken = BTreeSet::new();
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        let at = sources.index(i);
        let kinds = [
            source.secret.is_some(),
            source.config_map.is_some(),
            source.downward_api.is_some(),
            source.service_account_token.is_some(),
            source.cluster_trust_bundle.is_some(),
            source.pod_certificate.is_some(),
        ];
        if kinds.iter().filter(|there| **there).count() > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
        projection(source, path, &at, errors);
        for (file, shown) in files(source) {
            if !file.is_empty() && !taken.insert(file) {
                errors.invalid(path, shown, "conflicting duplicate paths");
            }
        }
    }
}

fn projection(source: &VolumeProjection, volume: &Path<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(secret) = &source.secret {
        let at = path.field("secret");
        needed(&secret.name, &at.field("name"), errors);
        keys(secret.items.as_deref().unwrap_or_default(), &at.field("items"), errors);
    }
    if let Some(map) = &source.config_map {
        let at = path.field("configMap");
        needed(&map.name, &at.field("name"), errors);
        keys(map.items.as_deref().unwrap_or_default(), &at.field("items"), errors);
    }
    for file in source.downward_api.iter().flat_map(|downward| downward.items.iter().flatten()) {
        downward_file(file, &path.field("downwardAPI"), errors);
    }
    if let Some(token) = &source.service_account_token {
        let token_path = path.field("serviceAccountToken");
        let at = token_path.field("expirationSeconds");
        match token.expiration_seconds {
            Some(seconds) if seconds < TOKEN_MIN_SECONDS => {
                errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > TOKEN_MAX_SECONDS => {
                errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
        needed(&token.path, &volume.field("path"), errors);
        local_path(&token.path, &volume.field("path"), errors);
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        let at = path.field("clusterTrustBundle");
        needed(&bundle.path, &at.field("path"), errors);
        local_path(&bundle.path, &at.field("path"), errors);
    }
}

/// The files that a projection writes, with the value that an error about them shows.
fn files(source: &VolumeProjection) -> Vec<(&str, &str)> {
    let secret = source.secret.iter().flat_map(|secret| {
        secret.items.iter().flatten().map(|item| (item.path.as_str(), secret.name.as_str()))
    });
    let map = source
        .config_map
        .iter()
        .flat_map(|map| map.items.iter().flatten().map(|item| (item.path.as_str(), map.name.as_str())));
    let downward = source.downward_api.iter().flat_map(|downward| {
        downward.items.iter().flatten().map(|item| (item.path.as_str(), item.path.as_str()))
    });
    let token = source.service_account_token.iter().map(|token| (token.path.as_str(), token.path.as_str()));
    secret.chain(map).chain(downward).chain(token).collect()
}

/// A path that stays below where it starts.
pub fn descending_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(text, path, errors);
}

/// A path below a volume, where names that start with two dots are the node's.
fn local_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    descending_path(text, path, errors);
    if text.starts_with("..") && !text.split('/').any(|step| step == "..") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

/// Refuses a path that goes up.
pub fn no_backsteps(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.split('/').any(|step| step == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// True if a volume says where its files come from.
pub fn has_source(volume: &Volume) -> bool {
    !sources(volume).is_empty()
}

/// The names of the sources that a volume has; it should have one.
pub fn sources(volume: &Volume) -> Vec<&'static str> {
    let all = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("secret", volume.secret.is_some()),
        ("projected", volume.projected.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("image", volume.image.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
    ];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}
