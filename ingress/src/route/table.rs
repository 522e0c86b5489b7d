//! The route table of one moment.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressTLS};
use proa_api::namespaced_name::{self, NamespacedName};
use rustls::sign::CertifiedKey;

use super::paths::{Path, Route};
use super::problem::{
    Problem, REASON_CERTIFICATE, REASON_CLOSED, REASON_IGNORED, REASON_MORE, REASON_PASSWORD,
};
use super::rules::{Parts, Rules, Secured};
use crate::access::Access;
use crate::annotations;
use crate::index::Index;
use crate::own_addresses::OwnAddresses;
use crate::pattern::Patterns;

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
    secrets: BTreeSet<NamespacedName>,
    /// Addresses that a name of elsewhere must not lead to.
    own: Arc<OwnAddresses>,
    /// False only for the table before the first one that was compiled.
    compiled: bool,
}

/// Problems of one Ingress that are said, each in an Event and a line of the log.
const PROBLEMS: usize = 16;
/// A problem's text may be as long as this, in characters: an Event's has at most a kilobyte.
const MESSAGE_LENGTH: usize = 255;

impl Table {
    /// Compiles all routes. Where two rules say the same, that of the older Ingress counts.
    pub fn compile(index: &Index, patterns: &mut Patterns) -> Table {
        let mut table = Table { compiled: true, own: Arc::new(OwnAddresses::of(index)), ..Table::default() };
        let mut ours: Vec<&Ingress> = index.ingresses.values().filter(|i| index.is_ours(i)).collect();
        ours.sort_by(|a, b| {
            let age = |i: &Ingress| i.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (age(a), namespaced_name::of(&a.metadata)).cmp(&(age(b), namespaced_name::of(&b.metadata)))
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
    pub fn secrets(&self) -> &BTreeSet<NamespacedName> {
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
        let about =
            (namespaced_name::of(&ingress.metadata), ingress.metadata.uid.clone().unwrap_or_default());
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
        let secret: NamespacedName = (namespace.to_owned(), secret_name.clone());
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

fn certificate<'a>(index: &'a Index, secret: &NamespacedName) -> Result<&'a Arc<CertifiedKey>, &'a str> {
    match index.certificates.get(secret) {
        Some(Ok(certificate)) => Ok(certificate),
        Some(Err(why)) => Err(why),
        None => Err("there is no such Secret of type kubernetes.io/tls"),
    }
}
