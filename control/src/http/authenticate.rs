//! Who is asking.
//!
//! A caller is known by the client certificate of its connection, by a service account token, by a
//! bootstrap token, or, inside this process, by the [`Caller`] its client was made for. Who shows
//! nothing of this is anonymous; whose token is not believed is sent away.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Parts;
use http::{HeaderMap, header};
use jiff::Timestamp;
use proa_api::Refusal;
use proa_api::names::GROUP_AUTHENTICATED;
use proa_kinds::rbac::{self, SERVICE_ACCOUNT_PREFIX};

use super::bootstrap_token;
use super::protocol_token;
use crate::pki::token::{Claims, Reference, TokenError};
use crate::pki::{Facts, Pki};
use crate::registry::{Caller, Registry};
use crate::store::Object;

/// The user who shows nothing, and that user's group.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of everyone who is not known.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";

/// Tells callers by what they show.
pub struct Authenticator {
    pki: Arc<Pki>,
    registry: Registry,
}

/// A token that was believed.
pub struct Believed {
    /// Whose it is.
    pub caller: Caller,
    /// Which of the audiences asked for it is meant for.
    pub audiences: Vec<String>,
}

impl Authenticator {
    /// Checks with these keys and against these objects.
    pub fn new(pki: Arc<Pki>, registry: Registry) -> Self {
        Authenticator { pki, registry }
    }

    /// The caller of a request.
    pub fn caller(&self, request: &Parts) -> Result<Caller, Refusal> {
        // Only this process can put a Caller there: the TLS listener after it checked the
        // certificate, and the in-process client.
        if let Some(caller) = request.extensions.get::<Caller>() {
            return Ok(caller.clone());
        }
        let token = match bearer_token(&request.headers)? {
            Some(token) => Some(token.to_owned()),
            None => protocol_token::of(&request.headers)?,
        };
        let Some(token) = token.as_deref() else { return Ok(anonymous()) };
        if let Some((id, secret)) = bootstrap_token::parse(token) {
            let caller = bootstrap_token::caller(&self.registry, id, secret, Timestamp::now());
            return caller.map_err(|why| {
                tracing::debug!(id, why, "bootstrap token refused");
                Refusal::unauthorized()
            });
        }
        let audience = self.pki.signer().issuer().to_owned();
        match self.token(token, &[audience]) {
            Ok(believed) => Ok(believed.caller),
            Err(why) => {
                tracing::debug!(%why, "bearer token refused");
                Err(Refusal::unauthorized())
            }
        }
    }

    /// Checks a token for one of `audiences`. The error is a sentence for a TokenReview.
    pub fn token(&self, token: &str, audiences: &[String]) -> Result<Believed, String> {
        let signer = self.pki.signer();
        let claims = match signer.verify(token, Timestamp::now().as_second()) {
            Err(TokenError::Foreign) => return self.legacy_token(token, audiences),
            claims => claims.map_err(|e| e.to_string())?,
        };
        let audiences: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err("token audiences do not match".to_owned());
        }
        let bound = &claims.bound;
        self.check_alive("serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        for (plural, namespace, reference) in [
            ("pods", bound.namespace.as_str(), &bound.pod),
            ("secrets", bound.namespace.as_str(), &bound.secret),
            // A pod's token only remembers its node; it ends with the pod.
            ("nodes", "", if bound.pod.is_some() { &None } else { &bound.node }),
        ] {
            if let Some(reference) = reference {
                self.check_alive(plural, namespace, reference)?;
            }
        }
        Ok(Believed { caller: service_account(&claims), audiences })
    }

    /// Checks a token that a Secret holds: it is good for as long as that Secret holds it.
    fn legacy_token(&self, token: &str, audiences: &[String]) -> Result<Believed, String> {
        let signer = self.pki.signer();
        let claims = signer.verify_legacy(token).map_err(|e| e.to_string())?;
        let audiences: Vec<String> = audiences.iter().filter(|a| *a == signer.issuer()).cloned().collect();
        if audiences.is_empty() {
            return Err("token audiences do not match".to_owned());
        }
        let account = Reference { name: claims.account.clone(), uid: claims.account_uid.clone() };
        self.check_alive("serviceaccounts", &claims.namespace, &account)?;
        let secret = self.find("secrets", &claims.namespace, &claims.secret);
        let held = secret.filter(|secret| !secret.deleting).map(|secret| secret.value());
        let held = held.as_ref().and_then(|secret| secret["data"]["token"].as_str());
        let held = held.and_then(|held| BASE64.decode(held).ok());
        if held.as_deref() != Some(token.as_bytes()) {
            return Err("the token's Secret is gone or holds another one".to_owned());
        }
        let user = format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", claims.namespace, claims.account);
        let mut groups = rbac::account_groups(&user);
        groups.push(GROUP_AUTHENTICATED.to_owned());
        Ok(Believed { caller: Caller { user, uid: account.uid, groups, ..Caller::default() }, audiences })
    }

    fn find(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let table = self.registry.kinds();
        self.registry.get(table.by_plural("", "v1", plural)?, namespace, name).ok()
    }

    /// An error unless the object is there and is the same one.
    fn check_alive(&self, plural: &str, namespace: &str, reference: &Reference) -> Result<(), String> {
        match self.find(plural, namespace, &reference.name) {
            Some(object) if *object.uid == *reference.uid => Ok(()),
            _ => Err(format!("the token is bound to {plural} {:?}, which is gone", reference.name)),
        }
    }
}

/// The caller whom a verified client certificate names.
pub fn certificate_caller(der: &[u8]) -> Option<Caller> {
    let facts = Facts::read(der).ok()?;
    if facts.common_name.is_empty() {
        return None;
    }
    let mut groups = facts.organizations;
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Some(Caller { user: facts.common_name, groups, ..Caller::default() })
}

fn anonymous() -> Caller {
    let groups = vec![GROUP_UNAUTHENTICATED.to_owned()];
    Caller { user: ANONYMOUS.to_owned(), groups, ..Caller::default() }
}

fn service_account(claims: &Claims) -> Caller {
    let user =
        format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", claims.bound.namespace, claims.bound.serviceaccount.name);
    let mut groups = rbac::account_groups(&user);
    groups.push(GROUP_AUTHENTICATED.to_owned());
    let mut extra = BTreeMap::new();
    let mut tell = |key: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()])
    };
    tell("credential-id", &format!("JTI={}", claims.jti));
    for (kind, reference) in [("pod", &claims.bound.pod), ("node", &claims.bound.node)] {
        if let Some(reference) = reference {
            tell(&format!("{kind}-name"), &reference.name);
            tell(&format!("{kind}-uid"), &reference.uid);
        }
    }
    Caller { user, uid: claims.bound.serviceaccount.uid.clone(), groups, extra }
}

/// The token that a request shows.
///
/// As on a stock server the first `Authorization` counts, and what is there is either a bearer token
/// or nobody's word: another scheme, or none, leaves its sender who they are without it. A bearer
/// token that is no text is one that nobody has given out.
///
/// # Errors
/// 401.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let bytes = value.as_bytes().trim_ascii();
    let (scheme, rest) = match bytes.iter().position(|b| *b == b' ') {
        Some(at) => (&bytes[..at], bytes[at..].trim_ascii_start()),
        None => (bytes, &[][..]),
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    let token = std::str::from_utf8(rest).map_err(|_| Refusal::unauthorized())?;
    match token.split(' ').next() {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        // Whoever means to show a token is told, not served as somebody else.
        _ => Err(Refusal::unauthorized()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn bearer_tokens() {
        for (sent, expected) in [
            (&b"Bearer abc"[..], Ok(Some("abc"))),
            (b"bearer  abc", Ok(Some("abc"))),
            (b" BEARER abc ", Ok(Some("abc"))),
            (b"Bearer abc def", Ok(Some("abc"))),
            // Not a token of anybody, and not the same as none.
            ("Bearer töken".as_bytes(), Ok(Some("töken"))),
            (b"Bearer t\xf6ken", Err(401)),
            (b"Bearer", Err(401)),
            (b"Bearer ", Err(401)),
            (b"Basic abc", Ok(None)),
            (b"Basic t\xf6ken", Ok(None)),
            (b"t\xf6ken", Ok(None)),
            (b"", Ok(None)),
        ] {
            let value = HeaderValue::from_bytes(sent.trim_ascii()).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            let found = bearer_token(&headers).map_err(|refusal| refusal.code());
            assert_eq!(found, expected, "{}", sent.escape_ascii());
        }
        let mut two = HeaderMap::new();
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer first"));
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer second"));
        assert_eq!(bearer_token(&two).unwrap(), Some("first"));
    }
}
