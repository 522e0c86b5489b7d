//! Servers on loopback: the one that is meant, and others.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A CA, and a server of it for `name` that shows both certificates; the CA and the URL.
async fn server(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca.pem(), key).unwrap();
    let own = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone(), ca.der().clone()],
            PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let tls = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = tls.accept(stream).await;
        }
    });
    (ca.pem(), url)
}

#[tokio::test]
async fn only_the_pinned_ca_is_believed() {
    let (ca, url) = server("127.0.0.1").await;
    let hash = hash_text(&ca).unwrap();
    let fetched = fetch(&url, &hash).await.unwrap();
    assert_eq!(fetched.trim(), ca.replace("\r\n", "\n").trim());
    check(&fetched, &hash).unwrap();

    let (other, elsewhere) = server("127.0.0.1").await;
    let error = fetch(&elsewhere, &hash).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(check(&other, &hash).is_err());

    let (ca, misnamed) = server("192.0.2.1").await;
    let error = fetch(&misnamed, &hash_text(&ca).unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name") || error.contains("NotValidForName"), "{error}");
}

#[test]
fn hashes() {
    let digits = "0f".repeat(32);
    assert_eq!(parse(&format!("sha256:{digits}")).unwrap(), [15; 32]);
    for wrong in ["", "sha256:", &digits, &format!("sha256:{}", "x".repeat(64)), &format!("sha1:{digits}")] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
