//! The cluster's certificate authority: its own key, and the certificates it signs.
//!
//! Everything is ECDSA P-256: a first start makes four keys, and with RSA that alone would take
//! longer than the whole start may.

use std::time::Duration;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use proa_kinds::built_in::certificate_signing_request::request::Request;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::PkiError;

const AUTHORITY_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
/// A signed request holds from a little before, for clocks that are behind.
const BACKDATE_SECONDS: i64 = 300;
/// `organizationName` (RFC 4519, section 2.19).
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];
/// A certificate with less than this left is made anew at the next start.
const RENEW_BEFORE_SECONDS: i64 = 90 * 24 * 3600;

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub cert_pem: String,
    /// Its PKCS #8 key.
    pub key_pem: String,
}

/// What a certificate says, as far as it matters here.
#[derive(Debug, PartialEq)]
pub struct Facts {
    /// The subject's common name: the user.
    pub common_name: String,
    /// The subject's organizations: the groups.
    pub organizations: Vec<String>,
    /// DNS names and IP addresses it is valid for, sorted.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after_seconds: i64,
}

/// Signs certificates with the CA's key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after_seconds: i64,
}

impl Authority {
    /// A new CA.
    pub fn generate(now: Timestamp) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("proa", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, AUTHORITY_YEARS);
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        Ok(Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// The CA kept in these PEM texts.
    pub fn load(pair: &Pair) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&pair.key_pem)?;
        let der = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes())
            .map_err(|e| PkiError::Unreadable(format!("CA certificate: {e}")))?;
        let not_after_seconds = Facts::read(&der)?.not_after_seconds;
        Ok(Authority { issuer: Issuer::from_ca_cert_pem(&pair.cert_pem, key)?, not_after_seconds })
    }

    /// A certificate for a server that is reached under `names` (DNS names and IP addresses).
    pub fn issue_server(
        &self,
        common_name: &str,
        names: &[String],
        now: Timestamp,
    ) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = subject(common_name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, now)
    }

    /// A certificate for a client: a user in a group.
    pub fn issue_client(&self, user: &str, group: &str, now: Timestamp) -> Result<Pair, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user, Some(group));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, now)
    }

    /// Signs a PKCS #10 request in PEM for these uses, in the words of CertificateSigningRequests.
    /// The certificate says what the request says of its subject and its other names, and nothing
    /// else of it. Whether it may is decided before; that the requester has the key is checked here.
    pub fn sign_request(
        &self,
        pem: &[u8],
        usages: &[String],
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<String, PkiError> {
        let unreadable = |why: &str| PkiError::Unreadable(why.to_owned());
        let text = std::str::from_utf8(pem).map_err(|_| unreadable("the request is not PEM"))?;
        let asked = Request::read(pem).map_err(PkiError::Unreadable)?;
        let request = CertificateSigningRequestParams::from_pem(text)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = request.params.subject_alt_names;
        params.distinguished_name = DistinguishedName::new();
        // The library keeps one value of each type: the second group goes under the number of the
        // same type.
        let types = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION.to_vec())];
        if asked.organizations.len() > types.len() {
            return Err(unreadable("more than two organizations in a subject are not supported"));
        }
        for (type_, organization) in types.into_iter().zip(&asked.organizations) {
            params.distinguished_name.push(type_, organization.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, asked.common_name.as_str());
        for usage in usages {
            match usage_of(usage) {
                Some(Usage::Key(purpose)) => params.key_usages.push(purpose),
                Some(Usage::Extended(purpose)) => params.extended_key_usages.push(purpose),
                None => return Err(PkiError::Unreadable(format!("usage {usage:?} is not supported"))),
            }
        }
        params.use_authority_key_identifier_extension = true;
        let ends = not_after.as_second().min(self.not_after_seconds);
        let since_1970 = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(now.as_second() - BACKDATE_SECONDS);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(ends);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    fn issue(&self, mut params: CertificateParams, now: Timestamp) -> Result<Pair, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LEAF_YEARS);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

impl Facts {
    /// Reads a certificate's DER bytes.
    pub fn read(der: &[u8]) -> Result<Self, PkiError> {
        let unreadable = |why: &dyn std::fmt::Display| PkiError::Unreadable(why.to_string());
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| unreadable(&e))?;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).map_err(|e| unreadable(&e))
        };
        let common_name = cert.subject().iter_common_name().next().map(text).transpose()?.unwrap_or_default();
        let organizations = cert.subject().iter_organization().map(text).collect::<Result<_, _>>()?;
        let mut names = Vec::new();
        if let Some(san) = cert.subject_alternative_name().map_err(|e| unreadable(&e))? {
            names.extend(san.value.general_names.iter().filter_map(name_text));
        }
        names.sort();
        Ok(Facts {
            common_name,
            organizations,
            names,
            not_after_seconds: cert.validity().not_after.timestamp(),
        })
    }

    /// True if the certificate is to be made anew now.
    pub fn is_near_end(&self, now: Timestamp) -> bool {
        self.not_after_seconds - now.as_second() < RENEW_BEFORE_SECONDS
    }
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                Some(std::net::Ipv4Addr::from(v4).to_string())
            } else {
                <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
            }
        }
        _ => None,
    }
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// A use of a key, as the two extensions that hold uses have it.
enum Usage {
    Key(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

/// The uses that the signers here allow.
fn usage_of(usage: &str) -> Option<Usage> {
    Some(match usage {
        "digital signature" => Usage::Key(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => Usage::Key(KeyUsagePurpose::KeyEncipherment),
        "client auth" => Usage::Extended(ExtendedKeyUsagePurpose::ClientAuth),
        "server auth" => Usage::Extended(ExtendedKeyUsagePurpose::ServerAuth),
        _ => return None,
    })
}

/// From yesterday, so that a client whose clock is a little behind accepts it, for `years`.
fn set_validity(params: &mut CertificateParams, now: Timestamp, years: i16) {
    let today = now.to_zoned(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        // Both fit: jiff counts months from 1 to 12 and days from 1 to 31.
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(years.years()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pair: &Pair) -> Facts {
        Facts::read(&CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn certificates_say_what_was_asked() {
        let now: Timestamp = "2024-02-29T12:00:00Z".parse().unwrap();
        let authority = Authority::load(&Authority::generate(now).unwrap()).unwrap();

        let client = facts(&authority.issue_client("system:admin", "system:masters", now).unwrap());
        assert_eq!(client.common_name, "system:admin");
        assert_eq!(client.organizations, ["system:masters"]);
        assert!(!client.is_near_end(now));
        assert!(client.is_near_end("2024-12-24T00:00:00Z".parse().unwrap()));

        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let server = facts(&authority.issue_server("kube-apiserver", &names, now).unwrap());
        assert_eq!(server.names, ["127.0.0.1", "::1", "localhost"]);
    }

    #[test]
    fn a_request_is_signed_as_it_was_decided() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let authority = Authority::load(&Authority::generate(now).unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = subject("system:node:a", Some("system:nodes"));
        params.distinguished_name.push(DnType::CustomDnType(ORGANIZATION.to_vec()), "more");
        // What it would like to be is not for the request to say.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let usages = ["digital signature".to_owned(), "server auth".to_owned()];
        let ends: Timestamp = "2030-02-01T00:00:07Z".parse().unwrap();
        let cert_pem = authority.sign_request(pem.as_bytes(), &usages, now, ends).unwrap();
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).unwrap();
        let facts = Facts::read(&der).unwrap();
        assert_eq!(facts.common_name, "system:node:a");
        assert_eq!(facts.organizations, ["system:nodes", "more"]);
        assert_eq!(facts.names, ["10.0.0.1", "a.example"]);
        assert_eq!(facts.not_after_seconds, ends.as_second());
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert!(!parsed.is_ca());

        let late = "2100-01-01T00:00:00Z".parse().unwrap();
        let cert_pem = authority.sign_request(pem.as_bytes(), &usages, now, late).unwrap();
        let facts = Facts::read(&CertificateDer::from_pem_slice(cert_pem.as_bytes()).unwrap()).unwrap();
        assert_eq!(facts.not_after_seconds, authority.not_after_seconds, "no longer than the CA");
        assert!(authority.sign_request(b"nonsense", &usages, now, ends).is_err());
        assert!(authority.sign_request(pem.as_bytes(), &["signing".to_owned()], now, ends).is_err());
    }
}
