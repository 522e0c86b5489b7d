//! The route table: which backend answers a host and a path.
//!
//! Compiled from the index, read by every request. Pure: equal indexes give equal tables.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressTLS};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::sign::CertifiedKey;

use crate::index::{Index, Key, key};

/// All routes and certificates at one moment.
#[derive(Default)]
pub struct Table {
    /// Paths by exact host; `""` holds those of rules without a host.
    hosts: HashMap<String, Vec<Path>>,
    /// Paths by the suffix of a wildcard host: `.example.com` for `*.example.com`.
    wildcards: HashMap<String, Vec<Path>>,
    /// For requests that no rule matches.
    default: Option<Arc<Backend>>,
    /// Certificates by host; `*.example.com` under `.example.com`, and under `""` the one for all
    /// other names.
    certificates: HashMap<String, Arc<CertifiedKey>>,
    /// What is wrong with the objects, in sentences for the log.
    problems: BTreeSet<String>,
    /// False only for the table before the first one that was compiled.
    compiled: bool,
}

struct Path {
    path: String,
    exact: bool,
    /// Stands for an Ingress's `defaultBackend`: any rule of the same host goes before it.
    fallback: bool,
    backend: Arc<Backend>,
}

/// Where the requests of a route go.
#[derive(Debug)]
pub struct Backend {
    /// `namespace/service:port`, for logs and reasons.
    pub name: String,
    /// Its ready endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// Why there are none, if there are none.
    pub unavailable: &'static str,
    next: AtomicUsize,
}

/// The Service named by a route does not exist.
pub const NO_SERVICE: &str = "the service does not exist";
/// The Service has no such port.
pub const NO_PORT: &str = "the service has no such port";
/// The Service has no pod that is ready.
pub const NO_ENDPOINTS: &str = "the service has no ready endpoints";
/// The route leads to something other than a Service.
pub const RESOURCE_BACKEND: &str = "resource backends are not supported";

impl Backend {
    /// The endpoints to try, each once, starting with another one each time.
    pub fn in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let count = self.endpoints.len();
        let start = if count == 0 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % count };
        self.endpoints.iter().cycle().skip(start).take(count).copied()
    }
}

impl Table {
    /// Compiles all routes. Where two rules say the same, that of the older Ingress counts.
    pub fn compile(index: &Index) -> Table {
        let mut table = Table { compiled: true, ..Table::default() };
        let mut ours: Vec<&Ingress> = index.ingresses.values().filter(|i| index.is_ours(i)).collect();
        ours.sort_by(|a, b| {
            let age = |i: &Ingress| i.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (age(a), key(&a.metadata)).cmp(&(age(b), key(&b.metadata)))
        });
        for ingress in ours {
            table.add(index, ingress);
        }
        for paths in table.hosts.values_mut().chain(table.wildcards.values_mut()) {
            // The sort is stable, so age decides last.
            paths.sort_by_key(|path| std::cmp::Reverse(path.precedence()));
        }
        table
    }

    /// False as long as the cluster's routes are not known.
    pub fn is_compiled(&self) -> bool {
        self.compiled
    }

    /// What is wrong with the objects the table was compiled from, in sentences for the log.
    pub fn problems(&self) -> &BTreeSet<String> {
        &self.problems
    }

    fn add(&mut self, index: &Index, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let default = spec.default_backend.as_ref().map(|b| backend(index, namespace, b));
        if self.default.is_none() {
            self.default.clone_from(&default);
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let paths = match host.strip_prefix('*') {
                Some(suffix) => self.wildcards.entry(suffix.to_owned()).or_default(),
                None => self.hosts.entry(host).or_default(),
            };
            let compiled = rule.http.iter().flat_map(|h| &h.paths);
            paths.extend(compiled.map(|path| compile_path(index, namespace, path)));
            // What this Ingress's rules leave of the host is its own default backend's, not that of
            // an Ingress which happens to be older.
            paths.extend(default.iter().map(Path::fallback));
        }
        for tls in spec.tls.iter().flatten() {
            self.add_certificate(index, ingress, tls);
        }
    }

    fn add_certificate(&mut self, index: &Index, ingress: &Ingress, tls: &IngressTLS) {
        let (namespace, name) = key(&ingress.metadata);
        let Some(secret_name) = &tls.secret_name else { return };
        let secret: Key = (namespace, secret_name.clone());
        let certificate = match index.certificates.get(&secret) {
            Some(Ok(certificate)) => certificate,
            missing => {
                let why = match missing {
                    Some(Err(why)) => why.as_str(),
                    _ => "there is no such Secret of type kubernetes.io/tls",
                };
                let namespace = &secret.0;
                self.problems.insert(format!("Ingress {namespace}/{name}: Secret {secret_name}: {why}"));
                return;
            }
        };
        let hosts = tls.hosts.as_deref().unwrap_or_default();
        // A certificate for no host in particular is for all that have none of their own.
        let any = hosts.is_empty().then_some("");
        for host in hosts.iter().map(String::as_str).chain(any) {
            let host = host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase();
            self.certificates.entry(host).or_insert_with(|| Arc::clone(certificate));
        }
    }

    /// The backend for a request. `host` is without port.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
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
            .map(|p| &p.backend)
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

impl Path {
    fn fallback(backend: &Arc<Backend>) -> Path {
        Path { path: "/".to_owned(), exact: false, fallback: true, backend: Arc::clone(backend) }
    }

    /// The longest path goes first, and an exact one before a prefix as long. A slash at the end
    /// of a prefix says nothing, so it does not count.
    fn precedence(&self) -> (bool, usize, bool) {
        let path = if self.exact { &self.path } else { self.path.trim_end_matches('/') };
        (!self.fallback, path.len(), self.exact)
    }

    /// A prefix matches by whole elements: `/a` covers `/a` and `/a/b`, never `/ab`.
    fn matches(&self, path: &str) -> bool {
        if self.exact {
            return path == self.path;
        }
        let prefix = self.path.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn compile_path(index: &Index, namespace: &str, path: &HTTPIngressPath) -> Path {
    Path {
        path: path.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned()),
        // ImplementationSpecific is a prefix here.
        exact: path.path_type == "Exact",
        fallback: false,
        backend: backend(index, namespace, &path.backend),
    }
}

fn backend(index: &Index, namespace: &str, backend: &IngressBackend) -> Arc<Backend> {
    let made = |name: String, endpoints: Vec<SocketAddr>, unavailable| {
        Arc::new(Backend { name, endpoints, unavailable, next: AtomicUsize::new(0) })
    };
    let Some(service) = &backend.service else {
        return made(format!("{namespace}/resource"), Vec::new(), RESOURCE_BACKEND);
    };
    let wanted = match service.port.as_ref().map(|p| (p.number, p.name.as_ref())) {
        Some((Some(number), _)) if number > 0 => IntOrString::Int(number),
        Some((_, Some(name))) => IntOrString::String(name.clone()),
        _ => IntOrString::Int(0),
    };
    let key = (namespace.to_owned(), service.name.clone());
    let port_name = match &wanted {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    let name = format!("{namespace}/{}:{port_name}", service.name);
    if !index.services.contains_key(&key) {
        return made(name, Vec::new(), NO_SERVICE);
    }
    match index.port(&key, &wanted) {
        Some(port) => made(name, index.endpoints(&key, port), NO_ENDPOINTS),
        None => made(name, Vec::new(), NO_PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Indexed;

    fn index(objects: &[serde_json::Value]) -> Index {
        let mut index = Index::default();
        for object in objects {
            let text = object.to_string();
            match object["kind"].as_str() {
                Some("Ingress") => serde_json::from_str::<Ingress>(&text).unwrap().apply(&mut index),
                Some("IngressClass") => {
                    serde_json::from_str::<k8s_openapi::api::networking::v1::IngressClass>(&text)
                        .unwrap()
                        .apply(&mut index);
                }
                Some("Service") => serde_json::from_str::<k8s_openapi::api::core::v1::Service>(&text)
                    .unwrap()
                    .apply(&mut index),
                Some("EndpointSlice") => {
                    serde_json::from_str::<k8s_openapi::api::discovery::v1::EndpointSlice>(&text)
                        .unwrap()
                        .apply(&mut index);
                }
                other => panic!("{other:?}"),
            }
        }
        index
    }

    fn class() -> serde_json::Value {
        serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "proa", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": "proa.dev/ingress"}})
    }

    fn rule(name: &str, host: &str, path: &str, path_type: &str) -> serde_json::Value {
        let mut rule = serde_json::json!({"http": {"paths": [{"path": path, "pathType": path_type,
            "backend": {"service": {"name": name, "port": {"number": 80}}}}]}});
        if !host.is_empty() {
            rule["host"] = host.into();
        }
        serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"namespace": "ns", "name": format!("{name}-{}", path.len())}, "spec": {"rules": [rule]}})
    }

    fn check(objects: &[serde_json::Value], cases: &[(&str, &str, Option<&str>)]) {
        let mut all = vec![class()];
        all.extend_from_slice(objects);
        let table = Table::compile(&index(&all));
        for (host, path, expected) in cases {
            let found = table.find(host, path).map(|b| b.name.as_str());
            assert_eq!(found, *expected, "{host} {path}");
        }
    }

    #[test]
    fn paths() {
        check(
            &[
                rule("root", "a.example", "/", "Prefix"),
                rule("foo", "a.example", "/foo", "Prefix"),
                rule("exact", "a.example", "/foo", "Exact"),
                rule("bar", "a.example", "/foo/bar/", "Prefix"),
            ],
            &[
                ("a.example", "/", Some("ns/root:80")),
                ("A.Example", "/x", Some("ns/root:80")),
                ("a.example", "/foo", Some("ns/exact:80")),
                ("a.example", "/foo/", Some("ns/foo:80")),
                ("a.example", "/foobar", Some("ns/root:80")),
                ("a.example", "/foo/bar", Some("ns/bar:80")),
                ("a.example", "/foo/bar/x", Some("ns/bar:80")),
                ("b.example", "/", None),
            ],
        );
    }

    #[test]
    fn hosts() {
        check(
            &[
                rule("wild", "*.example", "/", "Prefix"),
                rule("one", "one.example", "/only", "Exact"),
                rule("any", "", "/any", "Prefix"),
            ],
            &[
                ("two.example", "/", Some("ns/wild:80")),
                ("one.example", "/only", Some("ns/one:80")),
                ("one.example", "/else", Some("ns/wild:80")),
                ("a.b.example", "/", None),
                ("example", "/", None),
                ("other", "/any/x", Some("ns/any:80")),
            ],
        );
    }

    /// The table of <https://kubernetes.io/docs/concepts/services-networking/ingress/#examples>.
    #[test]
    fn examples_of_the_documentation() {
        for (path_type, paths, request, expected) in [
            ("Prefix", &["/"][..], "/any/path", Some("/")),
            ("Exact", &["/foo"], "/foo", Some("/foo")),
            ("Exact", &["/foo"], "/bar", None),
            ("Exact", &["/foo"], "/foo/", None),
            ("Exact", &["/foo/"], "/foo", None),
            ("Prefix", &["/foo"], "/foo", Some("/foo")),
            ("Prefix", &["/foo"], "/foo/", Some("/foo")),
            ("Prefix", &["/foo/"], "/foo", Some("/foo/")),
            ("Prefix", &["/foo/"], "/foo/", Some("/foo/")),
            ("Prefix", &["/aaa/bb"], "/aaa/bbb", None),
            ("Prefix", &["/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
            ("Prefix", &["/aaa/bbb/"], "/aaa/bbb", Some("/aaa/bbb/")),
            ("Prefix", &["/aaa/bbb"], "/aaa/bbb/ccc", Some("/aaa/bbb")),
            ("Prefix", &["/aaa/bbb"], "/aaa/bbbxyz", None),
            ("Prefix", &["/", "/aaa"], "/aaa/ccc", Some("/aaa")),
            ("Prefix", &["/", "/aaa", "/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
            ("Prefix", &["/", "/aaa", "/aaa/bbb"], "/ccc", Some("/")),
            ("Prefix", &["/aaa"], "/ccc", None),
            ("ImplementationSpecific", &["/foo"], "/foo/bar", Some("/foo")),
        ] {
            let name = |path: &str| format!("p{}", path.replace('/', "-"));
            let rules: Vec<_> = paths.iter().map(|p| rule(&name(p), "h", p, path_type)).collect();
            let expected = expected.map(|p| format!("ns/{}:80", name(p)));
            check(&rules, &[("h", request, expected.as_deref())]);
        }
    }

    #[test]
    fn exact_goes_before_prefix_whatever_its_slash() {
        let rules = [rule("prefix", "h", "/foo/", "Prefix"), rule("exact", "h", "/foo", "Exact")];
        check(&rules, &[("h", "/foo", Some("ns/exact:80")), ("h", "/foo/", Some("ns/prefix:80"))]);
    }

    #[test]
    fn default_backends() {
        let with_default = |mut ingress: serde_json::Value, service: &str| {
            ingress["spec"]["defaultBackend"] =
                serde_json::json!({"service": {"name": service, "port": {"name": "web"}}});
            ingress
        };
        let older = with_default(rule("a", "a.example", "/a", "Prefix"), "default-a");
        let newer = with_default(rule("b", "b.example", "/b", "Prefix"), "default-b");
        let another = rule("c", "a.example", "/", "Prefix");
        check(
            &[older.clone(), newer],
            &[
                ("a.example", "/a", Some("ns/a:80")),
                ("a.example", "/x", Some("ns/default-a:web")),
                ("b.example", "/x", Some("ns/default-b:web")),
                ("c.example", "/x", Some("ns/default-a:web")),
            ],
        );
        check(&[older, another], &[("a.example", "/x", Some("ns/c:80"))]);
    }

    #[test]
    fn classes() {
        let named = |field: Option<&str>, annotation: Option<&str>| {
            let mut ingress = rule("s", "h", "/", "Prefix");
            ingress["spec"]["ingressClassName"] = field.into();
            ingress["metadata"]["annotations"] =
                annotation.map(|a| serde_json::json!({"kubernetes.io/ingress.class": a})).into();
            Table::compile(&index(&[class(), ingress])).find("h", "/").is_some()
        };
        assert!(named(None, None), "the default class");
        assert!(named(Some("proa"), None));
        assert!(!named(Some("nginx"), None));
        assert!(named(None, Some("proa")));
        assert!(!named(Some("proa"), Some("nginx")), "the annotation goes before the field");
    }

    #[test]
    fn a_missing_certificate_is_a_problem() {
        let mut ingress = rule("s", "h", "/", "Prefix");
        ingress["spec"]["tls"] = serde_json::json!([{"hosts": ["h"], "secretName": "cert"}]);
        let table = Table::compile(&index(&[class(), ingress]));
        let problems: Vec<_> = table.problems().iter().map(String::as_str).collect();
        assert_eq!(
            problems,
            ["Ingress ns/s-1: Secret cert: there is no such Secret of type kubernetes.io/tls"]
        );
    }

    #[test]
    fn endpoints_and_reasons() {
        let service = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": "s"},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
        let slice = serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}}]});
        let ingress = rule("s", "h", "/", "Prefix");
        let table = Table::compile(&index(&[class(), service.clone(), slice, ingress.clone()]));
        let backend = table.find("h", "/").unwrap();
        assert_eq!(backend.endpoints, ["10.0.0.2:8080".parse().unwrap()]);
        let table = Table::compile(&index(&[class(), service, ingress.clone()]));
        assert_eq!(table.find("h", "/").unwrap().unavailable, NO_ENDPOINTS);
        let table = Table::compile(&index(&[class(), ingress.clone()]));
        assert_eq!(table.find("h", "/").unwrap().unavailable, NO_SERVICE);
        let table = Table::compile(&index(&[ingress]));
        assert!(table.find("h", "/").is_none(), "no class of ours: not our Ingress");
    }
}
