//! TLS with clients: certificates by server name.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::route::Table;

/// Looks every handshake's name up in the table of the moment.
#[derive(Clone)]
pub struct ByServerName {
    table: Arc<ArcSwap<Table>>,
    /// For names that are not there.
    otherwise: Arc<CertifiedKey>,
}

impl ByServerName {
    pub fn new(table: Arc<ArcSwap<Table>>, otherwise: Arc<CertifiedKey>) -> Self {
        ByServerName { table, otherwise }
    }
}

impl std::fmt::Debug for ByServerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByServerName")
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let found = table.certificate(hello.server_name().unwrap_or_default());
        Some(Arc::clone(found.unwrap_or(&self.otherwise)))
    }
}

/// The server side of TLS: HTTP/2 and HTTP/1.1 by ALPN, certificates from the table.
pub fn server_config(certificates: ByServerName) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
