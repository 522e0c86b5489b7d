//! The settings of `proa up`: flags over environment over file over defaults.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use jiff::SignedDuration;
use proa_logic::scheduler::configuration;
use proa_logic::scheduler::settings::Settings;
use proa_logic::world::autoscaling as autoscaler;
use proa_runtime::node::disk::{EVICTION_HARD, Thresholds};
use proa_runtime::pod::sysctl::UnsafeSysctl;
use serde::Deserialize;

/// Where a cluster keeps its state unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/proa";

/// Enough for any program that is not broken, and a small part of what a machine has.
pub const POD_MAX_PIDS: i64 = 4096;
/// The sandbox, what it starts containers with, and a container.
const LEAST_PIDS: i64 = 16;

/// Where the cluster keeps its state, as an option of the commands that need nothing else of it.
#[derive(Args)]
pub struct DataDir {
    /// Directory of the cluster's state
    #[arg(long, env = "PROA_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_parser = absolute)]
    pub data_dir: PathBuf,
}

/// What may be set. Each has the same name as a flag, as `PROA_…` in the environment and as a key
/// of the `--config` file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Read settings from this YAML file
    #[arg(long, env = "PROA_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Directory of the cluster's state [default: /var/lib/proa]
    #[arg(long, env = "PROA_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the Kubernetes API [default: 127.0.0.1:6443]
    #[arg(long, env = "PROA_API_LISTEN")]
    pub api_listen: Option<SocketAddr>,
    /// Address of the ingress for HTTP [default: 127.0.0.1:80]
    #[arg(long, env = "PROA_INGRESS_HTTP")]
    pub ingress_http: Option<SocketAddr>,
    /// Address of the ingress for HTTPS [default: 127.0.0.1:443]
    #[arg(long, env = "PROA_INGRESS_HTTPS")]
    pub ingress_https: Option<SocketAddr>,
    /// TLS Secret, NAMESPACE/NAME, whose certificate the ingress shows for names without one
    #[arg(long, env = "PROA_INGRESS_DEFAULT_SSL_CERTIFICATE")]
    pub ingress_default_ssl_certificate: Option<String>,
    /// Admission plugins beside those that are always on: DenyServiceExternalIPs
    #[arg(long, env = "PROA_ENABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Addresses of the pods [default: 10.42.0.0/16]
    #[arg(long, env = "PROA_CLUSTER_CIDR")]
    pub cluster_cidr: Option<String>,
    /// Addresses of the services [default: 10.43.0.0/16]
    #[arg(long, env = "PROA_SERVICE_CIDR")]
    pub service_cidr: Option<String>,
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, env = "PROA_CLUSTER_DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Further name or address under which the API is reached, for its certificate; may be repeated
    #[arg(long = "tls-san", env = "PROA_TLS_SAN", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Address of this node, at which other nodes reach it [default: that of the API, unless it is loopback; else that of the default route]
    #[arg(long, env = "PROA_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// How long a node may be silent before it counts as not ready [default: 40s]
    #[arg(long, env = "PROA_NODE_MONITOR_GRACE_PERIOD")]
    pub node_monitor_grace_period: Option<String>,
    /// Name of this node [default: the host name]
    #[arg(long, env = "PROA_NODE_NAME")]
    pub node_name: Option<String>,
    /// Read the scheduler's profiles from this KubeSchedulerConfiguration file
    #[arg(long, env = "PROA_SCHEDULER_CONFIG")]
    pub scheduler_config: Option<PathBuf>,
    /// How often autoscalers look at their pods [default: 15s]
    #[arg(long, env = "PROA_HORIZONTAL_POD_AUTOSCALER_SYNC_PERIOD")]
    pub horizontal_pod_autoscaler_sync_period: Option<String>,
    /// For so long autoscalers hold a higher recommendation [default: 5m]
    #[arg(long, env = "PROA_HORIZONTAL_POD_AUTOSCALER_DOWNSCALE_STABILIZATION")]
    pub horizontal_pod_autoscaler_downscale_stabilization: Option<String>,
    /// So far from its target a metric may be without any change of size [default: 0.1]
    #[arg(long, env = "PROA_HORIZONTAL_POD_AUTOSCALER_TOLERANCE")]
    pub horizontal_pod_autoscaler_tolerance: Option<f64>,
    /// For so long after its start a pod's use of CPU counts only while it is ready [default: 5m]
    #[arg(long, env = "PROA_HORIZONTAL_POD_AUTOSCALER_CPU_INITIALIZATION_PERIOD")]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Option<String>,
    /// A pod that became unready no later than this after its start was never ready [default: 30s]
    #[arg(long, env = "PROA_HORIZONTAL_POD_AUTOSCALER_INITIAL_READINESS_DELAY")]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Option<String>,
    /// Serve versions that the newest Kubernetes no longer has, such as extensions/v1beta1 [default: true]
    #[arg(long, env = "PROA_LEGACY_API", action = clap::ArgAction::Set)]
    pub legacy_api: Option<bool>,
    /// Registries that are spoken to without TLS, HOST:PORT; may be repeated
    #[arg(long, env = "PROA_INSECURE_REGISTRIES", value_delimiter = ',')]
    pub insecure_registries: Vec<String>,
    /// Most tasks of a pod on this node; -1 for no limit [default: 4096]
    #[arg(long, env = "PROA_POD_MAX_PIDS", allow_negative_numbers = true)]
    pub pod_max_pids: Option<i64>,
    /// Kernel parameters that pods may set beside the safe ones, such as net.core.somaxconn or kernel.msg*; may be repeated
    #[arg(long, env = "PROA_ALLOWED_UNSAFE_SYSCTLS", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Less free disk than this is pressure: images, then pods are removed; signals as the kubelet's [default: nodefs.available<10%,nodefs.inodesFree<5%]
    #[arg(long, env = "PROA_EVICTION_HARD")]
    pub eviction_hard: Option<String>,
    /// What to log, as tracing directives: info, debug, proa_runtime=trace [default: info]
    #[arg(long, env = "PROA_LOG")]
    pub log: Option<String>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub api_listen: SocketAddr,
    pub ingress_http: SocketAddr,
    pub ingress_https: SocketAddr,
    /// Namespace and name.
    pub ingress_default_certificate: Option<(String, String)>,
    pub deny_external_ips: bool,
    pub legacy_api: bool,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_domain: String,
    pub tls_san: Vec<String>,
    pub node_ip: Option<IpAddr>,
    pub node_monitor_grace_period: SignedDuration,
    pub node_name: String,
    pub scheduler: Settings,
    pub autoscaler: autoscaler::Settings,
    pub insecure_registries: Vec<String>,
    pub pod_max_pids: i64,
    pub allowed_unsafe_sysctls: Vec<UnsafeSysctl>,
    pub eviction_hard: Thresholds,
    pub log: String,
}

/// A path that means the same wherever this program works: it stands in records.
pub fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

impl Options {
    /// Fills in what is not set from the file, then from the defaults.
    pub fn resolve(self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read --config {}", path.display()))?;
                serde_yaml::from_str(&text)
                    .with_context(|| format!("--config {} is not as it should be", path.display()))?
            }
            None => Options::default(),
        };
        let address = |flag: Option<SocketAddr>, file: Option<SocketAddr>, port: u16| {
            flag.or(file).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
        };
        let text = |flag: Option<String>, file: Option<String>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.to_owned())
        };
        let autoscaler = autoscaler_settings(&self, &file)?;
        let node_name = match self.node_name.or(file.node_name) {
            Some(name) => name,
            None => host_name()?,
        };
        Ok(Config {
            data_dir: std::path::absolute(
                self.data_dir.or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            )?,
            api_listen: address(self.api_listen, file.api_listen, 6443),
            ingress_http: address(self.ingress_http, file.ingress_http, 80),
            ingress_https: address(self.ingress_https, file.ingress_https, 443),
            ingress_default_certificate: secret_name(
                self.ingress_default_ssl_certificate.or(file.ingress_default_ssl_certificate),
            )?,
            deny_external_ips: deny_external_ips(match self.enable_admission_plugins.is_empty() {
                true => &file.enable_admission_plugins,
                false => &self.enable_admission_plugins,
            })?,
            legacy_api: self.legacy_api.or(file.legacy_api).unwrap_or(true),
            cluster_cidr: text(self.cluster_cidr, file.cluster_cidr, "10.42.0.0/16"),
            service_cidr: text(self.service_cidr, file.service_cidr, "10.43.0.0/16"),
            cluster_domain: text(self.cluster_domain, file.cluster_domain, "cluster.local"),
            tls_san: if self.tls_san.is_empty() { file.tls_san } else { self.tls_san },
            node_ip: self.node_ip.or(file.node_ip),
            node_monitor_grace_period: grace_period(
                &self.node_monitor_grace_period.or(file.node_monitor_grace_period),
            )?,
            node_name: node_name.to_ascii_lowercase(),
            scheduler: match self.scheduler_config.or(file.scheduler_config) {
                Some(path) => scheduler_settings(&path)?,
                None => Settings::default(),
            },
            autoscaler,
            insecure_registries: insecure_registries(if self.insecure_registries.is_empty() {
                file.insecure_registries
            } else {
                self.insecure_registries
            })?,
            pod_max_pids: most_pids(self.pod_max_pids.or(file.pod_max_pids).unwrap_or(POD_MAX_PIDS))?,
            allowed_unsafe_sysctls: unsafe_sysctls(match self.allowed_unsafe_sysctls.is_empty() {
                true => &file.allowed_unsafe_sysctls,
                false => &self.allowed_unsafe_sysctls,
            })?,
            eviction_hard: text(self.eviction_hard, file.eviction_hard, EVICTION_HARD)
                .parse()
                .map_err(|error| anyhow::anyhow!("--eviction-hard: {error}"))?,
            log: text(self.log, file.log, "info"),
        })
    }
}

fn secret_name(text: Option<String>) -> Result<Option<(String, String)>> {
    let Some(text) = text else { return Ok(None) };
    match text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty()) {
        Some((namespace, name)) => Ok(Some((namespace.to_owned(), name.to_owned()))),
        None => anyhow::bail!("--ingress-default-ssl-certificate {text:?} is not NAMESPACE/NAME of a Secret"),
    }
}

/// The one plugin of the stock server that can be switched here.
const DENY_EXTERNAL_IPS: &str = "DenyServiceExternalIPs";

fn deny_external_ips(plugins: &[String]) -> Result<bool> {
    let unknown = plugins.iter().find(|plugin| *plugin != DENY_EXTERNAL_IPS);
    if let Some(plugin) = unknown {
        anyhow::bail!(
            "--enable-admission-plugins {plugin:?}: only {DENY_EXTERNAL_IPS} can be switched on, others are on or not there"
        );
    }
    Ok(!plugins.is_empty())
}

/// A node renews its Lease every ten seconds; less than that would have all of them silent.
const LEAST_GRACE: SignedDuration = SignedDuration::from_secs(12);

fn grace_period(text: &Option<String>) -> Result<SignedDuration> {
    let Some(text) = text else { return Ok(SignedDuration::from_secs(40)) };
    let period: SignedDuration =
        text.parse().with_context(|| format!("--node-monitor-grace-period {text:?}"))?;
    anyhow::ensure!(
        period >= LEAST_GRACE,
        "--node-monitor-grace-period {text:?}: nodes report every 10s, so it must be at least 12s"
    );
    Ok(period)
}

/// `--pod-max-pids` as text.
pub fn pod_max_pids(text: &str) -> Result<i64> {
    most_pids(text.parse().with_context(|| format!("{text:?} is not a number"))?)
}

fn most_pids(pids: i64) -> Result<i64> {
    anyhow::ensure!(
        pids == -1 || pids >= LEAST_PIDS,
        "--pod-max-pids {pids}: must be -1 for no limit, or at least {LEAST_PIDS}"
    );
    Ok(pids)
}

fn unsafe_sysctls(texts: &[String]) -> Result<Vec<UnsafeSysctl>> {
    let parse =
        |text: &String| text.parse().map_err(|error| anyhow::anyhow!("--allowed-unsafe-sysctls: {error}"));
    texts.iter().map(parse).collect()
}

fn insecure_registries(texts: Vec<String>) -> Result<Vec<String>> {
    let check = |text: &String| {
        proa_runtime::image::insecure_registry(text)
            .map_err(|error| anyhow::anyhow!("--insecure-registries {text:?}: {error}"))
    };
    texts.iter().map(check).collect()
}

fn scheduler_settings(path: &Path) -> Result<Settings> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read --scheduler-config {shown}"))?;
    let value: serde_json::Value =
        serde_yaml::from_str(&text).with_context(|| format!("--scheduler-config {shown} is not YAML"))?;
    configuration::settings(&value)
        .map_err(|error| anyhow::anyhow!("--scheduler-config {shown} is not as it should be: {error}"))
}

/// What autoscalers are set to.
fn autoscaler_settings(flags: &Options, file: &Options) -> Result<autoscaler::Settings> {
    let mut settings = autoscaler::Settings::default();
    let name = |what: &str| format!("--horizontal-pod-autoscaler-{what}");
    let given = |of: fn(&Options) -> &Option<String>| of(flags).as_ref().or(of(file).as_ref());
    for (what, text, setting) in [
        ("sync-period", given(|o| &o.horizontal_pod_autoscaler_sync_period), &mut settings.sync_period),
        (
            "downscale-stabilization",
            given(|o| &o.horizontal_pod_autoscaler_downscale_stabilization),
            &mut settings.downscale_stabilization,
        ),
        (
            "cpu-initialization-period",
            given(|o| &o.horizontal_pod_autoscaler_cpu_initialization_period),
            &mut settings.cpu_initialization_period,
        ),
        (
            "initial-readiness-delay",
            given(|o| &o.horizontal_pod_autoscaler_initial_readiness_delay),
            &mut settings.initial_readiness_delay,
        ),
    ] {
        if let Some(text) = text {
            let parsed = text.parse();
            *setting =
                parsed.with_context(|| format!("{} {text:?} is not a duration such as 15s", name(what)))?;
        }
    }
    let tolerance = flags.horizontal_pod_autoscaler_tolerance.or(file.horizontal_pod_autoscaler_tolerance);
    settings.tolerance = tolerance.unwrap_or(settings.tolerance);
    anyhow::ensure!(
        settings.sync_period.is_positive() && settings.tolerance >= 0.0,
        "{} must be above zero, and {} must not be below it",
        name("sync-period"),
        name("tolerance")
    );
    Ok(settings)
}

/// The name of this machine.
pub fn host_name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host name")?;
    let name = name.trim();
    anyhow::ensure!(!name.is_empty() && name != "(none)", "this host has no name: set --node-name");
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_over_the_file_and_the_file_over_the_default() {
        let dir = std::env::temp_dir().join(format!("proa-config-{}", std::process::id()));
        std::fs::write(&dir, "node-name: from-file\ncluster-domain: file.example\n").unwrap();
        let options = Options {
            config: Some(dir.clone()),
            node_name: Some("From-Flag".to_owned()),
            ..Options::default()
        };
        let config = options.resolve().unwrap();
        assert_eq!(config.node_name, "from-flag");
        assert_eq!(config.cluster_domain, "file.example");
        assert_eq!(config.service_cidr, "10.43.0.0/16");
        let relative = Options {
            data_dir: Some("some/where".into()),
            node_name: Some("n".to_owned()),
            insecure_registries: vec!["r.example:5000".to_owned()],
            ..Options::default()
        };
        let resolved = relative.resolve().unwrap();
        assert_eq!(resolved.data_dir, std::env::current_dir().unwrap().join("some/where"));
        assert_eq!(resolved.insecure_registries, ["r.example:5000"]);
        let url = Options {
            node_name: Some("n".to_owned()),
            insecure_registries: vec!["http://r".to_owned()],
            ..Options::default()
        };
        assert!(url.resolve().unwrap_err().to_string().contains("HOST:PORT"));
        assert_eq!(config.autoscaler, autoscaler::Settings::default());
        let text = |period: &str| Options {
            node_name: Some("n".to_owned()),
            horizontal_pod_autoscaler_sync_period: Some(period.to_owned()),
            ..Options::default()
        };
        assert_eq!(text("1m30s").resolve().unwrap().autoscaler.sync_period.as_secs(), 90);
        let error = format!("{:#}", text("often").resolve().unwrap_err());
        assert!(
            error.starts_with(
                "--horizontal-pod-autoscaler-sync-period \"often\" is not a duration such as 15s"
            ),
            "{error}"
        );
        let plugin = |name: &str| Options {
            node_name: Some("n".to_owned()),
            enable_admission_plugins: vec![name.to_owned()],
            ingress_default_ssl_certificate: Some("web/cert".to_owned()),
            ..Options::default()
        };
        let config = plugin("DenyServiceExternalIPs").resolve().unwrap();
        assert!(config.deny_external_ips && !text("15s").resolve().unwrap().deny_external_ips);
        assert_eq!(config.ingress_default_certificate, Some(("web".to_owned(), "cert".to_owned())));
        let error = plugin("AlwaysAdmit").resolve().unwrap_err().to_string();
        assert!(error.contains("only DenyServiceExternalIPs can be switched on"), "{error}");
        std::fs::write(&dir, "nodename: x\n").unwrap();
        let options = Options { config: Some(dir.clone()), ..Options::default() };
        let error = format!("{:#}", options.resolve().unwrap_err());
        assert!(error.contains("unknown field `nodename`"), "{error}");
        std::fs::remove_file(&dir).unwrap();
    }

    #[test]
    fn the_scheduler_is_set_by_a_file_of_its_own() {
        let path = std::env::temp_dir().join(format!("proa-scheduler-config-{}", std::process::id()));
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        std::fs::write(&path, format!("{head}podMaxBackoffSeconds: 30\n")).unwrap();
        let options = || Options {
            node_name: Some("n".to_owned()),
            scheduler_config: Some(path.clone()),
            ..Options::default()
        };
        let config = options().resolve().unwrap();
        assert_eq!(config.scheduler.back_off.max.as_secs(), 30);
        std::fs::write(&path, format!("{head}parallelism: 30\n")).unwrap();
        let error = format!("{:#}", options().resolve().unwrap_err());
        assert!(error.ends_with("parallelism: Forbidden: not supported by Proa's scheduler"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
