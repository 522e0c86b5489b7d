use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::super::rules::Pick;
use super::*;
use proa_api::names::LABEL_SERVICE_NAME;

/// One line per rule and per problem, from Services and EndpointSlices in JSON.
fn check(services: &[Value], slices: &[Value], expected: Expect) {
    check_in(&Scope::for_tests(), services, slices, expected);
}

fn check_in(scope: &Scope, services: &[Value], slices: &[Value], expected: Expect) {
    let mut index = Index::default();
    for (number, slice) in slices.iter().enumerate() {
        let mut slice = slice.clone();
        slice["metadata"]["namespace"] = json!("default");
        slice["metadata"]["name"] = json!(format!("slice-{number}"));
        slice["addressType"] = json!(slice.get("addressType").unwrap_or(&json!("IPv4")));
        index.apply_slice(&serde_json::from_value(slice).unwrap());
    }
    for service in services {
        let mut service = service.clone();
        service["metadata"]["namespace"] = json!("default");
        index.apply_service(&serde_json::from_value(service).unwrap());
    }
    let decision = index.decide(scope);
    let rules = decision.rules.iter().map(|(f, b)| {
        let to: Vec<_> = b.endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
        let pick = match b.pick {
            Pick::Random => "random".to_owned(),
            Pick::Client { timeout_seconds } => format!("client/{timeout_seconds}"),
        };
        let place = if f.on_host { "host " } else { "" };
        format!("{place}{:?} {}:{} {pick} {}\n", f.protocol, f.address, f.port, to.join(" "))
    });
    let problems = decision
        .problems
        .iter()
        .map(|p| format!("{} {}: {}\n", p.about.name.as_deref().unwrap_or_default(), p.reason, p.message));
    let lines: Vec<String> = rules.chain(problems).collect();
    expected.assert_eq(&lines.concat());
}

fn slice(service: &str, ports: Value, endpoints: Value) -> Value {
    json!({"metadata": {"labels": {LABEL_SERVICE_NAME: service}}, "ports": ports, "endpoints": endpoints})
}

#[test]
fn named_ports_meet_across_slices() {
    check(
        &[json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.7", "ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}})],
        &[
            slice("web", json!([{"name": "http", "port": 8080}]), json!([{"addresses": ["10.42.0.3"]}])),
            slice(
                "web",
                json!([{"name": "http", "port": 8081}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
                json!([{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.0.9"], "conditions": {"ready": false}}]),
            ),
            slice("other", json!([{"name": "http", "port": 1}]), json!([{"addresses": ["10.42.0.4"]}])),
        ],
        expect![[r#"
            Tcp 10.43.0.7:80 random 10.42.0.2:8081 10.42.0.3:8080
            Udp 10.43.0.7:53 random 10.42.0.2:5353
        "#]],
    );
}

#[test]
fn draining_endpoints_serve_while_none_is_ready() {
    let conditions = json!({"ready": false, "serving": true, "terminating": true});
    let ports = json!([{"port": 8080}]);
    let draining = slice(
        "web",
        ports.clone(),
        json!([{"addresses": ["10.42.0.2"], "conditions": conditions},
               {"addresses": ["10.42.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}}]),
    );
    let ready = slice("web", ports, json!([{"addresses": ["10.42.0.3"], "conditions": {"ready": true}}]));
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}});
    check(
        std::slice::from_ref(&service),
        std::slice::from_ref(&draining),
        expect![[r#"
            Tcp 10.43.0.7:80 random 10.42.0.2:8080
        "#]],
    );
    check(
        &[service],
        &[draining, ready],
        expect![[r#"
            Tcp 10.43.0.7:80 random 10.42.0.3:8080
        "#]],
    );
}

#[test]
fn node_ports_and_external_addresses_follow_the_external_policy() {
    check(
        &[json!({"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7",
            "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "lb.example"}]}}})],
        &[slice(
            "web",
            json!([{"port": 8080}]),
            json!([{"addresses": ["10.42.0.2"]}, {"addresses": ["10.42.1.2"]}]),
        )],
        expect![[r#"
            Tcp 10.43.0.7:80 client/10800 10.42.0.2:8080
            Tcp 192.0.2.1:80 client/10800 10.42.0.2:8080
            Tcp 192.0.2.2:80 client/10800 10.42.0.2:8080
            host Tcp 0.0.0.0:30080 client/10800 10.42.0.2:8080
            web EndpointsNotReachable: node n1 cannot reach the pods of other nodes yet: from there only its own endpoints are used
        "#]],
    );
}

/// A Service that has one endpoint, `10.42.0.2`, and asks for addresses.
fn asking(name: &str, created: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name, "creationTimestamp": created},
        "spec": {"ports": [{"port": 80}]}});
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

fn one_endpoint(service: &str) -> Value {
    slice(service, json!([{"port": 8080}]), json!([{"addresses": ["10.42.0.2"]}]))
}

#[test]
fn addresses_of_others_are_not_taken_over() {
    let ips = ["10.42.3.4", "10.42.0.1", "10.43.0.1", "10.43.0.10", "192.168.7.1", "192.0.2.1", "fd00::1"];
    let mut balancer = asking("lb", "2024-01-01T00:00:00Z", json!({"type": "LoadBalancer"}));
    balancer["status"] = json!({"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}, {"ip": "10.43.0.1"}]}});
    let mut restricted = asking(
        "for-some",
        "2024-01-01T00:00:00Z",
        json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24"]}),
    );
    restricted["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}});
    check(
        &[asking("thief", "2024-01-01T00:00:00Z", json!({ "externalIPs": ips })), balancer, restricted],
        &[one_endpoint("thief"), one_endpoint("lb"), one_endpoint("for-some")],
        expect![[r#"
            Tcp 192.0.2.1:80 random 10.42.0.2:8080
            for-some ExternalAddressNotServed: status.loadBalancer 192.0.2.9 is not served: loadBalancerSourceRanges is not supported
            lb ExternalAddressNotServed: status.loadBalancer 127.0.0.1 is not served: it is a loopback address
            lb ExternalAddressNotServed: status.loadBalancer 10.43.0.1 is not served: it is one of the Services' addresses 10.43.0.0/16
            thief ExternalAddressNotServed: externalIPs 10.42.3.4 is not served: it is one of the pods' addresses 10.42.0.0/16
            thief ExternalAddressNotServed: externalIPs 10.42.0.1 is not served: it is one of the pods' addresses 10.42.0.0/16
            thief ExternalAddressNotServed: externalIPs 10.43.0.1 is not served: it is one of the Services' addresses 10.43.0.0/16
            thief ExternalAddressNotServed: externalIPs 10.43.0.10 is not served: it is one of the Services' addresses 10.43.0.0/16
            thief ExternalAddressNotServed: externalIPs 192.168.7.1 is not served: it is the address of a node
            thief ExternalAddressNotServed: externalIPs fd00::1 is not served: it is no IPv4 address
        "#]],
    );
}

#[test]
fn a_service_asks_for_so_many_addresses() {
    let decide = |ips: Vec<String>, ports: u16| {
        let mut service = asking("greedy", "2024-01-01T00:00:00Z", json!({ "externalIPs": ips }));
        service["metadata"]["namespace"] = json!("default");
        let port = |n: u16| json!({"name": format!("p{n}"), "port": n, "targetPort": 80});
        service["spec"]["ports"] = (1..=ports).map(port).collect();
        let mut index = Index::default();
        index.apply_service(&serde_json::from_value(service).unwrap());
        index.decide(&Scope::for_tests())
    };
    let own = |n: usize| format!("192.0.{}.{}", n / 256, n % 256);
    let of_pods = |n: usize| format!("10.42.{}.{}", n / 256, n % 256);
    let refused = decide((0..50_000).map(of_pods).collect(), 1).problems;
    assert_eq!(refused.len(), MOST_PROBLEMS + 1);
    assert_eq!(refused[MOST_PROBLEMS].message, "further addresses are not served");
    let refused = decide((0..50_000).map(own).collect(), 1000).problems;
    assert_eq!(refused.len(), 1);
    assert!(refused[0].message.ends_with("more than 1024 addresses and ports"), "{:?}", refused[0]);
}

#[test]
fn the_oldest_service_keeps_an_address() {
    let asks = |name: &str, created: &str| asking(name, created, json!({"externalIPs": ["192.0.2.1"]}));
    let services = [asks("a-new", "2024-06-01T00:00:00Z"), asks("b-old", "2024-01-01T00:00:00Z")];
    check(
        &services,
        &[one_endpoint("a-new"), slice("b-old", json!([{"port": 1}]), json!([{"addresses": ["10.42.0.9"]}]))],
        expect![[r#"
            Tcp 192.0.2.1:80 random 10.42.0.9:1
            a-new ExternalAddressNotServed: externalIPs 192.0.2.1 is not served: port 80/TCP there is that of Service default/b-old, which is older
        "#]],
    );
    // Also while it has nobody to lead to.
    check(
        &services,
        &[one_endpoint("a-new")],
        expect![[r#"
        a-new ExternalAddressNotServed: externalIPs 192.0.2.1 is not served: port 80/TCP there is that of Service default/b-old, which is older
    "#]],
    );
}

#[test]
fn until_the_nodes_are_known_only_own_addresses_are_served() {
    let scope = Scope { nodes: None, ..Scope::for_tests() };
    let spec = json!({"clusterIP": "10.43.0.7", "externalIPs": ["192.0.2.1"]});
    check_in(
        &scope,
        &[asking("web", "2024-01-01T00:00:00Z", spec)],
        &[one_endpoint("web")],
        expect![[r#"
            Tcp 10.43.0.7:80 random 10.42.0.2:8080
        "#]],
    );
}

#[test]
fn a_client_sticks_as_long_as_the_service_says() {
    let sticky = |name: &str, address: &str, config: Value| {
        let spec =
            json!({"clusterIP": address, "sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        asking(name, "2024-01-01T00:00:00Z", spec)
    };
    check(
        &[
            sticky("short", "10.43.0.7", json!({"clientIP": {"timeoutSeconds": 5}})),
            sticky("usual", "10.43.0.8", Value::Null),
        ],
        &[one_endpoint("short"), one_endpoint("usual")],
        expect![[r#"
            Tcp 10.43.0.7:80 client/5 10.42.0.2:8080
            Tcp 10.43.0.8:80 client/10800 10.42.0.2:8080
        "#]],
    );
}

#[test]
fn what_another_proxy_serves_is_left_alone() {
    let labelled = |name: &str, label: &str| {
        let spec =
            json!({"type": "NodePort", "clusterIP": "10.43.0.7", "ports": [{"port": 80, "nodePort": 30080}]});
        let mut service = asking(name, "2024-01-01T00:00:00Z", spec);
        service["metadata"]["labels"] = json!({label: ""});
        service
    };
    check(
        &[
            labelled("other", "service.kubernetes.io/service-proxy-name"),
            labelled("nobody", "service.kubernetes.io/headless"),
        ],
        &[one_endpoint("other"), one_endpoint("nobody")],
        expect![[""]],
    );
}

#[test]
fn pods_of_other_nodes_are_not_chosen() {
    let spec = json!({"clusterIP": "10.43.0.7"});
    let service = asking("web", "2024-01-01T00:00:00Z", spec);
    let endpoints = |addresses: &[&str]| {
        slice("web", json!([{"port": 8080}]), addresses.iter().map(|a| json!({"addresses": [a]})).collect())
    };
    // A pod on a node's own network and an address of elsewhere are reached.
    check(
        std::slice::from_ref(&service),
        &[endpoints(&["10.42.0.2", "10.42.1.2", "192.168.7.2"])],
        expect![[r#"
            Tcp 10.43.0.7:80 random 10.42.0.2:8080 192.168.7.2:8080
            web EndpointsNotReachable: node n1 cannot reach the pods of other nodes yet: from there only its own endpoints are used
        "#]],
    );
    check(
        &[service],
        &[endpoints(&["10.42.1.2"])],
        expect![[r#"
        web EndpointsNotReachable: node n1 cannot reach the pods of other nodes yet: from there only its own endpoints are used
    "#]],
    );
}

#[test]
fn what_has_no_rules() {
    let port = json!([{"port": 80, "nodePort": 30080}]);
    let endpoints = json!([{"addresses": ["10.42.0.2"]}]);
    check(
        &[
            json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": port}}),
            json!({"metadata": {"name": "elsewhere"}, "spec": {"type": "ExternalName", "externalName": "a.example"}}),
            json!({"metadata": {"name": "empty"}, "spec": {"clusterIP": "10.43.0.8", "ports": port}}),
            json!({"metadata": {"name": "six"}, "spec": {"clusterIP": "10.43.0.9", "ports": port}}),
            json!({"metadata": {"name": "dns"}, "spec": {"clusterIP": "10.43.0.10", "ports": port}}),
        ],
        &[
            slice("headless", json!([{"port": 80}]), endpoints.clone()),
            slice("elsewhere", json!([{"port": 80}]), endpoints.clone()),
            slice("dns", json!([{"port": 80}]), endpoints),
            json!({"metadata": {"labels": {LABEL_SERVICE_NAME: "six"}}, "addressType": "IPv6",
                   "ports": [{"port": 80}], "endpoints": [{"addresses": ["fd00::2"]}]}),
        ],
        expect![""],
    );
}

#[test]
fn what_is_deleted_is_gone() {
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}}))
        .unwrap();
    let mut raw = slice("web", json!([{"port": 80}]), json!([{"addresses": ["10.42.0.2"]}]));
    raw["metadata"]["name"] = json!("web-1");
    raw["metadata"]["namespace"] = json!("default");
    raw["addressType"] = json!("IPv4");
    let slice: EndpointSlice = serde_json::from_value(raw).unwrap();
    let scope = Scope::for_tests();
    let mut index = Index::default();
    index.apply_service(&service);
    index.apply_slice(&slice);
    assert_eq!(index.decide(&scope).rules.len(), 1);
    index.delete_slice(&slice);
    assert_eq!(index.decide(&scope).rules.len(), 0);
    index.apply_slice(&slice);
    index.reset_services();
    assert_eq!(index.decide(&scope).rules.len(), 0);
}
