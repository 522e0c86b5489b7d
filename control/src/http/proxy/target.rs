//! Where a proxied request goes: a port of one pod, or the agent of a node.
//!
//! `[https:]NAME[:PORT]` names it. Of a service one ready endpoint is chosen, and only if it is a
//! pod that exists: nobody reaches an address by writing it into an EndpointSlice.

use std::net::IpAddr;

use proa_api::Refusal;
use proa_api::names::KUBELET_PORT;
use proa_kinds::Kind;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::super::path::ResourcePath;
use crate::registry::Registry;

/// Where to.
#[derive(Debug)]
pub enum Target {
    /// A port of a pod.
    Pod {
        /// Its node.
        node: String,
        /// Namespace, name and uid.
        pod: [String; 3],
        /// Over TLS, whose certificate is not looked at.
        tls: bool,
        /// Its address, for comparing links.
        ip: IpAddr,
        /// Port.
        port: u16,
    },
    /// The agent of a node.
    Node(String),
}

impl Target {
    /// The node that carries it on.
    pub fn node(&self) -> &str {
        match self {
            Target::Pod { node, .. } | Target::Node(node) => node,
        }
    }

    /// Host and port as links to it would have them; empty for a node.
    pub fn authority(&self) -> String {
        match self {
            Target::Pod { ip: IpAddr::V6(ip), port, .. } => format!("[{ip}]:{port}"),
            Target::Pod { ip, port, .. } => format!("{ip}:{port}"),
            Target::Node(_) => String::new(),
        }
    }

    /// What precedes its paths at the node's agent.
    pub fn path(&self) -> String {
        match self {
            Target::Pod { pod: [namespace, name, uid], tls, port, .. } => {
                let scheme = if *tls { "https" } else { "http" };
                format!("/podProxy/{namespace}/{name}/{uid}/{scheme}/{port}")
            }
            Target::Node(_) => String::new(),
        }
    }
}

/// Finds it.
pub fn find(registry: &Registry, path: &ResourcePath) -> Result<Target, Refusal> {
    let id = path.name.as_deref().unwrap_or_default();
    let singular = path.plural.trim_end_matches('s');
    let Some((tls, name, port)) = split(id) else {
        return Err(Refusal::bad_request(format!("invalid {singular} request {id:?}")));
    };
    let namespace = path.namespace.as_deref().unwrap_or_default();
    match path.plural.as_str() {
        "nodes" => of_node(&object(registry, "nodes", "", name)?, port),
        "pods" => of_pod(&object(registry, "pods", namespace, name)?, tls, port),
        _ => of_service(registry, namespace, name, tls, port),
    }
}

/// Scheme, name and port. The name may stand alone, with its port, or with both.
fn split(id: &str) -> Option<(bool, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme == "https", name, port))
}

fn object(registry: &Registry, plural: &str, namespace: &str, name: &str) -> Result<Value, Refusal> {
    let table = registry.kinds();
    let kind: &Kind = table.by_plural("", "v1", plural).ok_or_else(Refusal::no_such_path)?;
    Ok(registry.get(kind, namespace, name)?.value())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn of_node(node: &Value, port: &str) -> Result<Target, Refusal> {
    let own = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let own = own.unwrap_or_else(|| KUBELET_PORT.into()).to_string();
    if !port.is_empty() && port != own {
        return Err(Refusal::bad_request(format!(
            "address not allowed: of a node only its agent is reached, on port {own}"
        )));
    }
    Ok(Target::Node(text(node, "/metadata/name").to_owned()))
}

/// The first port that a container declares if none is asked for; without any, the scheme's.
fn of_pod(pod: &Value, tls: bool, port: &str) -> Result<Target, Refusal> {
    let declared = || items(pod, "/spec/containers").iter().flat_map(|c| items(c, "/ports"));
    let number = |port: &Value| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let found = if port.is_empty() {
        declared().find_map(number).or(Some(if tls { 443 } else { 80 }))
    } else {
        let named = || declared().find(|known| known["name"] == port).and_then(number);
        port.parse().ok().filter(|port| *port != 0).or_else(named)
    };
    let found = found.ok_or_else(|| Refusal::bad_request(format!("invalid port {port:?}")))?;
    pod_target(pod, tls, found)
}

fn pod_target(pod: &Value, tls: bool, port: u16) -> Result<Target, Refusal> {
    let ip = text(pod, "/status/podIP").parse().ok().filter(|ip| is_global_unicast(*ip));
    let ip = ip.ok_or_else(|| Refusal::bad_request("address not allowed"))?;
    let node = text(pod, "/spec/nodeName").to_owned();
    let pod = ["namespace", "name", "uid"].map(|part| text(&pod["metadata"], &format!("/{part}")).to_owned());
    Ok(Target::Pod { node, pod, tls, ip, port })
}

fn of_service(
    registry: &Registry,
    namespace: &str,
    name: &str,
    tls: bool,
    port: &str,
) -> Result<Target, Refusal> {
    let service = object(registry, "services", namespace, name)?;
    let port_name = port_name(&service, name, port)?;
    let endpoints = object(registry, "endpoints", namespace, name).unwrap_or_default();
    let mut choice = addresses(&endpoints, &port_name);
    choice.shuffle(&mut rand::rng());
    let reached = choice.into_iter().find_map(|(address, port)| {
        let reference = &address["targetRef"];
        let pod = object(registry, "pods", namespace, text(reference, "/name")).ok()?;
        let own = |ip: &Value| ip["ip"] == address["ip"];
        let same = reference["kind"] == "Pod"
            && reference["uid"] == pod["metadata"]["uid"]
            && items(&pod, "/status/podIPs").iter().any(own);
        same.then(|| pod_target(&pod, tls, port).ok()).flatten()
    });
    reached.ok_or_else(|| {
        Refusal::unavailable(format!("no endpoints available for service {}", quoted(name, port)))
    })
}

/// Endpoints know a service's ports by their names.
fn port_name(service: &Value, name: &str, port: &str) -> Result<String, Refusal> {
    let Ok(number) = port.parse::<i64>() else { return Ok(port.to_owned()) };
    let found = items(service, "/spec/ports").iter().find(|port| port["port"] == number);
    found
        .map(|port| text(port, "/name").to_owned())
        .ok_or_else(|| Refusal::unavailable(format!("no service port {number} found for service {name:?}")))
}

/// Ready addresses with the number that the port has there.
fn addresses<'a>(endpoints: &'a Value, port_name: &str) -> Vec<(&'a Value, u16)> {
    let mut found = Vec::new();
    for subset in items(endpoints, "/subsets") {
        let port = items(subset, "/ports").iter().find(|port| text(port, "/name") == port_name);
        let number = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        found.extend(items(subset, "/addresses").iter().map(|address| (address, number)));
    }
    found
}

fn quoted(name: &str, port: &str) -> String {
    if port.is_empty() { format!("{name:?}") } else { format!("\"{name}:{port}\"") }
}

/// Neither this machine, nor its link, nor many at once.
fn is_global_unicast(ip: IpAddr) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    !special && !local
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(split("a"), Some((false, "a", "")));
        assert_eq!(split("a:80"), Some((false, "a", "80")));
        assert_eq!(split("https:a:"), Some((true, "a", "")));
        assert_eq!(split("http:a:web"), Some((false, "a", "web")));
        for wrong in ["", ":80", "ftp:a:80", "a:b:c:d", "https::80"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    fn pod(ip: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "status": {"podIP": ip},
            "spec": {"nodeName": "m", "containers": [{"name": "a"},
                {"name": "b", "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9}]}]}})
    }

    #[track_caller]
    fn check(ip: &str, tls: bool, port: &str, expected: Result<&str, &str>) {
        let found = of_pod(&pod(ip), tls, port);
        let found = found.map(|target| target.path()).map_err(|refusal| refusal.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{ip} {port}");
    }

    #[test]
    fn ports_and_addresses_of_pods() {
        check("10.42.0.7", false, "", Ok("/podProxy/n/p/u/http/8080"));
        check("10.42.0.7", true, "9", Ok("/podProxy/n/p/u/https/9"));
        check("10.42.0.7", false, "web", Ok("/podProxy/n/p/u/http/8080"));
        check("10.42.0.7", false, "nope", Err("invalid port \"nope\""));
        check("10.42.0.7", false, "0", Err("invalid port \"0\""));
        check("10.42.0.7", false, "65536", Err("invalid port \"65536\""));
        for ip in
            ["", "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "::ffff:127.0.0.1"]
        {
            check(ip, false, "80", Err("address not allowed"));
        }
    }

    #[test]
    fn ports_of_services() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}]}});
        assert_eq!(port_name(&service, "s", "80").unwrap(), "web");
        assert_eq!(port_name(&service, "s", "web").unwrap(), "web");
        assert_eq!(port_name(&service, "s", "").unwrap(), "");
        let refusal = port_name(&service, "s", "81").unwrap_err();
        assert_eq!(refusal.to_string(), "no service port 81 found for service \"s\"");
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.42.0.7"}], "notReadyAddresses": [{"ip": "10.42.0.8"}],
                "ports": [{"name": "web", "port": 8080}]}]});
        assert_eq!(addresses(&endpoints, "web").iter().map(|(_, port)| *port).collect::<Vec<_>>(), [8080]);
        assert!(addresses(&endpoints, "").is_empty());
    }

    #[test]
    fn a_node_is_its_agent() {
        let node = json!({"metadata": {"name": "m"}, "status": {}});
        assert_eq!(of_node(&node, "").unwrap().node(), "m");
        assert_eq!(of_node(&node, "10250").unwrap().path(), "");
        assert!(of_node(&node, "22").is_err_and(|refusal| refusal.code() == 400));
    }
}
