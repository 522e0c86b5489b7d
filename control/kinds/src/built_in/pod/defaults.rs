//! What the API reference says of fields of a pod that are absent.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, LifecycleHandler, ObjectFieldSelector, PodSpec, Probe, ProjectedVolumeSource,
    Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proa_api::names::DEFAULT_SCHEDULER;
use proa_api::quantity::Amount;

use crate::built_in::persistent_volume_claim;

/// `0644`: files of volumes are readable by all unless told.
const FILE_MODE: i32 = 0o644;
const GRACE_PERIOD_SECONDS: i64 = 30;
/// How long a pod stays bound to a node that does not answer.
const LOST_NODE_SECONDS: i64 = 300;
const TOKEN_SECONDS: i64 = 3600;

/// Fills in a pod's spec.
pub fn spec(spec: &mut PodSpec) {
    let text = |value: &str| Some(value.to_owned());
    spec.restart_policy = spec.restart_policy.take().or(text("Always"));
    spec.dns_policy = spec.dns_policy.take().or(text("ClusterFirst"));
    spec.scheduler_name = spec.scheduler_name.take().or(text(DEFAULT_SCHEDULER));
    spec.termination_grace_period_seconds.get_or_insert(GRACE_PERIOD_SECONDS);
    spec.security_context.get_or_insert_default();
    // Both names of the account are kept, and agree; the older one decides for nobody.
    if spec.service_account_name.is_none() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        self::container(container);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
}

/// Fills in what a pod has and a template has not.
pub fn pod_only(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(true);
    let host_network = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        for port in container.ports.iter_mut().flatten().filter(|_| host_network) {
            if port.host_port.unwrap_or_default() == 0 {
                port.host_port = Some(port.container_port);
            }
        }
        let Some(resources) = &mut container.resources else { continue };
        // A limit without a request asks for all of what it limits.
        for (name, limit) in resources.limits.iter().flatten() {
            resources.requests.get_or_insert_default().entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// Lets a pod stay five minutes on a node that is lost, unless it says otherwise itself.
pub fn tolerate_lost_nodes(spec: &mut PodSpec) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        let says = |t: &Toleration| {
            let key_fits = t.key.as_deref().is_none_or(|k| k.is_empty() || k == key);
            key_fits && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute")
        };
        if !tolerations.iter().any(says) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(LOST_NODE_SECONDS),
                value: None,
            });
        }
    }
}

/// A container's defaults.
fn container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    container.image_pull_policy.get_or_insert_with(|| policy.to_owned());
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    for variable in container.env.iter_mut().flatten() {
        env(variable);
    }
    container.resources.get_or_insert_default();
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    for probe in probes.into_iter().flatten() {
        self::probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            handler(hook);
        }
    }
}

/// True if a reference names no version, or `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn env(variable: &mut EnvVar) {
    let Some(source) = &mut variable.value_from else { return };
    if let Some(field) = &mut source.field_ref {
        field_ref(field);
    }
    if let Some(resource) = &mut source.resource_field_ref {
        resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
    }
    if let Some(file) = &mut source.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    field.api_version.get_or_insert_with(|| "v1".to_owned());
}

fn probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    // Zero is the same as absent here.
    for (value, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if *value == Some(0) {
            *value = Some(default);
        }
    }
    if probe.initial_delay_seconds == Some(0) {
        probe.initial_delay_seconds = None;
    }
    if let Some(get) = &mut probe.http_get {
        get.scheme.get_or_insert_with(|| "HTTP".to_owned());
        get.path.get_or_insert_with(|| "/".to_owned());
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn handler(handler: &mut LifecycleHandler) {
    if let Some(get) = &mut handler.http_get {
        get.scheme.get_or_insert_with(|| "HTTP".to_owned());
        get.path.get_or_insert_with(|| "/".to_owned());
    }
}

fn volume(volume: &mut Volume) {
    if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(FILE_MODE);
    } else if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    } else if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        for field in downward.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()) {
            field_ref(field);
        }
    } else if let Some(projected) = &mut volume.projected {
        self::projected(projected);
    } else if let Some(path) = &mut volume.host_path {
        path.type_.get_or_insert_default();
    } else if let Some(ephemeral) = &mut volume.ephemeral {
        if let Some(template) = &mut ephemeral.volume_claim_template {
            persistent_volume_claim::default_spec(&mut template.spec);
        }
    } else if !super::volume::has_source(volume) {
        volume.empty_dir = Some(Default::default());
    }
}

fn projected(projected: &mut ProjectedVolumeSource) {
    projected.default_mode.get_or_insert(FILE_MODE);
    for source in projected.sources.iter_mut().flatten() {
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
        let items = source.downward_api.iter_mut().flat_map(|downward| downward.items.iter_mut().flatten());
        for field in items.filter_map(|item| item.field_ref.as_mut()) {
            field_ref(field);
        }
    }
}

/// Which pods go first when memory runs out: <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let amount = |amounts: Option<&BTreeMap<String, Quantity>>, name: &str| {
        let quantity = amounts.and_then(|amounts| amounts.get(name))?;
        Amount::parse(&quantity.0).ok().filter(|amount| *amount > Amount::ZERO)
    };
    let limits = |c: &Container| c.resources.as_ref().and_then(|r| r.limits.clone());
    let requests = |c: &Container| c.resources.as_ref().and_then(|r| r.requests.clone());
    let names = ["cpu", "memory"];
    let asks = |c: &Container| {
        names.iter().any(|n| amount(limits(c).as_ref(), n).or(amount(requests(c).as_ref(), n)).is_some())
    };
    if !containers().any(asks) {
        return "BestEffort";
    }
    let guaranteed = |c: &Container| {
        names.iter().all(|n| {
            let limit = amount(limits(c).as_ref(), n);
            limit.is_some() && amount(requests(c).as_ref(), n).is_none_or(|request| Some(request) == limit)
        })
    };
    if containers().all(guaranteed) { "Guaranteed" } else { "Burstable" }
}
