//! A pod's `/etc/hosts`, `/etc/resolv.conf` and host name.
//!
//! Pure; the worker writes the files (`start.rs`). Source:
//! <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

/// What the node knows about names.
#[derive(Clone, Debug)]
pub struct Names {
    /// Address of the cluster's DNS service.
    pub cluster_dns: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The node's own `/etc/resolv.conf`.
    pub node_resolv_conf: String,
    /// The node's own host name.
    pub node_hostname: String,
    /// The node's own `/etc/hosts`, for pods in its network.
    pub node_hosts: String,
}

/// Most name servers that libc reads.
const MAX_SERVERS: usize = 3;
/// Most search domains that the API allows.
const MAX_SEARCHES: usize = 32;
/// Longest host name that Linux takes.
const MAX_HOSTNAME: usize = 63;

/// The pod's host name, and its domain if it has one.
pub fn hostname(pod: &Pod, names: &Names) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.filter(|v| !v.is_empty()).cloned();
    if let Some(name) = text(spec.and_then(|s| s.hostname_override.as_ref())) {
        return (name, None);
    }
    if uses_host_network(pod) {
        return (names.node_hostname.clone(), None);
    }
    let own = pod.metadata.name.clone().unwrap_or_default();
    let mut host = text(spec.and_then(|s| s.hostname.as_ref())).unwrap_or(own);
    host.truncate(MAX_HOSTNAME);
    let host = host.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = text(spec.and_then(|s| s.subdomain.as_ref()))
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{}", names.cluster_domain));
    (host, domain)
}

/// The name that `gethostname` gives in the pod.
pub fn kernel_hostname(pod: &Pod, names: &Names) -> String {
    let as_fqdn = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    match hostname(pod, names) {
        (host, Some(domain)) if as_fqdn => format!("{host}.{domain}"),
        (host, _) => host,
    }
}

/// The text of `/etc/hosts`.
pub fn hosts(pod: &Pod, ip: IpAddr, names: &Names) -> String {
    let mut text;
    if uses_host_network(pod) {
        text = format!("# Kubernetes-managed hosts file (host network).\n{}", names.node_hosts);
    } else {
        let (host, domain) = hostname(pod, names);
        text = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        match domain {
            Some(domain) => text.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n")),
            None => text.push_str(&format!("{ip}\t{host}\n")),
        }
    }
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default();
            text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
        }
    }
    text
}

/// The text of `/etc/resolv.conf`.
pub fn resolv_conf(pod: &Pod, names: &Names) -> String {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let dns_policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let node = ResolvConf::parse(&names.node_resolv_conf);
    let mut conf = match dns_policy {
        "None" => ResolvConf::default(),
        "Default" => node,
        // A pod in the node's network sees the node's names unless it asks for the cluster's.
        "ClusterFirst" if uses_host_network(pod) => node,
        _ => {
            let domain = &names.cluster_domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(node.searches);
            ResolvConf {
                servers: vec![names.cluster_dns.to_string()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        conf.add(config);
    }
    conf.text()
}

/// True if the pod shares the node's network.
pub fn uses_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

#[derive(Debug, Default)]
struct ResolvConf {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => conf.servers.extend(words.next()),
                Some("search" | "domain") => conf.searches = words.filter(|w| w != ".").collect(),
                Some("options") => conf.options = words.collect(),
                _ => {}
            }
        }
        conf
    }

    fn add(&mut self, config: &PodDNSConfig) {
        for server in config.nameservers.iter().flatten() {
            push_new(&mut self.servers, server.clone());
        }
        for search in config.searches.iter().flatten() {
            push_new(&mut self.searches, search.trim_end_matches('.').to_owned());
        }
        let own = config.options.iter().flatten().filter_map(|option| {
            let name = option.name.as_ref()?;
            Some(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")))
        });
        // Of several with one name the last counts.
        let all: Vec<String> = std::mem::take(&mut self.options).into_iter().chain(own).collect();
        let mut seen = HashSet::new();
        for option in all.iter().rev() {
            if seen.insert(option.split(':').next().unwrap_or_default()) {
                self.options.push(option.clone());
            }
        }
        self.options.reverse();
    }

    fn text(mut self) -> String {
        self.searches.dedup();
        self.searches.truncate(MAX_SEARCHES);
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in self.servers.iter().take(MAX_SERVERS) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

fn push_new(list: &mut Vec<String>, value: String) {
    if !list.contains(&value) {
        list.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check(spec: Value, expected: Expect) {
        let names = Names {
            cluster_dns: [10, 43, 0, 10].into(),
            cluster_domain: "cluster.local".to_owned(),
            node_resolv_conf: "# node\nnameserver 192.0.2.53\nsearch lan\noptions edns0\n".to_owned(),
            node_hostname: "node-1".to_owned(),
            node_hosts: "127.0.0.1 localhost\n".to_owned(),
        };
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod = json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let (hosts, resolv) = (hosts(&pod, [10, 42, 0, 7].into(), &names), resolv_conf(&pod, &names));
        // The fixed lines of the hosts file tell nothing.
        let own: Vec<&str> = hosts.lines().filter(|l| !l.contains("ip6-") && !l.starts_with("127")).collect();
        expected.assert_eq(&format!("{}\n{}\n{resolv}", kernel_hostname(&pod, &names), own.join("\n")));
    }

    #[test]
    fn files() {
        check(
            json!({}),
            expect![[r#"
                web-0
                # Kubernetes-managed hosts file.
                10.42.0.7	web-0
                search ns.svc.cluster.local svc.cluster.local cluster.local lan
                nameserver 10.43.0.10
                options ndots:5
            "#]],
        );
        check(
            json!({"hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true, "dnsPolicy": "Default",
                   "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "b"]}]}),
            expect![[r#"
                h.sub.ns.svc.cluster.local
                # Kubernetes-managed hosts file.
                10.42.0.7	h.sub.ns.svc.cluster.local	h

                # Entries added by HostAliases.
                10.0.0.1	a	b
                search lan
                nameserver 192.0.2.53
                options edns0
            "#]],
        );
        check(
            json!({"hostNetwork": true}),
            expect![[r#"
                node-1
                # Kubernetes-managed hosts file (host network).
                search lan
                nameserver 192.0.2.53
                options edns0
            "#]],
        );
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x.y."],
                   "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            expect![[r#"
                web-0
                # Kubernetes-managed hosts file.
                10.42.0.7	web-0
                search x.y
                nameserver 1.1.1.1
                options ndots:2 edns0
            "#]],
        );
        check(
            json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"},
                   {"name": "ndots", "value": "3"}]}}),
            expect![[r#"
                web-0
                # Kubernetes-managed hosts file.
                10.42.0.7	web-0
                search ns.svc.cluster.local svc.cluster.local cluster.local lan
                nameserver 10.43.0.10
                options edns0 ndots:3
            "#]],
        );
    }
}
