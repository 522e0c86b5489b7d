//! The rules of one Ingress, made into the paths and backends of the route table.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend, IngressSpec, IngressTLS};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proa_api::namespaced_name::NamespacedName;

use super::backend::{Backend, NO_ENDPOINTS, NO_PORT, NO_SERVICE, NOT_REACHED, RESOURCE_BACKEND};
use super::paths::{Matcher, Path, Rewrite, Route};
use super::problem::{REASON_BEHIND, REASON_ENDPOINTS, REASON_PATH};
use crate::access::Access;
use crate::annotations::Settings;
use crate::index::{Index, Port, ServiceEntry};
use crate::names::External;
use crate::path;
use crate::pattern::{self, Budget, Patterns, SPECIAL};

/// What the Ingresses of one table share.
pub struct Parts<'a> {
    pub index: &'a Index,
    pub patterns: &'a mut Patterns,
    budget: Budget,
    /// By Service, port and whether HTTP/2 is asked for: thousands of paths may lead to one Service.
    backends: HashMap<(NamespacedName, PortName, bool), Arc<Backend>>,
    /// The namespace of the oldest Ingress with a rule for a host, by host.
    owners: HashMap<String, String>,
}

/// A port by its name, if it has one that is no number, or by its number.
type PortName = (Option<i32>, String);

/// The hosts that an Ingress has TLS for.
pub struct Secured {
    all: bool,
    hosts: HashSet<String>,
}

/// Compiles the rules of one Ingress.
pub struct Rules<'p, 'a> {
    pub parts: &'p mut Parts<'a>,
    pub namespace: &'p str,
    pub settings: &'p Settings,
    pub access: Arc<Access>,
    /// The Ingress is closed for its patterns, which are not compiled.
    pub patterns_closed: bool,
    pub problems: Vec<(&'static str, String)>,
}

impl<'a> Parts<'a> {
    pub fn new(index: &'a Index, patterns: &'a mut Patterns) -> Self {
        Parts { index, patterns, budget: Budget::default(), backends: HashMap::new(), owners: HashMap::new() }
    }

    /// Takes what the patterns of an Ingress need of what its namespace may have.
    pub fn take_patterns(
        &mut self,
        namespace: &str,
        spec: &IngressSpec,
        settings: &Settings,
    ) -> Result<(), String> {
        let paths = spec.rules.iter().flatten().flat_map(|rule| &rule.http).flat_map(|http| &http.paths);
        let texts: BTreeSet<&str> = paths.filter(|path| is_pattern(path, settings)).map(text).collect();
        if texts.is_empty() { Ok(()) } else { self.budget.take(namespace, &texts, self.patterns) }
    }
}

impl Secured {
    pub fn of(tls: &[IngressTLS]) -> Self {
        let hosts = || tls.iter().map(|tls| tls.hosts.as_deref().unwrap_or_default());
        Secured {
            all: hosts().any(<[String]>::is_empty),
            hosts: hosts().flatten().map(|host| host.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether TLS is set up for a rule's host, which is in lower case.
    pub fn covers(&self, host: &str) -> bool {
        let wildcard = || host.find('.').map(|dot| format!("*{}", &host[dot..]));
        self.all || self.hosts.contains(host) || wildcard().is_some_and(|wild| self.hosts.contains(&wild))
    }
}

/// A path that is empty is the root.
fn text(path: &HTTPIngressPath) -> &str {
    path.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/")
}

/// A path with a special character is a pattern where the Ingress says so, with `use-regex` or by
/// rewriting.
fn is_pattern(path: &HTTPIngressPath, settings: &Settings) -> bool {
    let may_be = settings.use_regex || settings.rewrite.is_some();
    may_be && path.path_type != "Exact" && text(path).contains(SPECIAL)
}

impl Rules<'_, '_> {
    pub fn path(&mut self, path: &HTTPIngressPath, to_https: bool) -> Path {
        let (text, is_pattern) = (text(path), is_pattern(path, self.settings));
        if is_pattern && self.patterns_closed {
            return closed_path(text, pattern::beginning(text), Arc::clone(&self.access));
        }
        let matcher = match is_pattern {
            true => self.parts.patterns.get(text).map(Matcher::Pattern),
            false => plain(text, path.path_type == "Exact"),
        };
        let matcher = match matcher {
            Ok(matcher) => matcher,
            Err(why) => {
                let why = format!("path {text} is not served: {why}");
                self.problems.push((REASON_PATH, why.clone()));
                let literal = text.split(SPECIAL).next().unwrap_or_default();
                let begins = match is_pattern {
                    true => pattern::beginning(text),
                    false => literal.to_ascii_lowercase().into_bytes(),
                };
                return closed_path(text, begins, Arc::new(Access::closed(why)));
            }
        };
        let (length, pattern) = match &matcher {
            Matcher::Exact(path) | Matcher::Prefix(path) | Matcher::Beginning(path) => (path.len(), None),
            Matcher::Pattern(pattern) => (text.len(), Some(Arc::clone(pattern))),
        };
        let backend = self.backend(&path.backend);
        // As in ingress-nginx a path that is the target itself stays as it is.
        let target = self.settings.rewrite.clone().filter(|target| target != text);
        let rewrite = target.map(|target| Rewrite { pattern, target });
        let access = Arc::clone(&self.access);
        let route = Arc::new(Route { backend, access, to_https, rewrite });
        Path { matcher, length, fallback: false, behind: false, route }
    }

    /// A pattern goes by the length of its text, which anybody can make as long as it takes to be asked
    /// first. It is not to take a host from those of another namespace who have had it before.
    pub fn put_behind(&mut self, host: &str, paths: &mut [Path]) {
        let owner = self.parts.owners.entry(host.to_owned()).or_insert_with(|| self.namespace.to_owned());
        if owner == self.namespace {
            return;
        }
        let mut any = false;
        for path in paths {
            path.behind = matches!(path.matcher, Matcher::Pattern(_) | Matcher::Beginning(_));
            any |= path.behind;
        }
        if any {
            let message = format!(
                "patterns of host {host:?} are matched after its other rules: an older Ingress of another namespace has that host"
            );
            self.problems.push((REASON_BEHIND, message));
        }
    }

    pub fn route(&self, backend: &Arc<Backend>, to_https: bool) -> Arc<Route> {
        let (backend, access) = (Arc::clone(backend), Arc::clone(&self.access));
        Arc::new(Route { backend, access, to_https, rewrite: None })
    }

    pub fn backend(&mut self, backend: &IngressBackend) -> Arc<Backend> {
        let Some(service) = &backend.service else {
            return Arc::new(Backend::none(format!("{}/resource", self.namespace), RESOURCE_BACKEND));
        };
        let wanted = match service.port.as_ref().map(|p| (p.number, p.name.as_ref())) {
            Some((Some(number), _)) if number > 0 => IntOrString::Int(number),
            Some((_, Some(name))) => IntOrString::String(name.clone()),
            _ => IntOrString::Int(0),
        };
        let port: PortName = match &wanted {
            IntOrString::Int(number) => (Some(*number), number.to_string()),
            IntOrString::String(name) => (None, name.clone()),
        };
        let service: NamespacedName = (self.namespace.to_owned(), service.name.clone());
        let name = format!("{}/{}:{}", service.0, service.1, port.1);
        let key = (service, port, self.settings.grpc);
        let made = match self.parts.backends.get(&key) {
            Some(made) => Arc::clone(made),
            None => {
                let made = Arc::new(self.service(name, &key.0, &wanted));
                self.parts.backends.insert(key, Arc::clone(&made));
                made
            }
        };
        if made.left_out {
            let message =
                format!("{}: pods of other nodes cannot be reached yet and are left out", made.name);
            self.problems.push((REASON_ENDPOINTS, message));
        }
        made
    }

    /// The backend that a port of a Service is.
    fn service(&self, name: String, key: &NamespacedName, wanted: &IntOrString) -> Backend {
        let mut made = Backend::none(name, NO_PORT);
        made.http2 = self.settings.grpc;
        let index = self.parts.index;
        let port = index.port(key, wanted);
        match index.services.get(key) {
            None => made.unavailable = NO_SERVICE,
            Some(ServiceEntry { external_name: Some(name), .. }) => {
                // Such a Service need not list its ports.
                let number = match (port, wanted) {
                    (Some(port), _) => port.number,
                    (None, IntOrString::Int(number)) => *number,
                    _ => 0,
                };
                made.http2 |= port.is_some_and(|port| port.http2);
                let port = u16::try_from(number).ok().filter(|port| *port > 0);
                let (namespace, name) = (&key.0, name);
                made.external =
                    port.map(|port| External { namespace: namespace.clone(), name: name.clone(), port });
            }
            Some(_) => port.into_iter().for_each(|port| self.reach(&mut made, key, port)),
        }
        made
    }

    fn reach(&self, backend: &mut Backend, service: &NamespacedName, port: &Port) {
        let (endpoints, left_out) = self.parts.index.endpoints(service, port);
        backend.unavailable = if left_out { NOT_REACHED } else { NO_ENDPOINTS };
        backend.endpoints = endpoints;
        backend.left_out = left_out;
        backend.http2 |= port.http2;
    }
}

/// What a path that is not served would have matched is nobody else's: what is surely part of it is
/// closed, rather than left to a wider rule that may be open to more.
fn closed_path(text: &str, begins: Vec<u8>, access: Arc<Access>) -> Path {
    let backend = Arc::new(Backend::none(text.to_owned(), ""));
    let route = Route { backend, access, to_https: false, rewrite: None };
    Path {
        matcher: Matcher::Beginning(begins),
        length: text.len(),
        fallback: false,
        behind: false,
        route: Arc::new(route),
    }
}

/// A path as it stands; ImplementationSpecific is a prefix here.
fn plain(text: &str, exact: bool) -> Result<Matcher, &'static str> {
    let mut path = path::target(text)?.matched;
    if exact {
        return Ok(Matcher::Exact(path));
    }
    while path.last() == Some(&b'/') {
        path.pop();
    }
    Ok(Matcher::Prefix(path))
}
