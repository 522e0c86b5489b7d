//! The cluster's CA, known by the hash of its public key.
//!
//! The hash is that of kubeadm: SHA-256 of the certificate's SubjectPublicKeyInfo. The server shows
//! its CA with its own certificate; what it shows is believed only if the hash fits, the CA has
//! signed the server's certificate, and that is made out to the name that was dialled. Nothing is
//! sent before.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ask::RETRY;
use super::client;
use super::error::JoinError;

const HTTPS_PORT: u16 = 443;

/// The CA of the server, PEM, if its hash is this one. Waits for a server that is away.
pub async fn fetch(server: &str, hash: &str) -> Result<String, JoinError> {
    let hash = parse(hash)?;
    let authority = client::authority(server)?;
    let port = authority.port_u16().unwrap_or(HTTPS_PORT);
    // An IPv6 address stands in brackets in a URL only.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let refused = |why: String| JoinError::Server { server: server.to_owned(), why };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned { hash, provider: provider.clone(), found: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| JoinError::Keys(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.clone()).map_err(|error| refused(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    loop {
        match TcpStream::connect((host.as_str(), port)).await {
            Ok(stream) => {
                let shaken = connector.connect(name.clone(), stream).await;
                shaken.map_err(|error| refused(error.to_string()))?;
                let found = verifier.found.lock().unwrap_or_else(PoisonError::into_inner).take();
                return found.map(|der| pem(&der)).ok_or_else(|| refused("it shows no CA".to_owned()));
            }
            Err(error) => tracing::warn!(%error, server, "the server cannot be reached yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Checks a CA that is known already against the hash.
pub fn check(ca_pem: &str, hash: &str) -> Result<(), JoinError> {
    let wanted = parse(hash)?;
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes());
    let der = der.map_err(|error| JoinError::Keys(error.to_string()))?;
    if public_key_hash(&der) == Some(wanted) {
        return Ok(());
    }
    let why = "this data directory belongs to a node of another cluster: its CA does not fit --ca-hash";
    Err(JoinError::Setting(why.to_owned()))
}

fn parse(text: &str) -> Result<[u8; 32], JoinError> {
    let wrong = || JoinError::Setting(format!("--ca-hash {text:?} is not sha256: and 64 hexadecimal digits"));
    let digits = text.strip_prefix("sha256:").filter(|d| d.len() == 64 && d.is_ascii()).ok_or_else(wrong)?;
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}

fn public_key_hash(der: &[u8]) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(Sha256::digest(certificate.public_key().raw).into())
}

/// `sha256:` and the hash of the public key of a CA in PEM.
pub fn hash_text(ca_pem: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).ok()?;
    let digits: String = public_key_hash(&der)?.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256:{digits}"))
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Verifies a server as usual, by a CA that is among the certificates it shows and has the hash.
#[derive(Debug)]
struct Pinned {
    hash: [u8; 32],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.iter().find(|der| public_key_hash(der) == Some(self.hash));
        let ca = ca.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
