//! Whom a caller asks to be seen as, from the headers `Impersonate-…`.
//!
//! Pure. Whether the caller may is asked by the handler, for each of [`Impersonation::wanted`].
//! What is asked for is taken as it was sent or refused: a header that cannot be read never leaves
//! the caller who they are.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use proa_api::Refusal;
use proa_kinds::rbac::{Attributes, account_groups, account_of};

use proa_api::names::GROUP_AUTHENTICATED;

use super::authenticate::{ANONYMOUS, GROUP_UNAUTHENTICATED};
use super::path;
use crate::registry::Caller;

/// The API group of what is known of users.
const GROUP: &str = "authentication.k8s.io";
const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUPS: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// Of headers that carry what else is known of the user.
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// What a request asks for.
#[derive(Debug)]
pub struct Impersonation {
    /// As whom the request is to be seen.
    pub caller: Caller,
    /// The groups that the request names; others come with the user's name.
    groups: Vec<String>,
}

impl Impersonation {
    /// What the headers ask for; `None` if there are none of these.
    ///
    /// # Errors
    /// 400 if one cannot be read, is not known, or there is no user.
    pub fn of(headers: &HeaderMap) -> Result<Option<Impersonation>, Refusal> {
        let mut asked = Headers::default();
        for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with(PREFIX)) {
            asked.add(name, value)?;
        }
        if asked.user.is_empty() {
            return match asked.described() {
                None => Ok(None),
                Some(what) => {
                    Err(Refusal::bad_request(format!("requested [{what}] without impersonating a user")))
                }
            };
        }
        let Headers { user, uid, groups, extra } = asked;
        let mut all = if groups.is_empty() { account_groups(&user) } else { groups.clone() };
        if !all.iter().any(|g| g == GROUP_AUTHENTICATED || g == GROUP_UNAUTHENTICATED) {
            let everyone = if user == ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
            all.push(everyone.to_owned());
        }
        let mut known = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in extra {
            known.entry(key).or_default().push(value);
        }
        Ok(Some(Impersonation { caller: Caller { user, uid, groups: all, extra: known }, groups }))
    }

    /// What somebody must be allowed to `impersonate` who asks for this.
    pub fn wanted(&self) -> Vec<Attributes<'_>> {
        let one = |group, plural, subresource, namespace, name| Attributes::Resource {
            verb: "impersonate",
            group,
            plural,
            subresource,
            namespace,
            name,
        };
        let Caller { user, uid, extra, .. } = &self.caller;
        let mut wanted = vec![match account_of(user) {
            Some((namespace, name)) => one("", "serviceaccounts", "", Some(namespace), name),
            None => one("", "users", "", None, user.as_str()),
        }];
        wanted.extend(self.groups.iter().map(|group| one("", "groups", "", None, group)));
        for (key, values) in extra {
            wanted.extend(values.iter().map(|value| one(GROUP, "userextras", key, None, value)));
        }
        if !uid.is_empty() {
            wanted.push(one(GROUP, "uids", "", None, uid));
        }
        wanted
    }
}

/// The headers as they were sent.
#[derive(Default)]
struct Headers {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, String)>,
}

impl Headers {
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
        let value = std::str::from_utf8(value.as_bytes());
        let value = value.map_err(|_| Refusal::bad_request(format!("the header {name} is not UTF-8")))?;
        let name = name.as_str();
        match name {
            // Of several the first counts.
            USER if self.user.is_empty() => self.user = value.to_owned(),
            UID if self.uid.is_empty() => self.uid = value.to_owned(),
            USER | UID => {}
            GROUPS => self.groups.push(value.to_owned()),
            _ => {
                let unknown = || Refusal::bad_request(format!("the header {name} is not known"));
                let key = name.strip_prefix(EXTRA_PREFIX).ok_or_else(unknown)?;
                self.extra.push((extra_key(key)?, value.to_owned()));
            }
        }
        Ok(())
    }

    /// What is asked for beside a user, as a stock server words it.
    fn described(&self) -> Option<String> {
        let groups = self.groups.iter().map(|name| format!("{{Group  {name}    }}"));
        let extra =
            self.extra.iter().map(|(key, value)| format!("{{UserExtra  {value}  {GROUP}/v1  {key}}}"));
        let uid = Some(&self.uid).filter(|uid| !uid.is_empty());
        let uid = uid.map(|uid| format!("{{UID  {uid}  {GROUP}/v1  }}"));
        let all: Vec<String> = groups.chain(extra).chain(uid).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }
}

/// A key in lower case, which header names are in anyway. One that is not escaped as it should be
/// is taken as it is.
fn extra_key(sent: &str) -> Result<String, Refusal> {
    match path::decode_bytes(sent) {
        None => Ok(sent.to_owned()),
        Some(key) => String::from_utf8(key)
            .map_err(|_| Refusal::bad_request(format!("the header {EXTRA_PREFIX}{sent} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// User, uid, groups and extras that are seen, and what has to be allowed; or the refusal.
    fn check(sent: &[(&str, &[u8])], expected: Result<(&str, &[&str], &[&str]), &str>) {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let found = Impersonation::of(&headers).map(|found| found.expect("it is asked for"));
        let found = match (&found, expected) {
            (Ok(found), Ok(_)) => found,
            (Err(refusal), Err(text)) => {
                return assert_eq!((refusal.code(), refusal.to_string().as_str()), (400, text));
            }
            other => panic!("{other:?}"),
        };
        let Caller { user, uid, groups, extra } = &found.caller;
        let extra = extra.iter().map(|(key, values)| format!(" {key}={}", values.join(",")));
        let seen = format!("{user} {uid}{}", extra.collect::<String>());
        let wanted = found.wanted().iter().map(ToString::to_string).collect::<Vec<_>>();
        let wanted = wanted.iter().map(|text| text.trim_start_matches("impersonate resource "));
        let (expected, its_groups, to_allow) = expected.unwrap();
        assert_eq!(seen.trim_end(), expected);
        assert_eq!(groups, its_groups);
        assert_eq!(wanted.collect::<Vec<_>>(), to_allow);
    }

    const CLUSTER: &str = "in API group \"\" at the cluster scope";

    #[test]
    fn nothing_is_asked() {
        assert!(Impersonation::of(&HeaderMap::new()).unwrap().is_none());
        let other = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("h"))]);
        assert!(Impersonation::of(&other).unwrap().is_none());
    }

    #[test]
    fn users_and_accounts() {
        let user = format!("\"users\" {CLUSTER}");
        let authenticated = ["system:authenticated"];
        check(&[("impersonate-user", b"jane")], Ok(("jane", &authenticated, &[&user])));
        // As it was sent, and the first of two.
        check(&[("impersonate-user", "jürgen".as_bytes())], Ok(("jürgen", &authenticated, &[&user])));
        check(
            &[
                ("impersonate-user", b"jane"),
                ("impersonate-user", b"root"),
                ("impersonate-uid", b"1"),
                ("impersonate-uid", b"2"),
            ],
            Ok((
                "jane 1",
                &authenticated,
                &[&user, "\"uids\" in API group \"authentication.k8s.io\" at the cluster scope"],
            )),
        );
        check(
            &[("impersonate-user", b"system:anonymous")],
            Ok(("system:anonymous", &["system:unauthenticated"], &[&user])),
        );
        let account = "\"serviceaccounts\" in API group \"\" in the namespace \"a\"";
        check(
            &[("impersonate-user", b"system:serviceaccount:a:b")],
            Ok((
                "system:serviceaccount:a:b",
                &["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"],
                &[account],
            )),
        );
        // No account has such a name.
        for name in ["a:b:c", "a:", ":b", "A:b", "a", "a:b_c"] {
            let name = format!("system:serviceaccount:{name}");
            check(&[("impersonate-user", name.as_bytes())], Ok((&name, &authenticated, &[&user])));
        }
    }

    #[test]
    fn groups_and_extras() {
        let user = format!("\"users\" {CLUSTER}");
        let group = format!("\"groups\" {CLUSTER}");
        check(
            &[
                ("impersonate-user", b"jane"),
                ("impersonate-group", b"dev"),
                ("impersonate-group", "größer".as_bytes()),
                ("impersonate-extra-acme.com%2Fproject", b"p"),
                ("impersonate-extra-%zz", b"q"),
            ],
            Ok((
                "jane  %zz=q acme.com/project=p",
                &["dev", "größer", "system:authenticated"],
                &[
                    &user,
                    &group,
                    &group,
                    "\"userextras/%zz\" in API group \"authentication.k8s.io\" at the cluster scope",
                    "\"userextras/acme.com/project\" in API group \"authentication.k8s.io\" at the cluster scope",
                ],
            )),
        );
        // What is asked for has to be allowed, also where it would come with the name.
        check(
            &[("impersonate-user", b"jane"), ("impersonate-group", b"system:authenticated")],
            Ok(("jane", &["system:authenticated"], &[&user, &group])),
        );
    }

    #[test]
    fn what_cannot_be_read_or_lacks_a_user_is_refused() {
        for name in ["impersonate-user", "impersonate-uid", "impersonate-group", "impersonate-extra-a"] {
            let text = format!("the header {name} is not UTF-8");
            check(&[("impersonate-user", b"jane"), (name, b"j\xfcrgen")], Err(&text));
            check(&[(name, b"\xff")], Err(&text));
        }
        check(
            &[("impersonate-user", b"jane"), ("impersonate-extra-%ff", b"v")],
            Err("the header impersonate-extra-%ff is not UTF-8"),
        );
        check(
            &[("impersonate-user", b"jane"), ("impersonate-role", b"v")],
            Err("the header impersonate-role is not known"),
        );
        check(
            &[("impersonate-group", b"dev")],
            Err("requested [{Group  dev    }] without impersonating a user"),
        );
        check(
            &[("impersonate-user", b""), ("impersonate-uid", b"7"), ("impersonate-extra-k", b"v")],
            Err(
                "requested [{UserExtra  v  authentication.k8s.io/v1  k} {UID  7  authentication.k8s.io/v1  }] without impersonating a user",
            ),
        );
    }
}
