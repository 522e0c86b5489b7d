//! Certificates: out of Secrets, and one of the ingress's own.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

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
