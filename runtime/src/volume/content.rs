//! Which files a volume made of API objects holds. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, Pod, Volume,
    VolumeProjection,
};

use proa_api::references::References;
use proa_sandbox::protocol::ID_MAX;

use crate::pod::budget::Budget;
use crate::pod::downward::{self, Facts};
use crate::pod::env::Sources;

/// What a volume is made of.
pub enum Source<'a> {
    /// A directory that lives as long as the pod.
    EmptyDir(&'a EmptyDirVolumeSource),
    /// A directory or file of the node.
    HostPath(&'a HostPathVolumeSource),
    /// Files made of API objects.
    Files {
        /// Never on a disk.
        in_memory: bool,
    },
    /// What the pod's claim is bound to.
    Claim,
    /// Something this node cannot do: the name of the field.
    Refused(&'static str),
}

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Relative to the volume; may have several parts.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Whose it is, if not root's.
    pub owner: Option<u32>,
    /// Content.
    pub bytes: Vec<u8>,
}

/// A token that a volume wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWanted {
    /// Who is to accept it; the API server if `None`.
    pub audience: Option<String>,
    /// How long it is to be valid.
    pub expiration_seconds: i64,
}

/// What was fetched from the API for the files of a pod's volumes.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// ConfigMaps and Secrets.
    pub sources: Sources,
    /// Tokens of the pod's service account.
    pub tokens: BTreeMap<TokenWanted, String>,
}

/// How long a token is valid that does not say so.
const TOKEN_SECONDS: i64 = 3600;
/// No token is used longer than this, however long it is good for.
const TOKEN_REFRESH_MOST_SECONDS: u64 = 24 * 3600;
/// Permission bits of a file whose volume does not say so.
const DEFAULT_MODE: i32 = 0o644;

/// Permission bits of a token that one user or one group is to read. The group's come with it.
const TOKEN_MODE: u32 = 0o600;

/// The group that a pod wants its volumes to belong to.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    id(context.fs_group?)
}

/// What a volume is made of.
pub fn source(volume: &Volume) -> Source<'_> {
    if let Some(source) = &volume.empty_dir {
        return Source::EmptyDir(source);
    }
    if let Some(source) = &volume.host_path {
        return Source::HostPath(source);
    }
    if volume.secret.is_some() {
        return Source::Files { in_memory: true };
    }
    if let Some(projected) = &volume.projected {
        let secret = |p: &VolumeProjection| p.secret.is_some() || p.service_account_token.is_some();
        let in_memory = projected.sources.iter().flatten().any(secret);
        return Source::Files { in_memory };
    }
    if volume.config_map.is_some() || volume.downward_api.is_some() {
        return Source::Files { in_memory: false };
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return Source::Claim;
    }
    Source::Refused(refused_field(volume))
}

/// The ConfigMaps and Secrets that a pod's volumes refer to.
pub fn references(pod: &Pod) -> References {
    pod.spec.as_ref().map(References::of_volumes).unwrap_or_default()
}

/// The tokens that a pod's volumes want.
pub fn tokens(pod: &Pod) -> Vec<TokenWanted> {
    volumes(pod).iter().flat_map(projections).filter_map(token_wanted).collect()
}

/// How long the shortest-lived token of a pod's volumes is good for before a new one is wanted:
/// four fifths of its time, as with the kubelet, and a day at most. `None` without tokens.
pub fn token_refresh(pod: &Pod) -> Option<Duration> {
    let shortest = tokens(pod).into_iter().map(|token| token.expiration_seconds).min()?;
    let seconds = u64::try_from(shortest).unwrap_or_default() / 5 * 4;
    Some(Duration::from_secs(seconds.min(TOKEN_REFRESH_MOST_SECONDS)))
}

/// True if a volume tells the pod's own address, and so waits for it.
pub fn needs_address(pod: &Pod) -> bool {
    tells(pod, "status.podIP")
}

/// True if a volume tells the pod's labels or annotations, which may change.
pub fn tells_metadata(pod: &Pod) -> bool {
    tells(pod, "metadata.")
}

/// True if a volume tells a field whose path begins so.
fn tells(pod: &Pod, path: &str) -> bool {
    let own = volumes(pod).iter().filter_map(|v| v.downward_api.as_ref()?.items.as_ref());
    let projected = volumes(pod).iter().flat_map(projections);
    let projected = projected.filter_map(|p| p.downward_api.as_ref()?.items.as_ref());
    let mut fields = own.chain(projected).flatten().filter_map(|item| item.field_ref.as_ref());
    fields.any(|field| field.field_path.starts_with(path))
}

/// The files of a volume made of API objects. Each is taken from what the pod has left before it is
/// copied: the same key may be named many times.
pub fn files(
    pod: &Pod,
    volume: &Volume,
    fetched: &Fetched,
    facts: &Facts,
    left: &mut Budget,
) -> Result<Vec<File>, String> {
    let mut files = Files { left, all: Vec::new(), places: HashMap::new() };
    let sources = &fetched.sources;
    if let Some(s) = &volume.config_map {
        files.config_map(sources, &s.name, s.items.as_deref(), s.optional, mode(s.default_mode))?;
    }
    if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        files.secret(sources, name, s.items.as_deref(), s.optional, mode(s.default_mode))?;
    }
    if let Some(s) = &volume.downward_api {
        files.downward(pod, facts, s.items.as_deref(), mode(s.default_mode))?;
    }
    let mode = mode(volume.projected.as_ref().and_then(|p| p.default_mode));
    let owner = token_owner(pod);
    for projection in projections(volume) {
        if let Some(s) = &projection.config_map {
            files.config_map(sources, &s.name, s.items.as_deref(), s.optional, mode)?;
        } else if let Some(s) = &projection.secret {
            files.secret(sources, &s.name, s.items.as_deref(), s.optional, mode)?;
        } else if let Some(s) = &projection.downward_api {
            files.downward(pod, facts, s.items.as_deref(), mode)?;
        } else if let (Some(s), Some(wanted)) = (&projection.service_account_token, token_wanted(projection))
        {
            let token = fetched.tokens.get(&wanted).ok_or("the service account token could not be had")?;
            let mode = if owner.is_some() || fs_group(pod).is_some() { TOKEN_MODE } else { mode };
            files.add(&s.path, mode, owner, token.as_bytes())?;
        } else {
            return Err("projected source is not supported by this node".to_owned());
        }
    }
    Ok(files.all)
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default()
}

fn projections(volume: &Volume) -> &[VolumeProjection] {
    volume.projected.as_ref().and_then(|p| p.sources.as_deref()).unwrap_or_default()
}

fn token_wanted(projection: &VolumeProjection) -> Option<TokenWanted> {
    let token = projection.service_account_token.as_ref()?;
    Some(TokenWanted {
        audience: token.audience.clone().filter(|a| !a.is_empty()),
        expiration_seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
    })
}

/// Whose a pod's tokens are: the user that all its containers run as, if there is one.
fn token_owner(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.security_context.as_ref().and_then(|c| c.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| id(first))?
}

fn id(value: i64) -> Option<u32> {
    u32::try_from(value).ok().filter(|id| *id <= ID_MAX)
}

fn mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

/// The files of one volume, as far as they are put together.
struct Files<'a> {
    left: &'a mut Budget,
    all: Vec<File>,
    /// Where in `all` each path is.
    places: HashMap<String, usize>,
}

impl Files<'_> {
    /// Adds a file. A path that two sources give is the later one's.
    fn add(&mut self, path: &str, mode: u32, owner: Option<u32>, bytes: &[u8]) -> Result<(), String> {
        self.left.take(path.len() + bytes.len())?;
        let file = File { path: path.to_owned(), mode, owner, bytes: bytes.to_vec() };
        match self.places.get(path) {
            Some(place) => self.all[*place] = file,
            None => {
                self.places.insert(path.to_owned(), self.all.len());
                self.all.push(file);
            }
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        sources: &Sources,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<(), String> {
        let optional = optional.unwrap_or(false);
        let found = sources.config_maps.get(name);
        if found.is_none() && !optional {
            return Err(format!("configmap \"{name}\" not found"));
        }
        let (text, binary) =
            (found.and_then(|m| m.data.as_ref()), found.and_then(|m| m.binary_data.as_ref()));
        let Some(items) = items else {
            for (key, value) in text.into_iter().flatten() {
                self.add(key, mode, None, value.as_bytes())?;
            }
            for (key, value) in binary.into_iter().flatten() {
                self.add(key, mode, None, &value.0)?;
            }
            return Ok(());
        };
        let value = |key: &str| {
            let text = || text?.get(key).map(String::as_bytes);
            binary.and_then(|data| data.get(key)).map(|value| value.0.as_slice()).or_else(text)
        };
        self.picked(items, value, optional, mode, "configmap references non-existent config key")
    }

    fn secret(
        &mut self,
        sources: &Sources,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<(), String> {
        let optional = optional.unwrap_or(false);
        let found = sources.secrets.get(name);
        if found.is_none() && !optional {
            return Err(format!("secret \"{name}\" not found"));
        }
        let data = found.and_then(|secret| secret.data.as_ref());
        let Some(items) = items else {
            let mut data = data.into_iter().flatten();
            return data.try_for_each(|(key, value)| self.add(key, mode, None, &value.0));
        };
        let value = |key: &str| data?.get(key).map(|value| value.0.as_slice());
        self.picked(items, value, optional, mode, "references non-existent secret key")
    }

    /// The keys that `items` names, under the paths that it names.
    fn picked<'a>(
        &mut self,
        items: &[KeyToPath],
        value: impl Fn(&str) -> Option<&'a [u8]>,
        optional: bool,
        default_mode: u32,
        missing: &str,
    ) -> Result<(), String> {
        for item in items {
            match value(&item.key) {
                Some(value) => {
                    let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
                    self.add(&item.path, mode, None, value)?;
                }
                None if optional => {}
                None => return Err(format!("{missing}: {}", item.key)),
            }
        }
        Ok(())
    }

    fn downward(
        &mut self,
        pod: &Pod,
        facts: &Facts,
        items: Option<&[DownwardAPIVolumeFile]>,
        default_mode: u32,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(selector), _) => downward::field(pod, facts, selector)?,
                (None, Some(selector)) => downward::resource(pod, None, facts, selector)?,
                (None, None) => return Err(format!("downward API file {} names no field", item.path)),
            };
            let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
            self.add(&item.path, mode, None, text.as_bytes())?;
        }
        Ok(())
    }
}

/// The field of a source that this node does not do.
fn refused_field(volume: &Volume) -> &'static str {
    let fields: [(&str, bool); 22] = [
        ("nfs", volume.nfs.is_some()),
        ("csi", volume.csi.is_some()),
        ("image", volume.image.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
    ];
    fields.into_iter().find(|(_, set)| *set).map_or("(no source)", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::budget::FILES;
    use proa_api::quantity::Amount;
    use serde_json::{Value, json};

    fn check(volume: Value, expected: Result<&[(&str, u32, &str)], &str>) {
        let mut volume = volume;
        volume["name"] = json!("v");
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let map =
            json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}, "binaryData": {"c": "AwQ="}});
        let secret = json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
        let mut fetched = Fetched::default();
        fetched.sources.config_maps.insert("m".to_owned(), serde_json::from_value(map).unwrap());
        fetched.sources.secrets.insert("s".to_owned(), serde_json::from_value(secret).unwrap());
        let wanted = TokenWanted { audience: None, expiration_seconds: 3600 };
        fetched.tokens.insert(wanted, "token".to_owned());
        let none = Amount::ZERO;
        let facts = Facts {
            host_ip: [192, 0, 2, 1].into(),
            pod_ip: [10, 42, 0, 7].into(),
            allocatable_cpu: none,
            allocatable_memory: none,
            memory_capacity: none,
            allocatable_storage: none,
        };
        let found = files(&pod, &volume, &fetched, &facts, &mut Budget::new(FILES));
        let found = found.map(|files| {
            let text = |f: File| (f.path, f.mode, String::from_utf8_lossy(&f.bytes).into_owned());
            files.into_iter().map(text).collect::<Vec<_>>()
        });
        let owned = |(path, mode, text): &(&str, u32, &str)| ((*path).to_owned(), *mode, (*text).to_owned());
        assert_eq!(
            found,
            expected.map(|files| files.iter().map(owned).collect()).map_err(str::to_owned),
            "{volume:?}"
        );
    }

    #[test]
    fn files_of_volumes() {
        check(
            json!({"configMap": {"name": "m"}}),
            Ok(&[("a", 0o644, "1"), ("b", 0o644, "2"), ("c", 0o644, "\u{3}\u{4}")]),
        );
        check(
            json!({"configMap": {"name": "m", "defaultMode": 0o400,
                   "items": [{"key": "b", "path": "x/y"}, {"key": "a", "path": "a", "mode": 0o600}]}}),
            Ok(&[("x/y", 0o400, "2"), ("a", 0o600, "1")]),
        );
        check(
            json!({"configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}),
            Err("configmap references non-existent config key: z"),
        );
        check(json!({"secret": {"secretName": "s"}}), Ok(&[("k", 0o644, "secret")]));
        check(json!({"secret": {"secretName": "x"}}), Err("secret \"x\" not found"));
        check(
            json!({"projected": {"sources": [
                {"configMap": {"name": "m", "items": [{"key": "a", "path": "k"}]}},
                {"secret": {"name": "s"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"serviceAccountToken": {"path": "token"}},
            ]}}),
            Ok(&[("k", 0o644, "secret"), ("name", 0o644, "p"), ("token", 0o644, "token")]),
        );
    }

    #[test]
    fn tokens_are_for_the_user_that_all_containers_have() {
        let check = |of_pod: Value, first: Value, second: Value, expected: Option<u32>| {
            let container = |name, context: Value| json!({"name": name, "securityContext": context});
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "securityContext": of_pod,
                "initContainers": [container("i", first)],
                "containers": [container("c", second)],
            }}))
            .unwrap();
            assert_eq!(token_owner(&pod), expected, "{pod:?}");
        };
        let user = |uid: i64| json!({"runAsUser": uid});
        check(json!({}), json!({}), json!({}), None);
        check(user(7), json!({}), json!({}), Some(7));
        check(user(7), json!({}), user(8), None);
        check(json!({}), user(7), json!({}), None);
        check(json!({}), user(7), user(7), Some(7));
        check(user(8), user(0), user(0), Some(0));
    }
}
