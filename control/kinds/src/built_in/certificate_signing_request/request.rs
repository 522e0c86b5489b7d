//! What a PKCS #10 request (RFC 2986) asks for, and what a certificate says.
//!
//! Read by the kind's rules and by the controllers that approve and sign. Only reads: whether the
//! requester has the key is for whoever signs to check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// What a certificate is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The user or server.
    pub common_name: String,
    /// The groups.
    pub organizations: Vec<String>,
    /// DNS names among the subject alternative names.
    pub dns_names: Vec<String>,
    /// IP addresses among them.
    pub ips: Vec<IpAddr>,
    /// Mail addresses among them.
    pub emails: Vec<String>,
    /// URIs among them.
    pub uris: Vec<String>,
}

impl Request {
    /// Reads a request in PEM. The error is one sentence.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let wrong = "PEM block type must be CERTIFICATE REQUEST";
        let block = blocks(pem).next().and_then(Result::ok).ok_or(wrong)?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(wrong.to_owned());
        }
        let (_, parsed) =
            X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
        let subject = &parsed.certification_request_info.subject;
        let mut request = Request {
            common_name: texts(subject.iter_common_name())?.into_iter().next_back().unwrap_or_default(),
            organizations: organizations(subject)?,
            ..Request::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    request.add(name)?;
                }
            }
        }
        Ok(request)
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.ips.push(address(bytes)?),
            other => return Err(format!("subjectAltName {other:?} is not supported")),
        }
        Ok(())
    }
}

fn organizations(subject: &X509Name<'_>) -> Result<Vec<String>, String> {
    texts(subject.iter_organization())
}

fn texts<'a>(
    values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Result<Vec<String>, String> {
    values.map(|v| v.as_str().map(str::to_owned).map_err(|error| error.to_string())).collect()
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).map_err(|_| "an IP subjectAltName has a wrong length")?;
    Ok(Ipv6Addr::from(v6).into())
}

fn blocks(pem: &[u8]) -> impl Iterator<Item = Result<Pem, String>> {
    Pem::iter_from_buffer(pem).map(|block| block.map_err(|error| error.to_string()))
}

/// Checks that this is one or more certificates in PEM. The error is one sentence.
pub fn check_chain(pem: &[u8]) -> Result<(), String> {
    let mut found = false;
    for block in blocks(pem) {
        let block = block?;
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
        found = true;
    }
    if found { Ok(()) } else { Err("must contain at least one CERTIFICATE PEM block".to_owned()) }
}

/// When the first certificate in this PEM text ends.
pub fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let block = blocks(pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// A request as errors show it: its bytes as JSON has them.
pub fn shown(request: &[u8]) -> String {
    BASE64.encode(request)
}
