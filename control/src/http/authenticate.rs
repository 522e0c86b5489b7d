//! Who is asking.
//!
//! A caller is known by the client certificate of its connection, by a service account token, or,
//! inside this process, by the [`Caller`] its client was made for. Nobody else is let in: there
//! are no anonymous requests.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, header};
use jiff::Timestamp;
use proa_api::Refusal;
use serde::Deserialize;

use crate::pki::token::{Claims, Reference};
use crate::pki::{Facts, Pki};
use crate::registry::{Caller, Registry};

/// The group of everyone who is known.
const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// What the user names of service accounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

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

#[derive(Deserialize)]
struct Head {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
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
        let token = bearer_token(&request.headers).ok_or_else(Refusal::unauthorized)?;
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
        let claims =
            self.pki.signer().verify(token, Timestamp::now().as_second()).map_err(|e| e.to_string())?;
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

    /// An error unless the object is there and is the same one.
    fn check_alive(&self, plural: &str, namespace: &str, reference: &Reference) -> Result<(), String> {
        let table = self.registry.kinds();
        let gone = || format!("the token is bound to {plural} {:?}, which is gone", reference.name);
        let kind = table.by_plural("", "v1", plural).ok_or_else(gone)?;
        let object = self.registry.get(kind, namespace, &reference.name).map_err(|_| gone())?;
        let head: Head = object.decode().map_err(|e| e.to_string())?;
        if head.metadata.uid == reference.uid { Ok(()) } else { Err(gone()) }
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
    Some(Caller { user: facts.common_name, uid: String::new(), groups })
}

/// The caller that another one, who may do so, wants to be seen as
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).
/// `None` if the request does not ask for it.
pub fn impersonated(headers: &HeaderMap) -> Result<Option<Caller>, Refusal> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let mut groups = texts("impersonate-group");
    let uid = texts("impersonate-uid").pop().unwrap_or_default();
    let Some(user) = texts("impersonate-user").pop().filter(|u| !u.is_empty()) else {
        let asked = !groups.is_empty() || !uid.is_empty();
        return if asked {
            Err(Refusal::bad_request("requested impersonation without impersonating a user"))
        } else {
            Ok(None)
        };
    };
    if groups.is_empty() {
        groups = account_groups(&user);
    }
    if !groups.iter().any(|g| g == GROUP_AUTHENTICATED) {
        groups.push(GROUP_AUTHENTICATED.to_owned());
    }
    Ok(Some(Caller { user, uid, groups }))
}

fn service_account(claims: &Claims) -> Caller {
    let user =
        format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", claims.bound.namespace, claims.bound.serviceaccount.name);
    let mut groups = account_groups(&user);
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Caller { user, uid: claims.bound.serviceaccount.uid.clone(), groups }
}

/// The groups that a service account is in by its name; none for other users.
fn account_groups(user: &str) -> Vec<String> {
    match user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
        Some((namespace, _)) => {
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
        }
        None => Vec::new(),
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impersonation_headers() {
        let mut headers = HeaderMap::new();
        assert!(impersonated(&headers).unwrap().is_none());
        headers.insert("impersonate-group", "g".parse().unwrap());
        assert_eq!(impersonated(&headers).unwrap_err().code(), 400);
        headers.insert("impersonate-user", "jane".parse().unwrap());
        let jane = impersonated(&headers).unwrap().unwrap();
        assert_eq!((jane.user.as_str(), jane.groups.len()), ("jane", 2));

        headers.remove("impersonate-group");
        headers.insert("impersonate-user", "system:serviceaccount:a:b".parse().unwrap());
        let account = impersonated(&headers).unwrap().unwrap();
        assert_eq!(
            account.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
        );
    }

    #[test]
    fn bearer_tokens() {
        let headers = |v: &str| HeaderMap::from_iter([(header::AUTHORIZATION, v.parse().unwrap())]);
        assert_eq!(bearer_token(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer_token(&headers("bearer  abc")), Some("abc"));
        assert_eq!(bearer_token(&headers("Basic abc")), None);
        assert_eq!(bearer_token(&headers("Bearer ")), None);
    }
}
