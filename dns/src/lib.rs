//! Cluster DNS: answers names of Services and pods from memory and passes everything else on.
//!
//! `watch` fills `zone` from Services and EndpointSlices, `answer` decides (pure, the Kubernetes DNS
//! specification v1.1.0), `server` is the IO on hickory, `forward` asks the node's own resolvers. It
//! never writes to the API.

pub mod answer;
mod config;
mod forward;
mod server;
mod tcp;
mod watch;
pub mod zone;

pub use config::{DnsConfig, Upstream};
pub use server::{COMPONENT, DnsError, Server};

use tokio_util::sync::CancellationToken;

/// Serves until `shutdown`.
pub async fn run(
    config: DnsConfig,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<(), DnsError> {
    let server = Server::bind(config).await?;
    Box::pin(server.run(client, shutdown)).await;
    Ok(())
}
