//! The route table: which backend answers a host and a path.
//!
//! Compiled from the index, read by every request. Pure: equal indexes give equal tables.

mod rules;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::networking::v1::{Ingress, IngressTLS};
use rustls::sign::CertifiedKey;

use crate::access::Access;
use crate::annotations;
use crate::index::{Index, Key, Ranges, key};
use crate::path;
use crate::pattern::{Pattern, Patterns};
use rules::{Parts, Rules, Secured};

/// All routes and certificates at one moment.
#[derive(Default)]
pub struct Table {
    /// Paths by exact host; `""` holds those of rules without a host.
    hosts: HashMap<String, Vec<Path>>,
    /// Paths by the suffix of a wildcard host: `.example.com` for `*.example.com`.
    wildcards: HashMap<String, Vec<Path>>,
    /// For requests that no rule matches.
    default: Option<Arc<Route>>,
    /// Certificates by host; `*.example.com` under `.example.com`, and under `""` the one for all
    /// other names.
    certificates: HashMap<String, Arc<CertifiedKey>>,
    /// What is wrong with the objects.
    problems: BTreeSet<Problem>,
    /// The Secrets with passwords that Ingresses name.
    secrets: BTreeSet<Key>,
    /// Addresses that a name of elsewhere must not lead to.
    own: Arc<OwnAddresses>,
    /// False only for the table before the first one that was compiled.
    compiled: bool,
}

/// Addresses of the cluster and its nodes.
#[derive(Default, PartialEq)]
pub struct OwnAddresses {
    nodes: BTreeSet<IpAddr>,
    ranges: Vec<ipnet::IpNet>,
}

/// Something that is wrong with an object, or that it asks for and does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The Ingress, and its uid; none if it is a setting.
    pub about: Option<(Key, String)>,
    /// Constant.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

struct Path {
    matcher: Matcher,
    /// Of what is matched, in bytes: the longer goes first.
    length: usize,
    /// Stands for an Ingress's `defaultBackend`: any rule of the same host goes before it.
    fallback: bool,
    /// A pattern for a host that an older Ingress of another namespace has: rules without go before it.
    behind: bool,
    route: Arc<Route>,
}

/// What a path says of requests' paths, decoded.
enum Matcher {
    Exact(Vec<u8>),
    /// Whole elements; without a slash at the end.
    Prefix(Vec<u8>),
    Pattern(Arc<Pattern>),
    /// All that begins like this, whatever its case: stands for a pattern that is closed.
    Beginning(Vec<u8>),
}

/// What becomes of a request that a rule matches.
pub struct Route {
    pub backend: Arc<Backend>,
    /// Who may use it.
    pub access: Arc<Access>,
    /// Plain HTTP is sent to HTTPS.
    pub to_https: bool,
    rewrite: Option<Rewrite>,
}

struct Rewrite {
    pattern: Option<Arc<Pattern>>,
    target: String,
}

/// Where the requests of a route go.
#[derive(Debug)]
pub struct Backend {
    /// `namespace/service:port`, for logs and reasons.
    pub name: String,
    /// Its ready endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// The name and port elsewhere whose addresses are its endpoints.
    pub external: Option<(String, u16)>,
    /// Its endpoints speak HTTP/2 in the clear.
    pub http2: bool,
    /// Why there are none, if there are none.
    pub unavailable: &'static str,
    /// Others are left out, as they cannot be reached.
    left_out: bool,
    next: AtomicUsize,
}

/// The Service named by a route does not exist.
pub const NO_SERVICE: &str = "the service does not exist";
/// The Service has no such port.
pub const NO_PORT: &str = "the service has no such port";
/// The Service has no pod that is ready.
pub const NO_ENDPOINTS: &str = "the service has no ready endpoints";
/// The Service's pods are all on other nodes.
pub const NOT_REACHED: &str = "the service's pods are on other nodes, which cannot be reached yet";
/// The route leads to something other than a Service.
pub const RESOURCE_BACKEND: &str = "resource backends are not supported";

/// An annotation that is not understood and of which nothing hangs.
pub const REASON_IGNORED: &str = "AnnotationIgnored";
/// The Ingress is not served, lest it be open to whom it should not.
pub const REASON_CLOSED: &str = "IngressClosed";
/// A user whose password cannot be checked, and who is let in by none.
pub const REASON_PASSWORD: &str = "PasswordNotSupported";
/// A path that cannot match anything.
pub const REASON_PATH: &str = "InvalidPath";
/// A certificate that is missing or broken.
pub const REASON_CERTIFICATE: &str = "CertificateMissing";
/// Patterns are matched after the rules of another Ingress.
pub const REASON_BEHIND: &str = "PatternsBehindOthers";
/// There is more than is said.
pub const REASON_MORE: &str = "MoreProblems";
/// Pods of other nodes are left out.
pub const REASON_ENDPOINTS: &str = "EndpointsNotReachable";

/// Problems of one Ingress that are said, each in an Event and a line of the log.
const PROBLEMS: usize = 16;
/// A problem's text may be as long as this, in characters: an Event's has at most a kilobyte.
const MESSAGE_LENGTH: usize = 255;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(((namespace, name), _)) = &self.about {
            write!(f, "Ingress {namespace}/{name}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl OwnAddresses {
    fn of(index: &Index) -> Self {
        let ranges = |r: &Ranges| vec![r.pods, r.services];
        OwnAddresses {
            nodes: index.nodes.values().flatten().copied().collect(),
            ranges: index.ranges.as_ref().map(ranges).unwrap_or_default(),
        }
    }

    /// Whether the address is a node's, a pod's or a Service's.
    pub fn has(&self, address: IpAddr) -> bool {
        self.nodes.contains(&address) || self.ranges.iter().any(|range| range.contains(&address))
    }
}

impl Backend {
    fn none(name: String, unavailable: &'static str) -> Self {
        let (endpoints, next) = (Vec::new(), AtomicUsize::new(0));
        Backend { name, endpoints, external: None, http2: false, unavailable, left_out: false, next }
    }

    /// The endpoints to try, each once, starting with another one each time.
    pub fn in_turn<'a>(&self, endpoints: &'a [SocketAddr]) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let count = endpoints.len();
        let start = if count == 0 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % count };
        endpoints.iter().cycle().skip(start).take(count).copied()
    }
}

impl Route {
    /// The path that replaces a request's, encoded, or why it cannot be sent; `None` if it stays.
    pub fn rewritten(&self, matched: &[u8]) -> Option<Result<String, &'static str>> {
        let rewrite = self.rewrite.as_ref()?;
        let captures = rewrite.pattern.as_ref().and_then(|pattern| pattern.regex.captures(matched));
        let mut made = Vec::new();
        let mut chars = rewrite.target.chars().peekable();
        while let Some(char) = chars.next() {
            let digit = chars.peek().filter(|_| char == '$').and_then(|c| c.to_digit(10));
            if let Some(digit) = digit {
                chars.next();
                let group = captures.as_ref().and_then(|c| c.get(digit as usize));
                made.extend_from_slice(group.map_or(&b""[..], |m| m.as_bytes()));
            } else {
                made.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Some(path::encode(&made))
    }
}

impl Table {
    /// Compiles all routes. Where two rules say the same, that of the older Ingress counts.
    pub fn compile(index: &Index, patterns: &mut Patterns) -> Table {
        let mut table = Table { compiled: true, own: Arc::new(OwnAddresses::of(index)), ..Table::default() };
        let mut ours: Vec<&Ingress> = index.ingresses.values().filter(|i| index.is_ours(i)).collect();
        ours.sort_by(|a, b| {
            let age = |i: &Ingress| i.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (age(a), key(&a.metadata)).cmp(&(age(b), key(&b.metadata)))
        });
        let mut parts = Parts::new(index, patterns);
        for ingress in ours {
            table.add(&mut parts, ingress);
        }
        parts.patterns.forget_unused();
        for paths in table.hosts.values_mut().chain(table.wildcards.values_mut()) {
            // The sort is stable, so age decides last.
            paths.sort_by_key(|path| std::cmp::Reverse(path.precedence()));
        }
        table.add_default_certificate(index);
        table
    }

    /// False as long as the cluster's routes are not known.
    pub fn is_compiled(&self) -> bool {
        self.compiled
    }

    /// What is wrong with the objects the table was compiled from.
    pub fn problems(&self) -> &BTreeSet<Problem> {
        &self.problems
    }

    /// The Secrets with passwords that must be read.
    pub fn secrets(&self) -> &BTreeSet<Key> {
        &self.secrets
    }

    /// Addresses that a name of elsewhere must not lead to.
    pub fn own_addresses(&self) -> &Arc<OwnAddresses> {
        &self.own
    }

    fn add(&mut self, parts: &mut Parts<'_>, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let index = parts.index;
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let mut settings = annotations::settings(namespace, ingress.metadata.annotations.as_ref());
        let over_budget = parts.take_patterns(namespace, spec, &settings).err();
        if let Some(why) = &over_budget {
            settings.closed.get_or_insert_with(|| why.clone());
        }
        self.secrets.extend(settings.auth.iter().map(|auth| auth.secret.clone()));
        let (access, unusable) = Access::of(&settings, &index.passwords);
        let closed = access.closed.iter().filter(|why| !why.is_empty());
        let mut problems: Vec<_> = closed.map(|why| (REASON_CLOSED, why.clone())).collect();
        problems.extend(unusable.into_iter().map(|message| (REASON_PASSWORD, message)));
        let tls = spec.tls.as_deref().unwrap_or_default();
        let secured = Secured::of(tls);
        let mut rules = Rules {
            parts,
            namespace,
            settings: &settings,
            access: Arc::new(access),
            patterns_closed: over_budget.is_some(),
            problems,
        };
        let default = spec.default_backend.as_ref().map(|b| rules.backend(b));
        let to_https =
            |host: &str| settings.force_ssl_redirect || (settings.ssl_redirect && secured.covers(host));
        if self.default.is_none() {
            self.default = default.as_ref().map(|backend| rules.route(backend, to_https("")));
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let to_https = to_https(&host);
            let mut paths = Vec::new();
            for path in rule.http.iter().flat_map(|h| &h.paths) {
                paths.push(rules.path(path, to_https));
            }
            rules.put_behind(&host, &mut paths);
            // What this Ingress's rules leave of the host is its own default backend's, not that of
            // an Ingress which happens to be older.
            paths.extend(default.iter().map(|b| Path::fallback(rules.route(b, to_https))));
            match host.strip_prefix('*') {
                Some(suffix) => self.wildcards.entry(suffix.to_owned()).or_default().extend(paths),
                None => self.hosts.entry(host).or_default().extend(paths),
            }
        }
        let mut problems = rules.problems;
        for tls in tls {
            problems.extend(self.add_certificate(index, namespace, tls));
        }
        problems.extend(settings.ignored.into_iter().map(|message| (REASON_IGNORED, message)));
        self.report(ingress, problems);
    }

    /// Each once, and of many only the first ones.
    fn report(&mut self, ingress: &Ingress, problems: Vec<(&'static str, String)>) {
        let about = (key(&ingress.metadata), ingress.metadata.uid.clone().unwrap_or_default());
        let mut different = HashSet::new();
        for (reason, message) in problems {
            let message: String = message.chars().take(MESSAGE_LENGTH).collect();
            if different.insert((reason, message.clone())) && different.len() <= PROBLEMS {
                self.problems.insert(Problem { about: Some(about.clone()), reason, message });
            }
        }
        if different.len() > PROBLEMS {
            let message = format!("and {} more problems", different.len() - PROBLEMS);
            self.problems.insert(Problem { about: Some(about), reason: REASON_MORE, message });
        }
    }

    /// The problem there is with a certificate, if there is one.
    fn add_certificate(
        &mut self,
        index: &Index,
        namespace: &str,
        tls: &IngressTLS,
    ) -> Option<(&'static str, String)> {
        let secret_name = tls.secret_name.as_ref()?;
        let secret: Key = (namespace.to_owned(), secret_name.clone());
        let certificate = match certificate(index, &secret) {
            Ok(certificate) => certificate,
            Err(why) => return Some((REASON_CERTIFICATE, format!("Secret {secret_name}: {why}"))),
        };
        let hosts = tls.hosts.as_deref().unwrap_or_default();
        // A certificate for no host in particular is for all that have none of their own.
        let any = hosts.is_empty().then_some("");
        for host in hosts.iter().map(String::as_str).chain(any) {
            let host = host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase();
            self.certificates.entry(host).or_insert_with(|| Arc::clone(certificate));
        }
        None
    }

    /// What is set for names without a certificate goes before what an Ingress would show to all.
    fn add_default_certificate(&mut self, index: &Index) {
        let Some(secret) = &index.default_certificate else { return };
        match certificate(index, secret) {
            Ok(certificate) => {
                self.certificates.insert(String::new(), Arc::clone(certificate));
            }
            Err(why) => {
                let (namespace, name) = secret;
                let message = format!("the default certificate's Secret {namespace}/{name}: {why}");
                self.problems.insert(Problem { about: None, reason: REASON_CERTIFICATE, message });
            }
        }
    }

    /// The route for a request. `host` is without port, `path` decoded.
    pub fn find(&self, host: &str, path: &[u8]) -> Option<&Arc<Route>> {
        let host = host.to_ascii_lowercase();
        // A wildcard stands for one label.
        let suffix = host.find('.').map(|dot| &host[dot..]);
        let candidates = [
            self.hosts.get(&host),
            suffix.and_then(|s| self.wildcards.get(s)),
            self.hosts.get("").filter(|_| !host.is_empty()),
        ];
        candidates
            .into_iter()
            .flatten()
            .find_map(|paths| paths.iter().find(|p| p.matches(path)))
            .map(|p| &p.route)
            .or(self.default.as_ref())
    }

    /// The certificate for a TLS server name; `""` for a client that sends none.
    pub fn certificate(&self, server_name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = server_name.to_ascii_lowercase();
        let suffix = name.find('.').map(|dot| &name[dot..]);
        let names = [Some(name.as_str()), suffix, Some("")];
        names.into_iter().flatten().find_map(|name| self.certificates.get(name))
    }
}

fn certificate<'a>(index: &'a Index, secret: &Key) -> Result<&'a Arc<CertifiedKey>, &'a str> {
    match index.certificates.get(secret) {
        Some(Ok(certificate)) => Ok(certificate),
        Some(Err(why)) => Err(why),
        None => Err("there is no such Secret of type kubernetes.io/tls"),
    }
}

impl Path {
    fn fallback(route: Arc<Route>) -> Path {
        Path { matcher: Matcher::Prefix(Vec::new()), length: 0, fallback: true, behind: false, route }
    }

    /// The longest path goes first, and an exact one before a prefix as long. A slash at the end
    /// of a prefix says nothing, so it does not count.
    fn precedence(&self) -> (bool, bool, usize, bool) {
        (!self.fallback, !self.behind, self.length, matches!(self.matcher, Matcher::Exact(_)))
    }

    /// A prefix matches by whole elements: `/a` covers `/a` and `/a/b`, never `/ab`.
    fn matches(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact(wanted) => path == wanted,
            Matcher::Prefix(prefix) => {
                path.strip_prefix(&prefix[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
            Matcher::Pattern(pattern) => pattern.regex.is_match(path),
            Matcher::Beginning(begins) => {
                path.get(..begins.len()).is_some_and(|start| start.eq_ignore_ascii_case(begins))
            }
        }
    }
}

#[cfg(test)]
mod tests;
