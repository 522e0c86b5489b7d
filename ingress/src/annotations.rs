//! What an Ingress's annotations `nginx.ingress.kubernetes.io/…` ask for.
//!
//! Pure. <https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/>.
//! What is not understood is said, and where it would protect something the Ingress is closed: its
//! routes answer 503 rather than be open to those whom the annotation would keep out. So it is with
//! annotations of other ingress controllers, which come along when an Ingress changes its class.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use proa_api::namespaced_name::NamespacedName;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";
/// Beginnings of names of what keeps somebody out or holds somebody back.
const PROTECTING_PREFIXES: [&str; 6] =
    ["auth-", "denylist-", "global-rate-limit", "limit-", "modsecurity-", "proxy-ssl-"];
/// And whole names. Snippets may hold anything, a `deny` among it.
const PROTECTING: [&str; 9] = [
    "allowlist-source-range",
    "configuration-snippet",
    "enable-modsecurity",
    "enable-owasp-core-rules",
    "satisfy",
    "server-snippet",
    "ssl-ciphers",
    "stream-snippet",
    "whitelist-source-range",
];
/// Beginnings of what other ingress controllers read.
const OTHERS: [&str; 29] = [
    "ako.vmware.com/",
    "alb.ingress.kubernetes.io/",
    "appgw.ingress.kubernetes.io/",
    "appprotect.f5.com/",
    "appprotectdos.f5.com/",
    "contour.heptio.com/",
    "getambassador.io/",
    "haproxy-ingress.github.io/",
    "haproxy.org/",
    "haproxy.router.openshift.io/",
    "higress.io/",
    "ingress.bluemix.net/",
    "ingress.cilium.io/",
    "ingress.citrix.com/",
    "ingress.gcp.kubernetes.io/",
    "ingress.kubernetes.io/",
    "k8s.apisix.apache.org/",
    "konghq.com/",
    "mse.ingress.kubernetes.io/",
    "ncp/",
    "networking.gke.io/",
    "nginx.com/",
    "nginx.org/",
    "nsx/",
    "projectcontour.io/",
    "traefik.ingress.kubernetes.io/",
    "virtual-server.f5.com/",
    "voyager.appscode.com/",
    "zalando.org/",
];
/// Parts of their names that say that somebody is kept out or held back, or may be: what middlewares,
/// plugins, policies, filters and snippets do is said elsewhere. Rather one too many than one too few.
const OTHERS_PROTECTING: [&str; 37] = [
    "acl",
    "allow",
    "app-protect",
    "appprotect",
    "auth",
    "blacklist",
    "blocklist",
    "captcha",
    "cidr",
    "client-ca",
    "client-cert",
    "client-crt",
    "conditions.",
    "config-backend",
    "config-frontend",
    "config-global",
    "csrf",
    "ddos",
    "deny",
    "filter",
    "firewall",
    "jwt",
    "limit",
    "middlewares",
    "modsecurity",
    "mutual",
    "oidc",
    "owasp",
    "plugin",
    "policies",
    "restrict",
    "security",
    "snippet",
    "source-range",
    "tls.options",
    "waf",
    "whitelist",
];
/// Read by GKE's controller, and by this one: whether plain HTTP is served.
const ALLOW_HTTP: &str = "kubernetes.io/ingress.allow-http";
const DEFAULT_REALM: &str = "Authentication Required";
/// Ranges of addresses in one annotation.
const RANGES: usize = 1000;

/// An Ingress's settings, and what is wrong with them.
#[derive(Default)]
pub struct Settings {
    pub auth: Option<AuthSettings>,
    /// Only clients with one of these addresses, if there are any.
    pub allowed: Vec<IpNet>,
    pub denied: Vec<IpNet>,
    /// What a request's path is replaced by.
    pub rewrite: Option<String>,
    pub use_regex: bool,
    /// Plain HTTP is sent to HTTPS where the host has TLS.
    pub ssl_redirect: bool,
    /// And everywhere.
    pub force_ssl_redirect: bool,
    /// Plain HTTP is not served, and not sent to HTTPS either.
    pub https_only: bool,
    /// Endpoints speak HTTP/2.
    pub grpc: bool,
    /// Why the routes must not be served.
    pub closed: Option<String>,
    /// What is not understood and only said.
    pub ignored: Vec<String>,
}

/// Basic authentication.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    pub secret: NamespacedName,
    /// Each key of the Secret is a user, rather than the key `auth` a file.
    pub is_map: bool,
    pub realm: String,
}

/// Reads the annotations of an Ingress in `namespace`.
pub fn settings(namespace: &str, annotations: Option<&BTreeMap<String, String>>) -> Settings {
    let mut found = Settings { ssl_redirect: true, ..Settings::default() };
    let named =
        annotations.into_iter().flatten().filter_map(|(k, v)| Some((k.strip_prefix(PREFIX)?, v.trim())));
    let named: BTreeMap<&str, &str> = named.collect();
    let mut closed = Vec::new();
    for (name, value) in &named {
        let read = match *name {
            // Read together below.
            "auth-type" | "auth-secret" | "auth-secret-type" | "auth-realm" => Ok(()),
            "whitelist-source-range" | "allowlist-source-range" => {
                ranges(value).map(|ranges| found.allowed.extend(ranges))
            }
            "denylist-source-range" => ranges(value).map(|ranges| found.denied.extend(ranges)),
            "rewrite-target" => rewrite(value).map(|target| found.rewrite = target),
            "use-regex" => flag(value).map(|on| found.use_regex = on),
            "ssl-redirect" => flag(value).map(|on| found.ssl_redirect = on),
            "force-ssl-redirect" => flag(value).map(|on| found.force_ssl_redirect = on),
            "backend-protocol" => match *value {
                "HTTP" => Ok(()),
                "GRPC" => {
                    found.grpc = true;
                    Ok(())
                }
                _ => Err("only HTTP and GRPC are supported".to_owned()),
            },
            other if is_protecting(other) => Err("it is not supported".to_owned()),
            other => {
                found.ignored.push(format!("annotation {PREFIX}{other} is not supported and has no effect"));
                Ok(())
            }
        };
        if let Err(why) = read {
            closed.push(format!("annotation {PREFIX}{name}: {why}"));
        }
    }
    for (name, value) in annotations.into_iter().flatten() {
        if name == ALLOW_HTTP {
            match flag(value.trim()) {
                Ok(allowed) => found.https_only = !allowed,
                Err(why) => closed.push(format!("annotation {name}: {why}")),
            }
        }
        let Some(rest) = OTHERS.iter().find_map(|prefix| name.strip_prefix(prefix)) else { continue };
        match protects(rest, value.trim()) {
            true => closed.push(format!("annotation {name}: it is another ingress controller's")),
            false => found
                .ignored
                .push(format!("annotation {name} is another ingress controller's and has no effect")),
        }
    }
    match auth(namespace, &named) {
        Ok(auth) => found.auth = auth,
        Err(why) => closed.push(why),
    }
    found.closed = (!closed.is_empty()).then(|| closed.join("; "));
    found
}

fn is_protecting(name: &str) -> bool {
    PROTECTING.contains(&name) || PROTECTING_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether an annotation of another ingress controller asks for something that keeps somebody out.
fn protects(name: &str, value: &str) -> bool {
    let asks_nothing = match value {
        "" | "none" => true,
        "false" | "off" => !name.contains("allow"),
        _ => false,
    };
    !asks_nothing && OTHERS_PROTECTING.iter().any(|part| name.contains(part))
}

fn auth(namespace: &str, named: &BTreeMap<&str, &str>) -> Result<Option<AuthSettings>, String> {
    let refuse = |name: &str, why: &str| Err(format!("annotation {PREFIX}{name}: {why}"));
    let Some(kind) = named.get("auth-type") else {
        let lone =
            ["auth-secret", "auth-secret-type", "auth-realm"].into_iter().find(|n| named.contains_key(n));
        return lone.map_or(Ok(None), |name| refuse(name, "it has no effect without auth-type"));
    };
    if *kind != "basic" {
        return refuse("auth-type", "only basic is supported");
    }
    let Some(secret) = named.get("auth-secret").filter(|secret| !secret.is_empty()) else {
        return refuse("auth-type", "auth-secret is missing");
    };
    let name = match secret.split_once('/') {
        Some((other, _)) if other != namespace => {
            return refuse("auth-secret", "a Secret of another namespace is not read");
        }
        Some((_, name)) => name,
        None => secret,
    };
    let is_map = match named.get("auth-secret-type").copied() {
        None | Some("auth-file") => false,
        Some("auth-map") => true,
        Some(_) => return refuse("auth-secret-type", "it is neither auth-file nor auth-map"),
    };
    let realm = named.get("auth-realm").filter(|realm| !realm.is_empty()).copied().unwrap_or(DEFAULT_REALM);
    if realm.chars().any(char::is_control) {
        return refuse("auth-realm", "it has a control character");
    }
    let secret = (namespace.to_owned(), name.to_owned());
    Ok(Some(AuthSettings { secret, is_map, realm: realm.to_owned() }))
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("{value:?} is neither true nor false"))
}

fn rewrite(value: &str) -> Result<Option<String>, String> {
    match value {
        "" => Ok(None),
        value if !value.starts_with('/') => Err("only a path can be rewritten to".to_owned()),
        value if value.contains(['?', '#', '\\']) || value.chars().any(char::is_control) => {
            Err("only a path can be rewritten to".to_owned())
        }
        value if value.split('/').any(|segment| matches!(segment, "." | "..")) => {
            Err("a path with dot segments is not rewritten to".to_owned())
        }
        value => Ok(Some(value.to_owned())),
    }
}

fn ranges(value: &str) -> Result<Vec<IpNet>, String> {
    let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
    let read = |text: &str| {
        let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(one).ok_or_else(|| format!("{text:?} is no range of addresses"))
    };
    let ranges: Vec<IpNet> = texts.map(read).collect::<Result<_, _>>()?;
    match ranges.len() {
        0 => Err("it names no address".to_owned()),
        n if n > RANGES => Err(format!("it names more than {RANGES} ranges")),
        _ => Ok(ranges),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Settings {
        let pairs = pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned()));
        settings("ns", Some(&pairs.collect()))
    }

    #[test]
    fn what_protects_and_is_not_understood_closes() {
        for (pairs, why) in [
            (&[("auth-url", "http://x")][..], "auth-url: it is not supported"),
            (&[("auth-tls-secret", "ns/ca")], "auth-tls-secret: it is not supported"),
            (&[("auth-type", "digest"), ("auth-secret", "s")], "auth-type: only basic is supported"),
            (&[("auth-type", "basic")], "auth-type: auth-secret is missing"),
            (&[("auth-secret", "s")], "auth-secret: it has no effect without auth-type"),
            (
                &[("auth-type", "basic"), ("auth-secret", "other/s")],
                "auth-secret: a Secret of another namespace",
            ),
            (
                &[("auth-type", "basic"), ("auth-secret", "s"), ("auth-secret-type", "x")],
                "auth-secret-type: it is neither",
            ),
            (
                &[("auth-type", "basic"), ("auth-secret", "s"), ("auth-realm", "a\nb")],
                "auth-realm: it has a control",
            ),
            (
                &[("whitelist-source-range", "10.0.0.0/33")],
                "whitelist-source-range: \"10.0.0.0/33\" is no range",
            ),
            (&[("allowlist-source-range", "")], "allowlist-source-range: it names no address"),
            (&[("limit-rps", "5")], "limit-rps: it is not supported"),
            (&[("server-snippet", "deny all;")], "server-snippet: it is not supported"),
            (&[("rewrite-target", "https://elsewhere/")], "rewrite-target: only a path"),
            (&[("rewrite-target", "/?a=$1")], "rewrite-target: only a path"),
            (&[("rewrite-target", "/a/../$1")], "rewrite-target: a path with dot segments"),
            (&[("force-ssl-redirect", "yes")], "force-ssl-redirect: \"yes\" is neither true nor false"),
            (&[("backend-protocol", "HTTPS")], "backend-protocol: only HTTP and GRPC"),
        ] {
            let closed = read(pairs).closed.unwrap_or_default();
            assert!(closed.starts_with(&format!("annotation {PREFIX}{why}")), "{pairs:?}: {closed}");
        }
    }

    #[test]
    fn what_is_understood_or_harmless_leaves_it_open() {
        let found = read(&[
            ("auth-type", "basic"),
            ("auth-secret", "ns/s"),
            ("auth-secret-type", "auth-map"),
            ("whitelist-source-range", "0.0.0.0/0, ::/0,192.0.2.1"),
            ("rewrite-target", "/$2"),
            ("proxy-body-size", "8m"),
        ]);
        assert_eq!(found.closed, None);
        let auth = found.auth.unwrap();
        assert_eq!((auth.secret, auth.is_map), (("ns".to_owned(), "s".to_owned()), true));
        assert_eq!(auth.realm, "Authentication Required");
        assert_eq!(found.allowed.len(), 3);
        assert!(found.ssl_redirect && !found.force_ssl_redirect);
        let ignored = format!("annotation {PREFIX}proxy-body-size is not supported and has no effect");
        assert_eq!(found.ignored, [ignored]);
        assert!(settings("ns", None).closed.is_none());
    }

    #[test]
    fn what_is_another_controllers() {
        let read = |name: &str, value: &str| {
            let found = settings("ns", Some(&[(name.to_owned(), value.to_owned())].into()));
            (found.closed.is_some(), found.ignored.len())
        };
        for name in [
            "traefik.ingress.kubernetes.io/router.middlewares",
            "nginx.org/basic-auth-secret",
            "haproxy.org/auth-type",
            "ingress.kubernetes.io/auth-type",
            "alb.ingress.kubernetes.io/auth-type",
            "alb.ingress.kubernetes.io/mutual-authentication",
            "alb.ingress.kubernetes.io/wafv2-acl-arn",
            "appgw.ingress.kubernetes.io/waf-policy-for-path",
            "haproxy-ingress.github.io/config-backend",
            "haproxy-ingress.github.io/oauth",
            "haproxy-ingress.github.io/waf",
            "haproxy.org/backend-config-snippet",
            "haproxy.org/client-ca",
            "haproxy.org/frontend-config-snippet",
            "ingress.citrix.com/rewrite-responder-policies",
            "ingress.kubernetes.io/oauth",
            "nginx.com/jwt-token",
            "nginx.org/limit-req-rate",
            "nginx.org/location-snippets",
            "nginx.org/server-snippets",
            "traefik.ingress.kubernetes.io/router.tls.options",
            "virtual-server.f5.com/whitelist-source-range",
            "zalando.org/skipper-filter",
        ] {
            assert_eq!(read(name, "x"), (true, 0), "{name}");
        }
        assert_eq!(read("higress.io/allow-anonymous", "false"), (true, 0));
        for (name, value) in [
            ("alb.ingress.kubernetes.io/auth-type", "none"),
            ("alb.ingress.kubernetes.io/scheme", "internal"),
            ("alb.ingress.kubernetes.io/certificate-arn", "arn"),
            ("getambassador.io/config", "x"),
            ("haproxy-ingress.github.io/waf", "false"),
            ("ingress.cilium.io/tls-passthrough", "enabled"),
            ("ingress.citrix.com/frontend-ip", "192.0.2.1"),
            ("nsx/loadbalancer", "x"),
            ("projectcontour.io/websocket-routes", "/"),
            ("traefik.ingress.kubernetes.io/router.entrypoints", "web"),
        ] {
            assert_eq!(read(name, value), (false, 1), "{name}");
        }
        for (name, value) in [
            ("kubernetes.io/ingress.class", "x"),
            ("kubernetes.io/ingress.allow-http", "true"),
            ("kubernetes.io/ingress.allow-http", "false"),
            ("example.com/auth-type", "x"),
        ] {
            assert_eq!(read(name, value), (false, 0), "{name}");
        }
        assert_eq!(read("kubernetes.io/ingress.allow-http", "no"), (true, 0));
    }
}
