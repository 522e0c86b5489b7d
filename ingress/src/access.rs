//! Who may use the routes of an Ingress.
//!
//! Pure. Made by `route` from the settings and the Secrets they name, asked by `proxy` for each request.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proa_api::namespaced_name::NamespacedName;

use crate::annotations::{AuthSettings, Settings};
use crate::htpasswd::Passwords;
use crate::index::PasswordData;

/// The key of a Secret of type `auth-file`.
const FILE: &str = "auth";

/// Who may use the routes of one Ingress.
#[derive(Default)]
pub struct Access {
    /// Nobody, and why; empty while that is not known.
    pub closed: Option<String>,
    /// Nobody over plain HTTP.
    pub https_only: bool,
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    /// Only with a password.
    pub auth: Option<Auth>,
}

/// Basic authentication (RFC 7617).
pub struct Auth {
    /// The Ingress's namespace.
    pub namespace: String,
    pub realm: String,
    pub passwords: Passwords,
}

impl Access {
    /// Open to nobody.
    pub fn closed(why: String) -> Access {
        Access { closed: Some(why), ..Access::default() }
    }

    /// From an Ingress's settings and the Secrets with passwords; also what is to be said of them.
    pub fn of(
        settings: &Settings,
        secrets: &BTreeMap<NamespacedName, Option<PasswordData>>,
    ) -> (Access, Vec<String>) {
        let mut access = Access {
            closed: settings.closed.clone(),
            https_only: settings.https_only,
            allowed: settings.allowed.clone(),
            denied: settings.denied.clone(),
            auth: None,
        };
        let mut problems = Vec::new();
        if let Some(wanted) = &settings.auth {
            match passwords(wanted, secrets) {
                Ok(passwords) => {
                    let name = &wanted.secret.1;
                    let unusable = passwords.unusable();
                    if let Some(first) = unusable.first() {
                        let others = match unusable.len() - 1 {
                            0 => String::new(),
                            n => format!(" (and of {n} others)"),
                        };
                        problems.push(format!(
                            "Secret {name}: the password of user {first:?}{others} is hashed in a way that is not supported"
                        ));
                    }
                    let (namespace, realm) = (wanted.secret.0.clone(), wanted.realm.clone());
                    access.auth = Some(Auth { namespace, realm, passwords });
                }
                Err(why) => drop(access.closed.get_or_insert(why)),
            }
        }
        (access, problems)
    }

    /// Whether a client with this address may come in at all.
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let is_in = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&client));
        !is_in(&self.denied) && (self.allowed.is_empty() || is_in(&self.allowed))
    }
}

fn passwords(
    wanted: &AuthSettings,
    secrets: &BTreeMap<NamespacedName, Option<PasswordData>>,
) -> Result<Passwords, String> {
    let name = &wanted.secret.1;
    let data = match secrets.get(&wanted.secret) {
        None => return Err(String::new()),
        Some(None) => return Err(format!("Secret {name} does not exist")),
        Some(Some(data)) => data,
    };
    match (wanted.is_map, data.get(FILE)) {
        (true, _) => Ok(Passwords::of_map(data)),
        (false, Some(file)) => Ok(Passwords::of_file(file)),
        (false, None) => Err(format!("Secret {name} has no key {FILE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations;

    #[test]
    fn ranges_of_addresses() {
        let annotation = |name: &str, value: &str| {
            let pairs = [(format!("nginx.ingress.kubernetes.io/{name}"), value.to_owned())];
            Access::of(&annotations::settings("ns", Some(&pairs.into())), &BTreeMap::new()).0
        };
        for (name, value, client, admitted) in [
            ("whitelist-source-range", "10.0.0.0/8,192.0.2.1", "10.1.2.3", true),
            ("whitelist-source-range", "10.0.0.0/8,192.0.2.1", "192.0.2.1", true),
            ("whitelist-source-range", "10.0.0.0/8,192.0.2.1", "192.0.2.2", false),
            ("whitelist-source-range", "10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("allowlist-source-range", "0.0.0.0/0,::/0", "fd00::1", true),
            ("denylist-source-range", "10.0.0.0/8", "10.0.0.1", false),
            ("denylist-source-range", "10.0.0.0/8", "11.0.0.1", true),
        ] {
            let access = annotation(name, value);
            assert_eq!(access.admits(client.parse().unwrap()), admitted, "{name} {value} {client}");
        }
    }
}
