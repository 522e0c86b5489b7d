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
use proa_logic::rbac::{Attributes, SERVICE_ACCOUNT_PREFIX};

use super::bootstrap_token;
use super::path;
use crate::pki::token::{Claims, Reference, TokenError};
use crate::pki::{Facts, Pki};
use crate::registry::{Caller, Registry};
use crate::store::Object;

/// The API group of what is known of users.
const GROUP: &str = "authentication.k8s.io";
/// The group of everyone who is known.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// The user who shows nothing, and that user's group.
const ANONYMOUS: &str = "system:anonymous";
const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Of headers that carry what else is known of an impersonated user.
const EXTRA_PREFIX: &str = "impersonate-extra-";

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
        let Some(token) = bearer_token(&request.headers) else { return Ok(anonymous()) };
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
        let mut groups = account_groups(&user);
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

/// The caller that another one, who may do so, wants to be seen as
/// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).
/// `None` if the request does not ask for it.
pub fn impersonated(headers: &HeaderMap) -> Result<Option<Caller>, Refusal> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let mut groups = texts("impersonate-group");
    let uid = texts("impersonate-uid").pop().unwrap_or_default();
    let extra = extras(headers);
    let Some(user) = texts("impersonate-user").pop().filter(|u| !u.is_empty()) else {
        let asked = !groups.is_empty() || !uid.is_empty() || !extra.is_empty();
        return if asked {
            Err(Refusal::bad_request("requested impersonation without impersonating a user"))
        } else {
            Ok(None)
        };
    };
    if groups.is_empty() {
        groups = account_groups(&user);
    }
    if !groups.iter().any(|g| g == GROUP_AUTHENTICATED || g == GROUP_UNAUTHENTICATED) {
        let all = if user == ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
        groups.push(all.to_owned());
    }
    Ok(Some(Caller { user, uid, groups, extra }))
}

/// What else is to be known of the impersonated user, by key in lower case.
fn extras(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extras: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) else { continue };
        // A key that is not escaped as it should be is taken as it is.
        let key = path::decode(key).unwrap_or_else(|| key.to_owned());
        if let Ok(value) = value.to_str() {
            extras.entry(key).or_default().push(value.to_owned());
        }
    }
    extras
}

/// What somebody must be allowed to `impersonate` who wants to be seen as `other`.
pub fn impersonations(other: &Caller) -> Vec<Attributes<'_>> {
    let one = |group, plural, subresource, namespace, name| Attributes::Resource {
        verb: "impersonate",
        group,
        plural,
        subresource,
        namespace,
        name,
    };
    let account = other.user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
    let mut wanted = vec![match account {
        Some((namespace, name)) => one("", "serviceaccounts", "", Some(namespace), name),
        None => one("", "users", "", None, other.user.as_str()),
    }];
    // The groups that everyone and every account is in anyway come with the name.
    let implied = account_groups(&other.user);
    let is_asked = |group: &&String| {
        !implied.contains(group) && *group != GROUP_AUTHENTICATED && *group != GROUP_UNAUTHENTICATED
    };
    wanted.extend(other.groups.iter().filter(is_asked).map(|group| one("", "groups", "", None, group)));
    for (key, values) in &other.extra {
        wanted.extend(values.iter().map(|value| one(GROUP, "userextras", key, None, value)));
    }
    if !other.uid.is_empty() {
        wanted.push(one(GROUP, "uids", "", None, &other.uid));
    }
    wanted
}

fn service_account(claims: &Claims) -> Caller {
    let user =
        format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", claims.bound.namespace, claims.bound.serviceaccount.name);
    let mut groups = account_groups(&user);
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
        let plurals = |caller: &Caller| -> Vec<String> {
            impersonations(caller).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            plurals(&account),
            ["impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"a\""]
        );
        let mut jane = jane;
        jane.uid = "u".to_owned();
        headers.insert("impersonate-extra-acme.com%2Fproject", "p".parse().unwrap());
        jane.extra = extras(&headers);
        assert_eq!(
            plurals(&jane),
            [
                "impersonate resource \"users\" in API group \"\" at the cluster scope",
                "impersonate resource \"groups\" in API group \"\" at the cluster scope",
                "impersonate resource \"userextras/acme.com/project\" in API group \"authentication.k8s.io\" at the cluster scope",
                "impersonate resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
            ]
        );
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
