//! The node's keys and certificates: files, requests, and when they are to be renewed.
//!
//! A pair is one file, so that certificate and key always fit. Keys are made here and never sent.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{Api, ObjectMeta, PostParams};
use proa_api::names::GROUP_NODES;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use super::ask::answered;
use super::client::Pair;
use super::error::JoinError;

/// The pair by which the API server knows the node.
pub const CLIENT: &str = "client.pem";
/// The pair of the node's own server.
pub const SERVING: &str = "serving.pem";

/// How often an answer is looked for.
const POLL: Duration = Duration::from_millis(300);
/// After so many looks the user is told what is being waited for.
const TELL_AFTER: u32 = 30;
/// A certificate is renewed when this part of its time is over, in tenths.
const RENEW_TENTHS: i32 = 7;

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub enum Signer {
    /// Client certificates of nodes.
    Client,
    /// Certificates of nodes' servers.
    Serving,
}

/// The directory `DATA/node`, which only root reads.
pub struct Files(PathBuf);

impl Files {
    /// Opens the directory or makes it.
    pub fn open(data_dir: &Path) -> Result<Self, JoinError> {
        let dir = data_dir.join("node");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| fault(&dir, error))?;
        Ok(Files(dir))
    }

    /// A file's text, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<String>, JoinError> {
        match fs::read_to_string(self.0.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault(&self.0.join(name), error)),
        }
    }

    /// Writes a file whole or not at all.
    pub fn write(&self, name: &str, text: &str) -> Result<(), JoinError> {
        let (path, next) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            fs::File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| fault(&path, error))
    }

    /// A pair, if it is there and whole.
    pub fn pair(&self, name: &str) -> Result<Option<Pair>, JoinError> {
        const KEY: &str = "-----BEGIN PRIVATE KEY-----";
        let text = self.read(name)?;
        Ok(text.and_then(|text| {
            let at = text.find(KEY)?;
            Some(Pair { cert_pem: text[..at].to_owned(), key_pem: text[at..].to_owned() })
        }))
    }

    /// Writes a pair.
    pub fn write_pair(&self, name: &str, pair: &Pair) -> Result<(), JoinError> {
        self.write(name, &format!("{}\n{}", pair.cert_pem.trim_end(), pair.key_pem))
    }
}

fn fault(path: &Path, error: std::io::Error) -> JoinError {
    JoinError::File { path: path.display().to_string(), error }
}

/// Asks the cluster for a certificate for this user and these names, and waits for it.
pub async fn request(
    client: &kube::Client,
    signer: Signer,
    user: &str,
    names: &[String],
) -> Result<Pair, JoinError> {
    let (key_pem, request_pem) =
        new_request(user, names).map_err(|error| JoinError::Keys(error.to_string()))?;
    let (signer_name, usage) = match signer {
        Signer::Client => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
        Signer::Serving => ("kubernetes.io/kubelet-serving", "server auth"),
    };
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request_pem.into_bytes()),
            signer_name: signer_name.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let what = "take a request for a certificate";
    let params = PostParams::default();
    let made = answered(what, || api.create(&params, &request)).await?;
    let name = made.metadata.name.unwrap_or_default();
    let mut looks = 0;
    loop {
        let found = answered("show a request for a certificate", || api.get_opt(&name)).await?;
        let refused = |why: String| JoinError::Refused { what: "give this node a certificate", why };
        let Some(found) = found else { return Err(refused(format!("the request {name} was deleted"))) };
        let status = found.status.unwrap_or_default();
        if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
            let cert_pem = String::from_utf8(certificate.0).map_err(|e| JoinError::Keys(e.to_string()))?;
            return Ok(Pair { cert_pem, key_pem });
        }
        let against = |type_: &str| type_ == "Denied" || type_ == "Failed";
        if let Some(no) = status.conditions.iter().flatten().find(|c| against(&c.type_)) {
            let message = no.message.clone().unwrap_or_default();
            return Err(refused(format!("the request {name} is {}: {message}", no.type_.to_lowercase())));
        }
        looks += 1;
        if looks == TELL_AFTER {
            tracing::warn!("waiting for approval: kubectl certificate approve {name}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A new key and a request for it, both PEM.
fn new_request(user: &str, names: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, GROUP_NODES);
    params.distinguished_name.push(DnType::CommonName, user);
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

/// From when to when a certificate holds, in seconds since 1970.
fn validity(pair: &Pair) -> Result<(i64, i64), JoinError> {
    let keys = |error: &dyn std::fmt::Display| JoinError::Keys(error.to_string());
    let (_, pem) = parse_x509_pem(pair.cert_pem.as_bytes()).map_err(|e| keys(&e))?;
    let certificate = pem.parse_x509().map_err(|e| keys(&e))?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// When a certificate ends.
pub fn ends(pair: &Pair) -> Result<Timestamp, JoinError> {
    let (_, ends) = validity(pair)?;
    Timestamp::from_second(ends).map_err(|error| JoinError::Keys(error.to_string()))
}

/// True if a certificate is to be renewed now, or cannot be read.
pub fn is_due(pair: &Pair, now: Timestamp) -> bool {
    let Ok((begins, ends)) = validity(pair) else { return true };
    let part = SignedDuration::from_secs(ends - begins) * RENEW_TENTHS / 10;
    now.as_second() >= begins + part.as_secs()
}

/// True if a certificate is valid for these names and addresses and no others.
pub fn covers(pair: &Pair, names: &[String]) -> bool {
    let Ok((_, pem)) = parse_x509_pem(pair.cert_pem.as_bytes()) else { return false };
    let Ok(certificate) = pem.parse_x509() else { return false };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names.is_empty() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    };
    let mut found: Vec<String> = extension.value.general_names.iter().filter_map(text).collect();
    let mut wanted = names.to_vec();
    found.sort();
    wanted.sort();
    found == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 11);
        let key = KeyPair::generate().unwrap();
        Pair { cert_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() }
    }

    #[test]
    fn renewed_in_time() {
        let pair = pair(&["a.example", "10.0.0.1"]);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(!is_due(&pair, at("2030-01-07T23:59:59Z")));
        assert!(is_due(&pair, at("2030-01-08T00:00:00Z")));
        assert_eq!(ends(&pair).unwrap(), at("2030-01-11T00:00:00Z"));
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!(covers(&pair, &names(&["10.0.0.1", "a.example"])));
        assert!(!covers(&pair, &names(&["10.0.0.1"])) && !covers(&pair, &names(&["10.0.0.2", "a.example"])));
    }

    #[test]
    fn pairs_are_kept_in_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        assert!(files.pair(CLIENT).unwrap().is_none());
        let pair = pair(&[]);
        files.write_pair(CLIENT, &pair).unwrap();
        let read = files.pair(CLIENT).unwrap().unwrap();
        assert_eq!((read.cert_pem.trim(), &read.key_pem), (pair.cert_pem.trim(), &pair.key_pem));
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("node"), mode("node/client.pem")), (0o700, 0o600));
        files.write(CLIENT, "half").unwrap();
        assert!(files.pair(CLIENT).unwrap().is_none());
    }
}
