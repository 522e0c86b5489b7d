//! The steps of a start: sandbox, one run of a container.
//!
//! Called by a pod's worker in tasks of their own; each tells the worker how it ended.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use proa_api::references::References;
use proa_sandbox::protocol::{Reply, Request, SandboxConfig, VERSION};
use proa_sandbox::sealed;
use tokio_util::sync::CancellationToken;

use crate::away::away;
use crate::backoff::go_duration;
use crate::engine::{self, Sandbox};
use crate::event::report;
use crate::image::{Content, Image};
use crate::net::{HostPort, Protocol};
use crate::node::descriptors;
use crate::node::host::Host;
use crate::pod::container::{Parts, Program, build};
use crate::pod::env::Sources;
use crate::pod::etc_files;
use crate::pod::image_pull;
use crate::pod::objects::Turn;
use crate::pod::observed::{ImageSeen, Outcome, all_containers, field_path, reason};
use crate::pod::probe::check::{Check, Target};
use crate::pod::resources::pod_limits;
use crate::pod::runtime_class;
use crate::volume::mount;

/// Longest time of a lifecycle hook that runs after a start.
const POST_START_TIMEOUT: Duration = Duration::from_secs(600);
/// Compiling, or waiting for others that compile, is told after so long.
const COMPILING_SAID: Duration = Duration::from_secs(1);
/// SIGKILL.
const KILL: i32 = libc::SIGKILL;

/// Starts a pod's sandbox, connects it and writes the files of its `/etc`.
pub async fn sandbox(host: &Host, pod: &Pod) -> Result<(Sandbox, IpAddr), String> {
    refuse_unsupported(pod)?;
    runtime_class::check(&host.client, pod).await?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dir = host.paths.sandbox(uid);
    if dir.exists() {
        engine::reap(&dir).await.map_err(|error| format!("remove what an earlier sandbox left: {error}"))?;
    }
    mount::set_aside(&host.paths.pod_containers(uid))
        .map_err(|error| format!("remove what earlier containers wrote: {error}"))?;
    let config = sandbox_config(host, pod);
    // Not before: what this pod has left may take long to end.
    let _permit = host.starts.acquire().await;
    let sandbox = Sandbox::start(&dir, &config).await.map_err(|error| error.to_string())?;
    match connect(host, pod, &sandbox).await {
        Ok(ip) => {
            if let Some(annotation) = asks_for_bandwidth(pod) {
                let text = format!("{annotation} has no effect: this node does not shape traffic");
                host.recorder.report(pod, report(None, true, "UndefinedShaper", text));
            }
            Ok((sandbox, ip))
        }
        Err(message) => {
            // The first error says what is wrong.
            let _ = sandbox.stop().await;
            Err(message)
        }
    }
}

/// Connects a sandbox to the network and writes the files of its `/etc`. Doing it again, when the
/// agent comes back, changes nothing.
pub async fn connect(host: &Host, pod: &Pod, sandbox: &Sandbox) -> Result<IpAddr, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let ip = if etc_files::uses_host_network(pod) {
        host.config.node_ip
    } else {
        let ip = host.network.attach(uid, sandbox.pid()).await.map_err(|error| error.to_string())?;
        let ports = wanted_host_ports(pod)?;
        if !ports.is_empty() {
            host.network.set_host_ports(uid, &ports).await.map_err(|error| error.to_string())?;
        }
        IpAddr::V4(ip)
    };
    write_etc(host, pod, ip).await.map_err(|error| error.to_string())?;
    Ok(ip)
}

/// What a run is put together from.
struct Gathered {
    turn: Turn,
    image: Image,
    program: Program,
    sources: Sources,
    services: Vec<Arc<Service>>,
}

/// One start of a container.
pub struct Start {
    /// What all pods share.
    pub host: Arc<Host>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Name of the container.
    pub name: String,
    /// Which run, from 0.
    pub attempt: u32,
    /// The pod's sandbox.
    pub sandbox: Sandbox,
    /// The pod's address.
    pub ip: IpAddr,
    /// The pod is being stopped.
    pub cancelled: CancellationToken,
}

impl Start {
    /// Gets the image, puts the run together and starts it.
    pub async fn run(self, tell: impl Fn(Outcome) + Send) {
        let Some(container) = all_containers(&self.pod).find(|(_, c)| c.name == self.name).map(|(_, c)| c)
        else {
            return tell(Outcome::StartCancelled);
        };
        let gathered = tokio::select! {
            biased;
            () = self.cancelled.cancelled() => return tell(Outcome::StartCancelled),
            gathered = self.gather(container, &tell) => gathered,
        };
        let built = match gathered {
            Ok(gathered) => self.build(gathered).await,
            Err(refused) => Err(refused),
        };
        let request = match built {
            Ok(request) => request,
            Err((reason, message)) => {
                return tell(Outcome::StartBlocked { name: self.name.clone(), reason, message });
            }
        };
        if self.cancelled.is_cancelled() {
            return tell(Outcome::StartCancelled);
        }
        self.forget_older_runs().await;
        let path = field_path(&self.pod, &self.name);
        let created = report(path, false, "Created", format!("Created container: {}", self.name));
        tell(match self.sandbox.request(request).await {
            Ok(Reply::Failed { reason, message }) if reason == reason::RUN_CONTAINER_ERROR => {
                self.host.recorder.report(&self.pod, created);
                Outcome::StartFailed { name: self.name.clone(), attempt: self.attempt, message }
            }
            Ok(Reply::Failed { message, .. }) => {
                let reason = reason::CREATE_CONTAINER_ERROR;
                Outcome::StartBlocked { name: self.name.clone(), reason, message }
            }
            Ok(_) => {
                self.host.recorder.report(&self.pod, created);
                self.post_start(container).await;
                Outcome::Started(self.name.clone())
            }
            Err(error) => {
                let (reason, message) = (reason::RUN_CONTAINER_ERROR, error.to_string());
                Outcome::StartBlocked { name: self.name.clone(), reason, message }
            }
        });
    }

    /// Everything that is waited for and needs no sandbox.
    async fn gather(
        &self,
        container: &Container,
        tell: &(impl Fn(Outcome) + Send),
    ) -> Result<Gathered, image_pull::Refused> {
        let (host, pod) = (&self.host, &self.pod);
        let image = image_pull::ensure(host, pod, container).await?;
        tell(Outcome::Image(self.name.clone(), seen(container, &image)));
        let program = self.program(&image).await?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let wanted = References::of_environment(container);
        let services = host.objects.services(namespace).await;
        let turn = host.objects.turn().await;
        let sources = host.objects.fetch(namespace, &wanted).await;
        let sources = sources.map_err(|message| (reason::CREATE_CONTAINER_CONFIG_ERROR, message))?;
        Ok(Gathered { turn, image, program, sources, services })
    }

    /// Puts the run together, away from the threads that serve others, and to its end: the pod's
    /// directories are not removed meanwhile.
    async fn build(&self, gathered: Gathered) -> Result<Request, image_pull::Refused> {
        let (host, pod, name) = (Arc::clone(&self.host), Arc::clone(&self.pod), self.name.clone());
        let (attempt, ip) = (self.attempt, self.ip);
        let built = away(move || {
            let Gathered { turn: _turn, image, program, sources, services } = gathered;
            let found = all_containers(&pod).find(|(_, c)| c.name == name);
            let (_, container) = found.ok_or_else(|| format!("container {name} not found"))?;
            build(&Parts {
                pod: &pod,
                container,
                attempt,
                image: &image,
                program,
                sources: &sources,
                services: &services,
                facts: &host.facts(ip),
                paths: &host.paths,
                node_address: node_address(&host, &pod),
            })
        });
        let container = built.await.map_err(|message| (reason::CREATE_CONTAINER_CONFIG_ERROR, message))?;
        Ok(Request::Start(Box::new(container)))
    }

    /// What is in the image, ready to run. Compiling that takes its time is told.
    async fn program(&self, image: &Image) -> Result<Program, image_pull::Refused> {
        let (module, digest) = match &image.content {
            Content::Layers(layers) => return Ok(Program::Layers(layers.clone())),
            Content::Wasm { module, digest } => (module, digest),
        };
        let path = field_path(&self.pod, &self.name);
        let tell =
            |reason, text| self.host.recorder.report(&self.pod, report(path.clone(), false, reason, text));
        let begin = Instant::now();
        let cache = self.host.paths.wasm();
        let owner = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut compiling = std::pin::pin!(engine::wasm::compile(module, digest, owner, &cache));
        let compiled = match tokio::time::timeout(COMPILING_SAID, &mut compiling).await {
            Ok(compiled) => compiled,
            Err(_) => {
                let name = &image.reference;
                tell("Compiling", format!("Compiling image \"{name}\", which this node does once"));
                let compiled = compiling.await;
                if compiled.is_ok() {
                    let took = go_duration(begin.elapsed());
                    tell("Compiled", format!("Successfully compiled image \"{name}\" in {took}"));
                }
                compiled
            }
        };
        let compiled = compiled.map_err(|error| (reason::CREATE_CONTAINER_ERROR, error.to_string()))?;
        Ok(Program::Wasm(compiled.path, compiled.shape))
    }

    /// The run before stays, for its log and its end; what was before that is removed.
    async fn forget_older_runs(&self) {
        let Some(old) = self.attempt.checked_sub(2) else { return };
        let id = format!("{}-{old}", self.name);
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        // It may be unknown to this sandbox.
        let _ = self.sandbox.request(Request::Remove { id: id.clone() }).await;
        let left = self.host.paths.termination_log(uid, &id);
        let log = self.host.paths.log(&self.pod, &self.name, old);
        away(move || {
            let _ = std::fs::remove_file(left);
            crate::server::logs::remove(&log);
        })
        .await;
    }

    async fn post_start(&self, container: &Container) {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return };
        let id = format!("{}-{}", self.name, self.attempt);
        let target = Target { sandbox: self.sandbox.clone(), id: id.clone() };
        let called = match Check::of_hook(hook, container, self.ip) {
            Ok(check) => check.run(&target, POST_START_TIMEOUT).await,
            Err(message) => Err(message),
        };
        if let Err(message) = called {
            let path = field_path(&self.pod, &self.name);
            let text = format!("PostStartHook failed: {message}");
            self.host.recorder.report(&self.pod, report(path.clone(), true, "FailedPostStartHook", text));
            let text = format!("FailedPostStartHook: container {} is killed", self.name);
            self.host.recorder.report(&self.pod, report(path, false, "Killing", text));
            let _ = self.sandbox.request(Request::Signal { id, signal: KILL, all: true }).await;
        }
    }
}

/// Where this node's health checks of a pod come from: the near end of what they go through.
fn node_address(host: &Host, pod: &Pod) -> IpAddr {
    if etc_files::uses_host_network(pod) { host.config.node_ip } else { host.network.gateway().into() }
}

fn seen(container: &Container, image: &Image) -> ImageSeen {
    let repository = image.repository();
    ImageSeen {
        asked: container.image.clone().unwrap_or_default(),
        reference: image.reference.clone(),
        id: format!("{repository}@{}", image.digest),
    }
}

fn sandbox_config(host: &Host, pod: &Pod) -> SandboxConfig {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let context = spec.and_then(|s| s.security_context.as_ref());
    let sysctls = context.and_then(|c| c.sysctls.clone()).unwrap_or_default();
    SandboxConfig {
        version: VERSION,
        cgroup: host.cgroup(&uid),
        pod_uid: uid,
        pod: format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name)),
        hostname: etc_files::kernel_hostname(pod, &host.names),
        host_network: etc_files::uses_host_network(pod),
        host_ipc: spec.and_then(|s| s.host_ipc).unwrap_or(false),
        share_process_namespace: spec.and_then(|s| s.share_process_namespace).unwrap_or(false),
        resources: pod_limits(pod, host.config.pod_max_pids),
        programs: sealed::directory(),
        descriptors: descriptors::of_pods(),
        sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
    }
}

async fn write_etc(host: &Host, pod: &Pod, ip: IpAddr) -> std::io::Result<()> {
    let dir = host.paths.etc(pod.metadata.uid.as_deref().unwrap_or_default());
    let files = [
        ("hosts", etc_files::hosts(pod, ip, &host.names)),
        ("resolv.conf", etc_files::resolv_conf(pod, &host.names)),
        ("hostname", format!("{}\n", etc_files::kernel_hostname(pod, &host.names))),
    ];
    away(move || {
        std::fs::create_dir_all(&dir)?;
        files.into_iter().try_for_each(|(name, text)| std::fs::write(dir.join(name), text))
    })
    .await
}

/// The annotations that named seccomp profiles before there was a field for them.
const SECCOMP_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/";

/// What some network plugins read: <https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/>.
const BANDWIDTH_ANNOTATIONS: [&str; 2] =
    ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];

/// Fields of a pod that would be silently lost otherwise.
fn refuse_unsupported(pod: &Pod) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let containers = || all_containers(pod).map(|(_, container)| container);
    let seccomp = pod
        .metadata
        .annotations
        .iter()
        .flatten()
        .find(|(key, profile)| key.contains(SECCOMP_ANNOTATION) && profile.starts_with("localhost/"));
    if let Some((annotation, _)) = seccomp {
        return Err(format!("metadata.annotations[{annotation}] is not supported by this node"));
    }
    let refused = [
        ("spec.resources", spec.resources.is_some()),
        (
            "restartPolicyRules",
            containers().any(|c| c.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty())),
        ),
        ("spec.hostUsers", spec.host_users == Some(false)),
        ("spec.resourceClaims", spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty())),
    ];
    match refused.into_iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(format!("{field} is not supported by this node")),
        None => wanted_host_ports(pod).map(drop),
    }
}

fn asks_for_bandwidth(pod: &Pod) -> Option<&'static str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    BANDWIDTH_ANNOTATIONS.into_iter().find(|annotation| annotations.contains_key(*annotation))
}

fn wanted_host_ports(pod: &Pod) -> Result<Vec<HostPort>, String> {
    if etc_files::uses_host_network(pod) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (_, container) in all_containers(pod) {
        for port in container.ports.iter().flatten() {
            let Some(host_port) = port.host_port.filter(|p| *p > 0) else { continue };
            let protocol = Protocol::from_api(port.protocol.as_deref());
            let protocol = protocol.ok_or_else(|| format!("hostPort of protocol {:?}", port.protocol))?;
            let host_address = host_address(port.host_ip.as_deref().unwrap_or_default())?;
            let number = |n: i32| u16::try_from(n).map_err(|_| format!("invalid port number: {n}"));
            let (host_port, container_port) = (number(host_port)?, number(port.container_port)?);
            found.push(HostPort { protocol, host_address, host_port, container_port });
        }
    }
    Ok(found)
}

/// Without a hostIP all addresses of the host are meant.
fn host_address(host_ip: &str) -> Result<Ipv4Addr, String> {
    match host_ip {
        "" => Ok(Ipv4Addr::UNSPECIFIED),
        ip => ip.parse().map_err(|_| format!("hostIP {ip} is not an IPv4 address, and pods have no other")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    #[test]
    fn image_ids() {
        let image = |reference: &str| Image {
            reference: reference.to_owned(),
            id: "sha256:c".to_owned(),
            digest: "sha256:d".to_owned(),
            size_bytes: 1,
            config: ImageConfig::default(),
            content: Content::Layers(Vec::new()),
            pulled: false,
            devices_left_out: 0,
        };
        for (reference, id) in [
            ("docker.io/library/nginx:1", "docker.io/library/nginx@sha256:d"),
            ("localhost:5000/a", "localhost:5000/a@sha256:d"),
            ("localhost:5000/a:1", "localhost:5000/a@sha256:d"),
            ("r.example/a@sha256:x", "r.example/a@sha256:d"),
        ] {
            assert_eq!(seen(&Container::default(), &image(reference)).id, id);
        }
    }
}
