//! The cluster's keys and certificates, kept under `DATA/pki`.
//!
//! Made at the first start and used again at every later one; a certificate is made anew only
//! when it is near its end or no longer covers the server's names. Opened by
//! [`crate::server`], read by [`crate::http`]. Private keys never leave the directory, except
//! the admin's, which is in `DATA/kubeconfig`.

pub mod authority;
mod error;
mod files;
mod kubeconfig;
pub mod token;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use proa_api::names::{GROUP_KUBELET_CLIENTS, USER_KUBELET_CLIENT};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use authority::{Authority, Facts, Pair};
pub use error::PkiError;
pub use token::Signer;

/// User and group of the certificate in `DATA/kubeconfig`.
const ADMIN: (&str, &str) = ("kubernetes-admin", "system:masters");

/// The opened directory.
pub struct Pki {
    ca: Pair,
    authority: Authority,
    server: Pair,
    admin: Pair,
    kubelet_client: Pair,
    signer: Signer,
}

impl Pki {
    /// Opens `dir`, making what is missing. `names` are all DNS names and addresses under which
    /// clients reach the server.
    pub fn open(dir: &Path, names: &[String], issuer: &str, now: Timestamp) -> Result<Self, PkiError> {
        files::make_private_dir(dir).map_err(|error| PkiError::File { path: dir.to_owned(), error })?;
        // What an authority signed that is no longer there is worth nothing.
        let orphaned = ["ca.crt", "ca.key"].iter().any(|name| !dir.join(name).exists());
        let ca = load_or_make(dir, "ca", |_| true, || Authority::generate(now))?;
        let authority = Authority::load(&ca)?;

        let mut wanted: Vec<String> = names.to_vec();
        wanted.sort();
        wanted.dedup();
        let server = load_or_make(
            dir,
            "server",
            |facts| !orphaned && !facts.is_near_end(now) && facts.names == wanted,
            || authority.issue_server("kube-apiserver", &wanted, now),
        )?;
        let admin = load_or_make(
            dir,
            "admin",
            |facts| !orphaned && !facts.is_near_end(now),
            || authority.issue_client(ADMIN.0, ADMIN.1, now),
        )?;
        let kubelet_client = load_or_make(
            dir,
            "kubelet-client",
            |facts| !orphaned && !facts.is_near_end(now),
            || authority.issue_client(USER_KUBELET_CLIENT, GROUP_KUBELET_CLIENTS, now),
        )?;
        let signer = Signer::new(&load_or_make_token_key(dir)?, issuer.to_owned())?;
        Ok(Pki { ca, authority, server, admin, kubelet_client, signer })
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca.cert_pem
    }

    /// Signs further certificates, such as those of nodes that join.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Makes and checks service account tokens.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// TLS for the API server. A client may show a certificate; one that is not the CA's ends the
    /// handshake, none at all leaves the request to its bearer token.
    pub fn tls(&self) -> Result<rustls::ServerConfig, PkiError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate(&self.ca.cert_pem)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let key = PrivateKeyDer::from_pem_slice(self.server.key_pem.as_bytes())
            .map_err(|e| PkiError::Unreadable(format!("server key: {e}")))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            // The CA goes along, for machines that know it only by its hash.
            .with_single_cert(
                vec![certificate(&self.server.cert_pem)?, certificate(&self.ca.cert_pem)?],
                key,
            )?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS towards the nodes: they must show a certificate of the CA, and are shown the one by
    /// which they know the API server.
    pub fn kubelet_tls(&self) -> Result<rustls::ClientConfig, PkiError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate(&self.ca.cert_pem)?)?;
        let key = PrivateKeyDer::from_pem_slice(self.kubelet_client.key_pem.as_bytes())
            .map_err(|e| PkiError::Unreadable(format!("kubelet client key: {e}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&self.kubelet_client.cert_pem)?], key)?;
        // Streams such as exec's are upgrades, which are of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Writes the admin's kubeconfig for the server at `url`; leaves one that says the same alone.
    pub fn write_kubeconfig(&self, path: &Path, url: &str) -> Result<(), PkiError> {
        let text = kubeconfig::text(url, &self.ca.cert_pem, &self.admin);
        let file_error = |error| PkiError::File { path: path.to_owned(), error };
        if files::read_if_there(path).map_err(file_error)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        files::write_private(path, text.as_bytes()).map_err(file_error)
    }
}

/// The pair `NAME.crt` and `NAME.key` if both are there and `is_good`, else a new one.
fn load_or_make(
    dir: &Path,
    name: &str,
    is_good: impl Fn(&Facts) -> bool,
    make: impl Fn() -> Result<Pair, PkiError>,
) -> Result<Pair, PkiError> {
    let cert_path = dir.join(format!("{name}.crt"));
    let key_path = dir.join(format!("{name}.key"));
    if let (Some(cert_pem), Some(key_pem)) = (read_text(&cert_path)?, read_text(&key_path)?)
        && is_good(&Facts::read(&certificate(&cert_pem)?)?)
    {
        return Ok(Pair { cert_pem, key_pem });
    }
    let pair = make()?;
    // The certificate last: a crash between the two leaves the old certificate beside a new key
    // only if it was to be replaced, and then the next start replaces it.
    write(&key_path, &pair.key_pem)?;
    write(&cert_path, &pair.cert_pem)?;
    Ok(pair)
}

fn load_or_make_token_key(dir: &Path) -> Result<Vec<u8>, PkiError> {
    let path = dir.join("service-account.key");
    let pem = match read_text(&path)? {
        Some(pem) => pem,
        None => {
            let pem = rcgen::KeyPair::generate()?.serialize_pem();
            write(&path, &pem)?;
            pem
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| PkiError::Unreadable(format!("{}: {e}", path.display())))?;
    Ok(key.secret_der().to_vec())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| PkiError::Unreadable(format!("certificate: {e}")))
}

fn read_text(path: &Path) -> Result<Option<String>, PkiError> {
    let contents =
        files::read_if_there(path).map_err(|error| PkiError::File { path: path.to_owned(), error })?;
    contents
        .map(|c| {
            String::from_utf8(c).map_err(|_| PkiError::Unreadable(format!("{}: not text", path.display())))
        })
        .transpose()
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    files::write_private(path, text.as_bytes())
        .map_err(|error| PkiError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_uses_what_the_first_made() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let first = Pki::open(dir.path(), &names, "https://issuer", now).unwrap();
        first.tls().unwrap();
        let second = Pki::open(dir.path(), &names, "https://issuer", now).unwrap();
        assert_eq!(first.ca.cert_pem, second.ca.cert_pem);
        assert_eq!(first.server.key_pem, second.server.key_pem);
        assert_eq!(first.admin.cert_pem, second.admin.cert_pem);
        assert_eq!(first.signer.key_set(), second.signer.key_set());

        let renamed = Pki::open(dir.path(), &["other".to_owned()], "https://issuer", now).unwrap();
        assert_eq!(first.ca.cert_pem, renamed.ca.cert_pem);
        assert_ne!(first.server.cert_pem, renamed.server.cert_pem, "the names changed");
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let orphaned = Pki::open(dir.path(), &["other".to_owned()], "https://issuer", now).unwrap();
        assert_ne!(orphaned.ca.cert_pem, renamed.ca.cert_pem);
        assert_ne!(orphaned.admin.cert_pem, renamed.admin.cert_pem, "its authority is gone");
        let renamed = orphaned;
        let later = now + jiff::SignedDuration::from_hours(24 * 300);
        let renewed = Pki::open(dir.path(), &["other".to_owned()], "https://issuer", later).unwrap();
        assert_ne!(renamed.server.cert_pem, renewed.server.cert_pem, "the end is near");
    }

    #[test]
    fn the_kubeconfig_is_private_and_rewritten_only_on_change() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &[], "https://issuer", Timestamp::now()).unwrap();
        let path = dir.path().join("kubeconfig");
        pki.write_kubeconfig(&path, "https://127.0.0.1:6443").unwrap();
        let before = std::fs::metadata(&path).unwrap();
        assert_eq!(before.permissions().mode() & 0o777, 0o600);
        pki.write_kubeconfig(&path, "https://127.0.0.1:6443").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), before.ino());
        let parsed: serde_json::Value = serde_yaml::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(parsed["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    }
}
