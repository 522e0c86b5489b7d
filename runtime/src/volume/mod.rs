//! Volumes of a pod: directories on the node that its containers see.
//!
//! Fed by `pod/volumes.rs`; the files that come from API objects are decided in `content`
//! (pure) and written by `write` in one step, so that a container never sees half an update.
//! Setting up twice changes nothing, which is also how changed objects reach running pods.
//! Source: <https://kubernetes.io/docs/concepts/storage/volumes/>.

pub mod beneath;
pub mod claim;
pub mod content;
pub mod mount;
mod ownership;
mod write;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume, VolumeMount,
};
use proa_api::quantity::Amount;
use proa_api::resources::memory_limit;
use proa_sandbox::protocol::Mount;
use tokio_util::sync::CancellationToken;

use crate::node::paths::Paths;
use crate::pod::budget::{self, Budget};
use crate::pod::downward::Facts;
use crate::pod::env::{Variables, expand};
use crate::pod::observed::all_containers;
use claim::Claims;
use content::{Fetched, File, Source};

/// Most volumes of a pod, each of which is a directory or a mount of the node's.
const MOST_VOLUMES: usize = 1024;
/// Most mounts of parts of volumes, each of which is one of the node's as well.
const MOST_SUB_PATHS: usize = 1024;

/// A volume that was found, and what is to be done before the pod has it.
pub struct Claimed {
    volume: String,
    found: claim::Found,
    /// The group, and whether its root alone tells that it has the files already.
    group: Option<(u32, bool)>,
}

/// Makes the directories of a pod's volumes, and finds the volumes behind its claims, which the pod
/// has when they are [`hand_over`]ed. An error is the message of a `FailedMount` Event.
pub fn prepare(
    pod: &Pod,
    paths: &Paths,
    claims: &Claims,
    facts: &Facts,
    cancelled: &CancellationToken,
) -> Result<Vec<Claimed>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    if volumes.len() > MOST_VOLUMES {
        return Err(format!("spec.volumes: more than {MOST_VOLUMES} are not supported by this node"));
    }
    let mounts = all_containers(pod).flat_map(|(_, c)| c.volume_mounts.iter().flatten());
    if mounts.filter(|m| m.sub_path.is_some() || m.sub_path_expr.is_some()).count() > MOST_SUB_PATHS {
        return Err(format!(
            "volumeMounts: more than {MOST_SUB_PATHS} subPaths are not supported by this node"
        ));
    }
    let group = content::fs_group(pod);
    make_private(&paths.pod_volumes(uid)).map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        if cancelled.is_cancelled() {
            break;
        }
        let dir = paths.volume(uid, &volume.name);
        let made = match content::source(volume) {
            Source::EmptyDir(source) => empty_dir(&dir, source, memory_size(pod, source, facts), group),
            Source::HostPath(source) => host_path(source),
            Source::Files { .. } => Ok(()),
            Source::Claim => claimed(pod, paths, volume, claims).map(|claimed| found.extend(claimed)),
            Source::Refused(field) => {
                Err(format!("spec.volumes[{index}].{field} is not supported by this node"))
            }
        };
        made.map_err(|error| failed(&volume.name, &error))?;
    }
    Ok(found)
}

/// Makes the volumes that come out of the API hold what was fetched. An error is the message of a
/// `FailedMount` Event.
pub fn write_files(
    pod: &Pod,
    paths: &Paths,
    fetched: &Fetched,
    facts: &Facts,
    cancelled: &CancellationToken,
) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let group = content::fs_group(pod);
    let mut left = Budget::new(budget::FILES);
    for volume in volumes {
        let Source::Files { in_memory } = content::source(volume) else { continue };
        if cancelled.is_cancelled() {
            break;
        }
        let written = content::files(pod, volume, fetched, facts, &mut left)
            .and_then(|files| files_volume(&paths.volume(uid, &volume.name), in_memory, &files, group));
        written.map_err(|error| failed(&volume.name, &error))?;
    }
    Ok(())
}

/// Gives the files of a claimed volume to the pod's group and notes that the pod has it. Dropped, it
/// ends soon. An error is the message of a `FailedMount` Event.
pub async fn hand_over(paths: &Paths, uid: &str, claimed: &Claimed) -> Result<(), String> {
    let Claimed { volume, found, group } = claimed;
    if let Some((group, only_on_mismatch)) = *group {
        let given = ownership::give(found.path.clone(), group, only_on_mismatch).await;
        given.map_err(|error| {
            failed(volume, &format!("applyFSGroup failed for vol {}: {error}", found.path.display()))
        })?;
    }
    claim::note(paths, uid, volume, found).map_err(|error| failed(volume, &error.to_string()))
}

fn failed(volume: &str, error: &str) -> String {
    format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}")
}

/// The mounts of a container. An error is the message of a `CreateContainerConfigError`.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    paths: &Paths,
    variables: &Variables,
) -> Result<Vec<Mount>, String> {
    let list = container.volume_mounts.as_deref().unwrap_or_default();
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err("volumeDevices is not supported by this node".to_owned());
    }
    list.iter()
        .enumerate()
        .map(|(index, wanted)| one_mount(pod, container, paths, variables, index, wanted))
        .collect()
}

fn one_mount(
    pod: &Pod,
    container: &Container,
    paths: &Paths,
    variables: &Variables,
    index: usize,
    wanted: &VolumeMount,
) -> Result<Mount, String> {
    if let Some(mode) = wanted.mount_propagation.as_deref().filter(|mode| *mode != "None") {
        return Err(format!("volumeMounts[{index}].mountPropagation: {mode} is not supported by this node"));
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let volume = volumes.iter().find(|v| v.name == wanted.name).ok_or_else(|| {
        format!("cannot find volume \"{}\" to mount into container \"{}\"", wanted.name, container.name)
    })?;
    let (root, always_read_only) = match content::source(volume) {
        Source::HostPath(source) => (PathBuf::from(&source.path), false),
        Source::EmptyDir(_) => (paths.volume(uid, &volume.name), false),
        Source::Files { .. } => (paths.volume(uid, &volume.name), true),
        Source::Claim => {
            let found = claim::noted(paths, uid, &volume.name);
            let found = found.ok_or_else(|| format!("volume \"{}\" is not in place", volume.name))?;
            (found.path, found.read_only)
        }
        Source::Refused(field) => return Err(format!("volume type {field} is not supported by this node")),
    };
    let sub_path = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (_, Some(expr)) if !expr.is_empty() => expand(expr, variables)?,
        (Some(path), _) => path.clone(),
        _ => String::new(),
    };
    let source = if sub_path.is_empty() {
        root
    } else {
        let target = paths.subpath(uid, &container.name, index);
        mount::bind_beneath(&root, &sub_path, &target).map_err(|error| {
            let error = match error.raw_os_error() {
                Some(libc::EXDEV) => "it leads out of the volume".to_owned(),
                _ => error.to_string(),
            };
            format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                wanted.name, container.name
            )
        })?;
        target
    };
    Ok(Mount {
        source: source.to_string_lossy().into_owned(),
        target: wanted.mount_path.clone(),
        read_only: always_read_only || wanted.read_only.unwrap_or(false),
        recursive_read_only: matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
    })
}

/// How large a directory in memory may become: no larger than its own limit, than what the pod's
/// containers may have, and than what the node has for pods, as with the kubelet.
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource, facts: &Facts) -> Option<i64> {
    let own = source.size_limit.as_ref().and_then(|q| Amount::parse(&q.0).ok()).map(Amount::units);
    let of_pod = pod.spec.as_ref().and_then(memory_limit);
    let sizes = [own, of_pod, Some(facts.allocatable_memory.units())];
    sizes.into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

fn empty_dir(
    dir: &Path,
    source: &EmptyDirVolumeSource,
    memory_bytes: Option<i64>,
    group: Option<u32>,
) -> Result<(), String> {
    // Any user of any container may write here, until one of them says otherwise.
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    let made = match source.medium.as_deref().unwrap_or_default() {
        "" => make_open(dir, mode, group),
        "Memory" => mount::tmpfs(dir, mode, group, memory_bytes),
        other => return Err(format!("emptyDir.medium {other} is not supported by this node")),
    };
    made.map_err(|error| format!("{}: {error}", dir.display()))
}

/// Makes a directory of this mode and group, once: afterwards these are its containers'.
fn make_open(dir: &Path, mode: u32, group: Option<u32>) -> std::io::Result<()> {
    if dir.try_exists()? {
        return Ok(());
    }
    // No volume's name begins with a dot. One that is cut short is made anew.
    let next = dir.with_file_name(".next");
    std::fs::create_dir_all(&next)?;
    if group.is_some() {
        std::os::unix::fs::chown(&next, None, group)?;
    }
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&next, dir)
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let found = std::fs::metadata(path).ok().map(|m| m.file_type());
    let failed = |what: &str| format!("hostPath type check failed: {} is not {what}", source.path);
    let io = |error: std::io::Error| format!("{}: {error}", source.path);
    let holds = |is: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(is);
    match source.type_.as_deref().unwrap_or_default() {
        // As container runtimes do, so that a pod does not depend on what was there before it.
        "" | "DirectoryOrCreate" if found.is_none() => std::fs::create_dir_all(path).map_err(io),
        "" => Ok(()),
        "Directory" | "DirectoryOrCreate" => {
            holds(|t| t.is_dir()).then_some(()).ok_or_else(|| failed("a directory"))
        }
        "FileOrCreate" if found.is_none() => std::fs::File::create_new(path).map(drop).map_err(io),
        "File" | "FileOrCreate" => holds(|t| t.is_file()).then_some(()).ok_or_else(|| failed("a file")),
        "Socket" => holds(|t| t.is_socket()).then_some(()).ok_or_else(|| failed("a socket file")),
        "CharDevice" => {
            holds(|t| t.is_char_device()).then_some(()).ok_or_else(|| failed("a character device"))
        }
        "BlockDevice" => holds(|t| t.is_block_device()).then_some(()).ok_or_else(|| failed("a block device")),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

/// Finds what a claim is bound to, once: a pod keeps the volume that it has.
fn claimed(pod: &Pod, paths: &Paths, volume: &Volume, claims: &Claims) -> Result<Option<Claimed>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if claim::noted(paths, uid, &volume.name).is_some() {
        return Ok(None);
    }
    let nothing = claim::Fetched::default();
    let name = claim::name(pod, volume).unwrap_or_default();
    let api = claims.claims.get(&name).unwrap_or(&nothing);
    let (found, prepare) = claim::find(pod, volume, api, &claims.node_labels)?;
    let mut group = None;
    match prepare {
        claim::Prepare::HostPath(source) => host_path(&source)?,
        claim::Prepare::Local => {
            if !found.path.exists() {
                return Err(format!("path \"{}\" does not exist", found.path.display()));
            }
            let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
            let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
            let wanted = content::fs_group(pod).filter(|_| !found.read_only && found.path.is_dir());
            group = wanted.map(|group| (group, policy == Some("OnRootMismatch")));
        }
    }
    Ok(Some(Claimed { volume: volume.name.clone(), found, group }))
}

fn files_volume(dir: &Path, in_memory: bool, files: &[File], group: Option<u32>) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{}: {error}", dir.display());
    if in_memory {
        // The next version of all files is written beside the present one.
        mount::tmpfs(dir, 0o755, None, Some(2 * budget::FILES.bytes as i64)).map_err(text)?;
    } else {
        std::fs::create_dir_all(dir).map_err(text)?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(text)?;
    write::write(dir, files, group).map_err(text)
}

/// Makes a directory that only root looks into.
fn make_private(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::downward::Facts;
    use serde_json::{Value, json};

    fn facts() -> Facts {
        let none = Amount::ZERO;
        Facts {
            host_ip: [192, 0, 2, 1].into(),
            pod_ip: [10, 42, 0, 7].into(),
            allocatable_cpu: none,
            allocatable_memory: none,
            memory_capacity: none,
            allocatable_storage: none,
        }
    }

    fn pod(volume: Value) -> Pod {
        let mut volume = volume;
        volume["name"] = json!("v");
        let mounts =
            json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/s", "subPath": "a/b"}]);
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"volumes": [volume], "containers": [{"name": "c", "volumeMounts": mounts}]},
        }))
        .unwrap()
    }

    fn set_up(pod: &Pod, paths: &Paths, fetched: &Fetched) -> Result<(), String> {
        let go_on = CancellationToken::new();
        prepare(pod, paths, &Claims::default(), &facts(), &go_on)?;
        write_files(pod, paths, fetched, &facts(), &go_on)
    }

    fn check(volume: Value, expected: Result<(), &str>) {
        let dir = tempfile::tempdir().unwrap();
        let found = set_up(&pod(volume), &Paths::new(dir.path()), &Fetched::default());
        assert_eq!(found.as_ref().copied().map_err(String::as_str), expected);
    }

    #[test]
    fn what_cannot_be_set_up_says_why() {
        check(json!({"emptyDir": {}}), Ok(()));
        check(
            json!({"nfs": {"server": "x", "path": "/"}}),
            Err("MountVolume.SetUp failed for volume \"v\" : spec.volumes[0].nfs is not supported by this \
                 node"),
        );
        check(
            json!({"persistentVolumeClaim": {"claimName": "x"}}),
            Err(
                "MountVolume.SetUp failed for volume \"v\" : error processing PVC n/x: failed to fetch PVC from \
                 API server: persistentvolumeclaims \"x\" not found",
            ),
        );
        check(
            json!({"configMap": {"name": "x"}}),
            Err("MountVolume.SetUp failed for volume \"v\" : configmap \"x\" not found"),
        );
        check(json!({"configMap": {"name": "x", "optional": true}}), Ok(()));
        check(
            json!({"hostPath": {"path": "/dev/null", "type": "Directory"}}),
            Err(
                "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: /dev/null is not a \
                 directory",
            ),
        );
        check(json!({"hostPath": {"path": "/dev/null", "type": "CharDevice"}}), Ok(()));
    }

    #[test]
    fn what_is_named_often_is_not_copied_without_end() {
        let fetched = |key: &str, value: String| {
            let map = json!({"metadata": {"name": "m"}, "data": {key: value}});
            let mut fetched = Fetched::default();
            fetched.sources.config_maps.insert("m".to_owned(), serde_json::from_value(map).unwrap());
            fetched
        };
        let refused = |volume: Value, value: String, expected: &str| {
            let mut pod = pod(volume);
            pod.metadata.annotations = Some([("a".to_owned(), "x".repeat(200_000))].into());
            let dir = tempfile::tempdir().unwrap();
            let error = set_up(&pod, &Paths::new(dir.path()), &fetched("k", value)).unwrap_err();
            assert_eq!(error, format!("MountVolume.SetUp failed for volume \"v\" : {expected}"));
        };
        let large = "its files are larger than 32 MiB";
        let path = |n: usize| format!("f{n}");
        let items: Vec<Value> = (0..100).map(|n| json!({"key": "k", "path": path(n)})).collect();
        refused(json!({"configMap": {"name": "m", "items": items}}), "x".repeat(1 << 20), large);
        let projected = |count: usize| {
            let source = |n| json!({"configMap": {"name": "m", "items": [{"key": "k", "path": path(n)}]}});
            json!({"projected": {"sources": (0..count).map(source).collect::<Vec<_>>()}})
        };
        refused(projected(16_000), "x".repeat(1 << 20), large);
        refused(projected(16_385), "x".to_owned(), "the pod has more than 16384 files out of the API");
        let told = |n| json!({"path": path(n), "fieldRef": {"fieldPath": "metadata.annotations"}});
        let told: Vec<Value> = (0..15_000).map(told).collect();
        refused(json!({"downwardAPI": {"items": told}}), String::new(), large);
    }

    #[test]
    fn only_so_many_volumes() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |pod: &Pod| set_up(pod, &Paths::new(dir.path()), &Fetched::default()).unwrap_err();
        let few = pod(json!({"emptyDir": {}}));
        let mut pod = few.clone();
        let volumes = pod.spec.as_mut().unwrap().volumes.as_mut().unwrap();
        volumes.resize(MOST_VOLUMES + 1, volumes[0].clone());
        assert_eq!(refused(&pod), "spec.volumes: more than 1024 are not supported by this node");
        let mut pod = few;
        let mounts = pod.spec.as_mut().unwrap().containers[0].volume_mounts.as_mut().unwrap();
        mounts.resize(MOST_SUB_PATHS + 2, mounts[1].clone());
        let expected = "volumeMounts: more than 1024 subPaths are not supported by this node";
        assert_eq!(refused(&pod), expected);
    }

    #[test]
    fn nothing_is_made_for_a_pod_that_is_being_stopped() {
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let files = pod(json!({"configMap": {"name": "m", "optional": true}}));
        write_files(&files, &paths, &Fetched::default(), &facts(), &cancelled).unwrap();
        let scratch = pod(json!({"emptyDir": {}}));
        prepare(&scratch, &paths, &Claims::default(), &facts(), &cancelled).unwrap();
        assert!(!paths.volume("u", "v").exists());
    }

    #[test]
    fn an_empty_dir_is_opened_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let pod = pod(json!({"emptyDir": {}}));
        let of_pod = paths.volume("u", "v");
        let mode = || std::fs::metadata(&of_pod).unwrap().permissions().mode() & 0o7777;
        set_up(&pod, &paths, &Fetched::default()).unwrap();
        assert_eq!(mode(), 0o777);
        std::fs::set_permissions(&of_pod, std::fs::Permissions::from_mode(0o700)).unwrap();
        set_up(&pod, &paths, &Fetched::default()).unwrap();
        assert_eq!(mode(), 0o700, "a container has closed it");
    }

    #[test]
    fn mounts_of_an_empty_dir() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut pod = pod(json!({"emptyDir": {}}));
        set_up(&pod, &paths, &Fetched::default()).unwrap();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        // The other mount needs the right to mount.
        container.volume_mounts.as_mut().unwrap().truncate(1);
        let container = container.clone();
        let found = mounts(&pod, &container, &paths, &Variables::default()).unwrap();
        assert_eq!(found[0].source, paths.volume("u", "v").to_string_lossy());
        assert_eq!((found[0].target.as_str(), found[0].read_only), ("/v", false));
    }
}
