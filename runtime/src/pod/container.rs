//! One run of a container as the sandbox is told it.
//!
//! Fed by `start.rs` with everything fetched; makes the few directories and files that only this
//! run needs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use proa_sandbox::protocol::{self, Mount, Payload, Security, User, WasmShape};

use crate::image::Image;
use crate::image::tree::Tree;
use crate::node::paths::Paths;
use crate::pod::downward::Facts;
use crate::pod::env::{self, Sources, Variables};
use crate::pod::plan::grace_period;
use crate::pod::request_limits::{self, request_limits};
use crate::pod::resources::limits;
use crate::pod::security::{ImageUsers, security};
use crate::volume;

/// No account file of an image is larger.
const ACCOUNTS_MAX_BYTES: u64 = 1 << 20;
/// A log is rotated when it grows over this, as the kubelet's default has it.
const LOG_MAX_BYTES: u64 = 10 << 20;
/// Rotated logs kept beside the current one.
const LOG_MAX_FILES: u32 = 4;
/// Where a Wasm HTTP component is served whose container names no port.
const DEFAULT_PORT: u16 = 80;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a container may leave its last words unless it says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// What a run is made of.
pub struct Parts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its container.
    pub container: &'a Container,
    /// Which run, from 0.
    pub attempt: u32,
    /// The container's image.
    pub image: &'a Image,
    /// What is in the image.
    pub program: Program,
    /// What its environment refers to.
    pub sources: &'a Sources,
    /// Services of its namespace.
    pub services: &'a [Arc<Service>],
    /// What its fields refer to.
    pub facts: &'a Facts,
    /// Where things lie.
    pub paths: &'a Paths,
    /// Where the node's health checks come from.
    pub node_address: IpAddr,
}

/// What is in an image, ready to run.
pub enum Program {
    /// Layers of a root file system, lowest first.
    Layers(Vec<PathBuf>),
    /// A compiled Wasm file and what it is.
    Wasm(PathBuf, WasmShape),
}

/// Puts it together. An error is the message of a `CreateContainerConfigError`.
pub fn build(parts: &Parts<'_>) -> Result<protocol::Container, String> {
    let Parts { pod, container, attempt, image, paths, facts, .. } = parts;
    refuse_unsupported(container)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let id = format!("{}-{attempt}", container.name);
    let own = env::variables(pod, container, parts.sources, parts.services, facts)?;
    let (entrypoint, cmd) = (&image.config.entrypoint, &image.config.cmd);
    let mut args = env::arguments(container, entrypoint, cmd, &own)?;
    let mut mounts = etc_mounts(&paths.etc(uid), container);
    if wants_termination_log(container, &parts.program) {
        mounts.extend(termination_mount(container, &paths.termination_log(uid, &id))?);
    }
    mounts.extend(volume::mounts(pod, container, paths, &own)?);
    let mut variables = Variables::new(&image.config.env)?;
    let mut home = None;
    let payload = match &parts.program {
        Program::Layers(layers) => {
            request_limits::refuse_lost(pod, &container.name, false)?;
            let users = image_users(&image.config.user, layers)?;
            let (security, of_user) = security(pod, container, &users)?;
            // A user whom the image does not know is at home in the root, as with other runtimes.
            home = Some(of_user.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned()));
            variables.set_default("PATH", DEFAULT_PATH)?;
            Payload::Oci {
                layers: layers.iter().map(|l| l.to_string_lossy().into_owned()).collect(),
                scratch: paths.scratch(uid, &id).to_string_lossy().into_owned(),
                volumes: image.config.volumes.clone(),
                security: Box::new(security),
            }
        }
        Program::Wasm(compiled, shape) => {
            refuse_programs(container)?;
            // The guest's own name comes first; an artifact without an entry point has none.
            if entrypoint.is_empty() && container.command.as_ref().is_none_or(Vec::is_empty) {
                args.insert(0, container.name.clone());
            }
            let (security, user) = wasm_security(pod, container, &image.config.user)?;
            Payload::Wasm {
                compiled: compiled.to_string_lossy().into_owned(),
                shape: *shape,
                port: http_port(container),
                grace_period_seconds: grace_period(pod).as_secs(),
                user,
                requests: request_limits(pod, &container.name, *shape, parts.node_address)?,
                seccomp_unconfined: security.seccomp_unconfined,
                drop_capabilities: security.drop_capabilities,
            }
        }
    };
    if args.is_empty() {
        return Err("no command specified".to_owned());
    }
    variables.extend(own)?;
    // Where it is empty, other runtimes take the user's too.
    home.map_or(Ok(()), |home| variables.fill("HOME", &home))?;
    let wanted_dir = container.working_dir.clone().filter(|dir| !dir.is_empty());
    let cwd = wanted_dir.unwrap_or_else(|| image.config.working_dir.clone());
    Ok(protocol::Container {
        id,
        args,
        env: variables.into_pairs(),
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        log_path: paths.log(pod, &container.name, *attempt).to_string_lossy().into_owned(),
        log_max_bytes: LOG_MAX_BYTES,
        log_max_files: LOG_MAX_FILES,
        mounts,
        resources: limits(pod, container, facts.memory_capacity.units()),
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        payload,
    })
}

/// Fields that would be silently lost otherwise.
fn refuse_unsupported(container: &Container) -> Result<(), String> {
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    for (name, probe) in probes {
        if probe.as_ref().is_some_and(|p| p.grpc.is_some()) {
            return Err(format!("{name}.grpc is not supported by this node"));
        }
    }
    Ok(())
}

/// A Wasm container holds no programs beside its own: what would run one there is refused, rather
/// than failing again and again.
fn refuse_programs(container: &Container) -> Result<(), String> {
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    let probes = probes.map(|(name, probe)| (name, probe.as_ref().is_some_and(|p| p.exec.is_some())));
    let hooks = container.lifecycle.as_ref();
    let hooks = [
        ("lifecycle.postStart", hooks.and_then(|l| l.post_start.as_ref())),
        ("lifecycle.preStop", hooks.and_then(|l| l.pre_stop.as_ref())),
    ];
    let hooks = hooks.map(|(name, hook)| (name, hook.is_some_and(|h| h.exec.is_some())));
    match probes.into_iter().chain(hooks).find(|(_, runs)| *runs) {
        Some((name, _)) => {
            Err(format!("{name}.exec is not possible in a Wasm container, which holds no other programs"))
        }
        None => Ok(()),
    }
}

/// A server's requests would each pay for a directory more, and a server rarely has last words: it
/// gets the file only where it asks for one.
fn wants_termination_log(container: &Container, program: &Program) -> bool {
    let own = container.termination_message_path.as_deref().is_some_and(|path| path != TERMINATION_LOG);
    own || !matches!(program, Program::Wasm(_, WasmShape::Http))
}

/// The privileges of a Wasm container, and whom it runs as, if its pod says so. There are no account
/// files in its image.
fn wasm_security(
    pod: &Pod,
    container: &Container,
    image_user: &str,
) -> Result<(Security, Option<User>), String> {
    let users = ImageUsers { user: image_user.to_owned(), ..ImageUsers::default() };
    let (security, _) = security(pod, container, &users)?;
    let groups = security.additional_gids.clone();
    let user = User { uid: security.uid, gid: security.gid, groups };
    let is_root = user == User { uid: 0, gid: 0, groups: Vec::new() };
    Ok((security, (!is_root).then_some(user)))
}

fn http_port(container: &Container) -> u16 {
    let first = container.ports.iter().flatten().next();
    first.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(DEFAULT_PORT)
}

/// `/etc/hosts` and its like, except where the container mounts something of its own.
fn etc_mounts(etc: &Path, container: &Container) -> Vec<Mount> {
    let taken = |target: &str| container.volume_mounts.iter().flatten().any(|m| m.mount_path == target);
    let read_only =
        container.security_context.as_ref().and_then(|c| c.read_only_root_filesystem).unwrap_or(false);
    ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| (etc.join(name), format!("/etc/{name}")))
        .filter(|(_, target)| !taken(target))
        .map(|(source, target)| {
            let source = source.to_string_lossy().into_owned();
            Mount { source, target, read_only, recursive_read_only: false }
        })
        .collect()
}

fn termination_mount(container: &Container, file: &Path) -> Result<Option<Mount>, String> {
    let target = container.termination_message_path.as_deref().unwrap_or(TERMINATION_LOG);
    if target.is_empty() {
        return Ok(None);
    }
    let text = |error: std::io::Error| format!("{}: {error}", file.display());
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(text)?;
    }
    std::fs::write(file, "").map_err(text)?;
    let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(file, anyone).map_err(text)?;
    let source = file.to_string_lossy().into_owned();
    Ok(Some(Mount { source, target: target.to_owned(), read_only: false, recursive_read_only: false }))
}

/// The image's user and its account files.
fn image_users(user: &str, layers: &[PathBuf]) -> Result<ImageUsers, String> {
    let tree = Tree::new(layers);
    let read = |name: &str| match tree.read(name, ACCOUNTS_MAX_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(format!("read /{name} of the image: {error}")),
    };
    Ok(ImageUsers { user: user.to_owned(), passwd: read("etc/passwd")?, group: read("etc/group")? })
}
