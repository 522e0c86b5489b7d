//! The control plane put together: keys, store, API, controllers.
//!
//! Started by the binary; everything else in the process talks to it through the clients it
//! gives out, which are the same as any client's except that there is no socket between.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::Request;
use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::shares::Room;
use proa_kinds::built_in;
use proa_logic::controllers::node_ipam::Range;
use proa_logic::scheduler::settings::Settings;
use proa_logic::world::settings::ClusterSettings;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{objects, policy};
use crate::http as api;
use crate::http::api::Build;
use crate::http::authenticate::Authenticator;
use crate::http::authorize::{Chain, Masters};
use crate::http::authorize_node::{Bootstrappers, Nodes};
use crate::http::rbac::Rbac;
use crate::http::{Api, Schemas};
use crate::kubelet::Kubelets;
use crate::kubelet::metrics::Metrics;
use crate::pki::{Pki, PkiError};
use crate::policy::Policy;
use crate::registry::{Caller, Registry, RegistryConfig};
use crate::shell::{self, ShellConfig};
use crate::store::StoreError;
use crate::write::stage::Allows;
use crate::write::stages::StagesConfig;
use crate::write::stages::certificates::CertificateSigners;
use crate::write::stages::escalation::Escalation;
use crate::write::stages::service::AddressRange;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Addresses of the API; the first one goes into the kubeconfig.
    pub listen: Vec<SocketAddr>,
    /// The range of service addresses.
    pub service_cidr: AddressRange,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Where pods reach the API. Without it, the first listen address that is not loopback.
    pub advertise: Option<SocketAddr>,
    /// This node's name, under which the API is also reached.
    pub node_name: String,
    /// What controllers depend on, beside what is here already.
    pub settings: ClusterSettings,
    /// Further DNS names and addresses under which it is reached.
    pub extra_names: Vec<String>,
    /// How pods are placed.
    pub scheduler: Settings,
    /// What this program was built from.
    pub build: Build,
    /// Refuses external addresses of Services.
    pub deny_external_ips: bool,
    /// Most connections at a time. One client may have a quarter of them.
    pub connections: usize,
    /// Serves the versions of kinds that older manifests have.
    pub legacy_api: bool,
}

/// Why a server did not start. Each is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("the data directory {} cannot be used: {error}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An address cannot be listened on.
    #[error("{}", bind_text(*address, error))]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Keys or certificates cannot be made or read.
    #[error("the keys and certificates cannot be used: {0}")]
    Pki(#[from] PkiError),
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The first objects cannot be made.
    #[error("the cluster's first objects cannot be made: {0}")]
    Bootstrap(Refusal),
}

fn bind_text(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "the API cannot listen on {address}: the port is in use; stop what uses it or choose another with --api-listen"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "the API cannot listen on {address}: this machine has no such address; choose another with --api-listen"
            )
        }
        _ => format!("the API cannot listen on {address} (--api-listen): {error}"),
    }
}

/// A running control plane.
pub struct Server {
    api: Arc<Api>,
    tls: TlsAcceptor,
    kubeconfig: PathBuf,
    addresses: Vec<SocketAddr>,
    room: Room,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Starts everything; when it returns, the API answers.
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let listeners = bind(&config.listen).await?;
        let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
        let advertise = config.advertise.or_else(|| reachable(&addresses));
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir)
            .map_err(|error| StartError::DataDir { path: data_dir.clone(), error })?;

        // The store is made before the keys: keys without a store are of a cluster that has lost it.
        let (store, keys) = (data_dir.join("store.redb"), data_dir.join("pki"));
        if keys.exists() && !store.exists() {
            return Err(StoreError::Missing { path: store, sign: keys }.into());
        }
        let stages = StagesConfig {
            pod_range: Range::parse(&config.settings.cluster_cidr),
            service_range: config.service_cidr,
            deny_external_ips: config.deny_external_ips,
            ..StagesConfig::default()
        };
        let registry_config = RegistryConfig { stages, ..RegistryConfig::default() };
        let table = built_in::table();
        let table = if config.legacy_api { built_in::with_old_versions(&table) } else { table };
        let registry = Registry::open(&store, table, registry_config)?;

        let service_address = config.service_cidr.api_server();
        let names = server_names(&config, &addresses, advertise, service_address);
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let pki = Arc::new(Pki::open(&keys, &names, &issuer, Timestamp::now())?);
        let tls = TlsAcceptor::from(Arc::new(pki.tls()?));

        let port = addresses.first().map_or(443, SocketAddr::port);
        let place =
            objects::Place { service_address, dns_address: config.service_cidr.dns(), port, advertise };
        objects::ensure(&registry, place).await.map_err(StartError::Bootstrap)?;
        let service_cidr = config.service_cidr.to_string();
        let (cluster_cidr, domain) = (&config.settings.cluster_cidr, &config.cluster_domain);
        objects::ensure_node_settings(&registry, cluster_cidr, &service_cidr, domain)
            .await
            .map_err(StartError::Bootstrap)?;
        policy::ensure(&registry).await.map_err(StartError::Bootstrap)?;
        let policy = Arc::new(Policy::new(registry.store()));

        let shutdown = CancellationToken::new();
        let server_address = client_address(&addresses);
        let kubelets = Arc::new(Kubelets::new(&pki, registry.clone())?);
        let metrics = Arc::new(Metrics::new(kubelets.clone(), registry.clone()));
        let authorizer = Arc::new(Chain::new(vec![
            Box::new(Masters),
            Box::new(Nodes(registry.clone())),
            Box::new(Bootstrappers(registry.clone())),
            Box::new(Rbac(policy.clone())),
        ]));
        let allows: Allows = {
            // The authorizer knows the registry, which knows its stages.
            let authorizer = Arc::downgrade(&authorizer);
            Arc::new(move |caller, what| authorizer.upgrade().is_some_and(|chain| chain.allows(caller, what)))
        };
        registry.add_stage(Arc::new(Escalation { allows: allows.clone(), policy: policy.clone() }));
        registry.add_stage(Arc::new(CertificateSigners(allows)));
        let api = Arc::new(Api {
            authenticator: Authenticator::new(pki.clone(), registry.clone()),
            kubelets,
            metrics: metrics.clone(),
            registry: registry.clone(),
            pki: pki.clone(),
            authorizer,
            policy,
            schemas: Schemas::default(),
            server_address: server_address.clone(),
            shutdown: shutdown.clone(),
            build: config.build.clone(),
        });
        let kubeconfig = data_dir.join("kubeconfig");
        pki.write_kubeconfig(&kubeconfig, &format!("https://{server_address}"))?;

        let room = api::serve::room(config.connections);
        let server = Server { api, tls, kubeconfig, addresses, room, tasks: Mutex::new(Vec::new()) };
        for listener in listeners {
            server.serve(listener);
        }
        let (registry, shutdown) = (server.registry(), &server.api.shutdown);
        let identity = if config.node_name.is_empty() { "proa" } else { &config.node_name };
        let config = ShellConfig {
            ca_pem: server.ca_pem().to_owned(),
            identity: identity.to_owned(),
            scheduler: config.scheduler.clone(),
            settings: ClusterSettings {
                service_cidr: config.service_cidr.to_string().into(),
                cluster_domain: config.cluster_domain.into(),
                api_names: names.into(),
                ..config.settings
            },
            metrics: Some(metrics),
            pki: Some(pki),
            place: Some(place),
        };
        server.spawn(shell::run(registry.clone(), config, shutdown.clone()));
        Ok(server)
    }

    /// Listens on one more address, such as one that exists only since the pod network is up.
    /// The certificate covers it if it is the one advertised.
    pub async fn listen(&self, address: SocketAddr) -> Result<(), StartError> {
        for listener in bind(&[address]).await? {
            self.serve(listener);
        }
        Ok(())
    }

    /// A client of this server inside the process, which acts as `caller`. Needs a runtime.
    pub fn client(&self, caller: Caller) -> kube::Client {
        let api = self.api.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (api, caller) = (api.clone(), caller.clone());
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(caller);
                Ok::<_, Infallible>(Box::pin(api::answer(api, request)).await)
            }
        });
        kube::Client::new(service, "default")
    }

    /// The objects, for what runs beside the API in this process.
    pub fn registry(&self) -> &Registry {
        &self.api.registry
    }

    /// Says which node runs in this process: `kubelet` serves what other nodes' servers do at the
    /// addresses in their Node objects.
    pub fn add_node(&self, name: &str, kubelet: axum::Router) {
        self.api.kubelets.add_local(name, kubelet);
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where the API listens, with the ports that the system chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.api.pki.ca_pem()
    }

    /// Stops: watches end, requests under way are finished, the store is closed.
    pub async fn shutdown(self) {
        self.api.shutdown.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the server failed");
            }
        }
        if let Err(error) = self.api.registry.close().await {
            tracing::error!(%error, "the store was not closed cleanly");
        }
    }

    fn serve(&self, listener: TcpListener) {
        self.spawn(api::serve::listen(listener, self.tls.clone(), self.api.clone(), self.room.clone()));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(task));
    }
}

async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let bound = TcpListener::bind(address).await;
        listeners.push(bound.map_err(|error| StartError::Bind { address, error })?);
    }
    Ok(listeners)
}

/// An address that pods can reach: loopback is each pod's own.
fn reachable(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    addresses.iter().copied().find(|a| a.is_ipv4() && !a.ip().is_loopback() && !a.ip().is_unspecified())
}

/// `HOST:PORT` for clients on this machine.
fn client_address(addresses: &[SocketAddr]) -> String {
    let Some(first) = addresses.first() else { return "kubernetes.default.svc:443".to_owned() };
    let mut address = *first;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address.to_string()
}

/// All names under which clients reach the API.
fn server_names(
    config: &Config,
    addresses: &[SocketAddr],
    advertise: Option<SocketAddr>,
    service_address: Ipv4Addr,
) -> Vec<String> {
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .to_vec();
    names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    names.push(service_address.to_string());
    names.extend(
        addresses
            .iter()
            .chain(&advertise)
            .map(SocketAddr::ip)
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string()),
    );
    if !config.node_name.is_empty() {
        names.push(config.node_name.clone());
    }
    names.extend(config.extra_names.iter().cloned());
    names
}

#[cfg(test)]
mod tests;
