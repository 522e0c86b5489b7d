//! How a machine becomes a node of a cluster whose API server is elsewhere, and stays one.
//!
//! [`join`] pins the cluster's CA, trades a bootstrap token for a certificate, and gives a client
//! for everything else of the node. [`Membership`] registers the Node and renews certificates.
//! What it keeps lies in `DATA/node`: a node that has its certificate needs no token any more.
//!
//! - `pin`: the CA by its hash
//! - `certificate`: keys and requests for certificates
//! - [`client`]: `kube::Client`s over TLS
//! - [`serve`]: the node's own server

pub mod client;
pub mod serve;

mod ask;
mod certificate;
mod error;
mod pin;

pub use pin::hash_text as ca_hash;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, NodeSpec, Taint};
use kube::api::{Api, ObjectMeta, PostParams};
use proa_api::names::{CONFIG_MAP_NODES, NAMESPACE_SYSTEM, NODE_USER_PREFIX};
use tokio_util::sync::CancellationToken;

use ask::{RETRY, answered};
use certificate::{CLIENT, Files, SERVING, Signer};
use client::Connection;
pub use client::{Credentials, Pair};
pub use error::JoinError;
use serve::Serving;

/// How often the age of the certificates is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// What a machine needs to know to join.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// `https://HOST:PORT`.
    pub server: String,
    /// A bootstrap token; needed as long as the node has no certificate.
    pub token: Option<String>,
    /// `sha256:` and the hash of the CA's public key; needed as long as the CA is not known.
    pub ca_hash: Option<String>,
    /// `metadata.name` of the Node.
    pub node_name: String,
    /// The data directory.
    pub data_dir: PathBuf,
}

/// What a node has to know of its cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Addresses of all pods.
    pub cluster_cidr: String,
    /// Addresses of the services.
    pub service_cidr: String,
    /// `cluster.local`.
    pub cluster_domain: String,
}

/// A node that the cluster knows.
pub struct Membership {
    node_name: String,
    ca_pem: String,
    files: Files,
    connection: Connection,
}

/// Gets the node its certificate, unless it has one. Waits for a server that is away and for a
/// request that people have to approve; ends with an error if it is refused.
pub async fn join(config: &JoinConfig) -> Result<Membership, JoinError> {
    let files = Files::open(&config.data_dir)?;
    let ca_pem = match files.read("ca.crt")? {
        Some(ca_pem) => {
            if let Some(hash) = &config.ca_hash {
                pin::check(&ca_pem, hash)?;
            }
            ca_pem
        }
        None => {
            let hash = config.ca_hash.as_deref().ok_or_else(|| {
                JoinError::Setting("--ca-hash is needed to know the cluster by; `proa token create --print-join-command` shows it".to_owned())
            })?;
            let ca_pem = pin::fetch(&config.server, hash).await?;
            files.write("ca.crt", &ca_pem)?;
            ca_pem
        }
    };
    let pair = match files.pair(CLIENT)? {
        Some(pair) if certificate::ends(&pair)? > Timestamp::now() => pair,
        _ => bootstrap(config, &ca_pem, &files).await?,
    };
    let connection = Connection::new(&config.server, &ca_pem, &Credentials::Certificate(pair))?;
    Ok(Membership { node_name: config.node_name.clone(), ca_pem, files, connection })
}

/// Asks for the node's first certificate.
async fn bootstrap(config: &JoinConfig, ca_pem: &str, files: &Files) -> Result<Pair, JoinError> {
    let token = config.token.clone().ok_or_else(|| {
        JoinError::Setting(
            "--token is needed until this node has a certificate; make one with `proa token create`"
                .to_owned(),
        )
    })?;
    let connection = Connection::new(&config.server, ca_pem, &Credentials::Token(token))?;
    let user = format!("{NODE_USER_PREFIX}{}", config.node_name);
    let pair = certificate::request(&connection.client(), Signer::Client, &user, &[]).await?;
    files.write_pair(CLIENT, &pair)?;
    tracing::info!(node = config.node_name, "this node has got its certificate");
    Ok(pair)
}

impl Membership {
    /// A client that acts as the node. It goes on with a new certificate when there is one.
    pub fn client(&self) -> kube::Client {
        self.connection.client()
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What the cluster tells its nodes.
    pub async fn cluster(&self) -> Result<ClusterConfig, JoinError> {
        let api = Api::<ConfigMap>::namespaced(self.client(), NAMESPACE_SYSTEM);
        let map = answered("read its settings", || api.get(CONFIG_MAP_NODES)).await?;
        let data = map.data.unwrap_or_default();
        let text = |key: &str| {
            let why = format!("the ConfigMap {NAMESPACE_SYSTEM}/{CONFIG_MAP_NODES} has no {key}");
            data.get(key).cloned().ok_or(JoinError::Refused { what: "tell its settings", why })
        };
        Ok(ClusterConfig {
            cluster_cidr: text("clusterCIDR")?,
            service_cidr: text("serviceCIDR")?,
            cluster_domain: text("clusterDomain")?,
        })
    }

    /// Makes the Node if there is none, and waits until the cluster has given it a range for its
    /// pods.
    pub async fn register(
        &self,
        labels: BTreeMap<String, String>,
        taints: Vec<Taint>,
    ) -> Result<String, JoinError> {
        let api = Api::<Node>::all(self.client());
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.node_name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() }),
            ..Node::default()
        };
        let params = PostParams::default();
        let made = answered("register this node", || async {
            match api.create(&params, &node).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                made => made.map(|_| ()),
            }
        });
        made.await?;
        loop {
            let node = answered("show this node", || api.get(&self.node_name)).await?;
            if let Some(range) = node.spec.and_then(|spec| spec.pod_cidr).filter(|range| !range.is_empty()) {
                return Ok(range);
            }
            tracing::info!("waiting for a range of pod addresses");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Gets the node's own server its certificate and renews both certificates in time, until
    /// `shutdown`.
    pub async fn keep_certificates(
        &self,
        node_ip: IpAddr,
        serving: Arc<Serving>,
        shutdown: CancellationToken,
    ) {
        loop {
            let done = tokio::select! {
                () = shutdown.cancelled() => return,
                done = self.renew(node_ip, &serving) => done,
            };
            let pause = match done {
                Ok(()) => CHECK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "a certificate could not be renewed");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn renew(&self, node_ip: IpAddr, serving: &Serving) -> Result<(), JoinError> {
        let user = format!("{NODE_USER_PREFIX}{}", self.node_name);
        let now = Timestamp::now();
        let current = self.files.pair(CLIENT)?;
        if current.is_none_or(|pair| certificate::is_due(&pair, now)) {
            let pair = certificate::request(&self.client(), Signer::Client, &user, &[]).await?;
            self.files.write_pair(CLIENT, &pair)?;
            self.connection.replace(&self.ca_pem, &Credentials::Certificate(pair))?;
            tracing::info!("the client certificate is renewed");
        }
        let names = [node_ip.to_string(), self.node_name.clone()];
        let current = self.files.pair(SERVING)?.filter(|pair| certificate::covers(pair, &names));
        if let Some(pair) = current.filter(|pair| !certificate::is_due(pair, now)) {
            return if serving.has(&pair) { Ok(()) } else { serving.set(&pair) };
        }
        let pair = certificate::request(&self.client(), Signer::Serving, &user, &names).await?;
        self.files.write_pair(SERVING, &pair)?;
        tracing::info!("the server certificate is renewed");
        serving.set(&pair)
    }
}
