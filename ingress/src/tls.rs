//! Certificates: out of Secrets, and into handshakes by server name.

use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::route::Table;

/// The certificate and key of a `kubernetes.io/tls` Secret, or what is wrong with it. The text
/// never holds any of the Secret's data.
pub fn certified_key(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let data = |name: &str| {
        let value = secret.data.as_ref().and_then(|d| d.get(name));
        value.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("{name} is missing"))
    };
    let chain = CertificateDer::pem_slice_iter(data("tls.crt")?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("tls.crt is not PEM: {e}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(data("tls.key")?)
        .map_err(|e| format!("tls.key is not a PEM private key: {e}"))?;
    let key = ring::sign::any_supported_type(&key)
        .map_err(|_| "tls.key is of a type that is not supported".to_owned())?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| "tls.key does not belong to tls.crt".to_owned())?;
    Ok(Arc::new(certified))
}

/// A certificate for names that have none, which nobody trusts: it lets a client say why.
pub fn self_made() -> Result<Arc<CertifiedKey>, String> {
    let made = rcgen::generate_simple_self_signed(vec!["ingress.invalid".to_owned()]);
    let made = made.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], key)))
}

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
