//! The records in the order of the specification, one test per section.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn own() -> Own {
    let ranges = vec![(Ipv4Addr::new(10, 42, 0, 0), 16), (Ipv4Addr::new(10, 43, 0, 0), 16)];
    Own::new("cluster.local", ranges, 5).unwrap()
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn slice(name: &str, service: &str, ports: Value, endpoints: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
           "addressType": "IPv4", "ports": ports, "endpoints": endpoints})
}

/// A cluster with one Service of each kind.
fn zone() -> Zone {
    let mut zone = Zone::default();
    let ports =
        json!([{"name": "https", "port": 443}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 1}]);
    for value in [
        service(
            "web",
            json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd00::7"], "ports": ports}),
        ),
        service("pets", json!({"clusterIP": "None", "ports": [{"name": "https", "port": 443}]})),
        service("shy", json!({"clusterIP": "None"})),
        service("open", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
        service("away", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service("inner", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        service("pending", json!({"ports": [{"port": 80}]})),
    ] {
        zone.apply_service(&serde_json::from_value(value).unwrap());
    }
    let unready = json!([{"addresses": ["10.42.0.9"], "conditions": {"ready": false}}]);
    for value in [
        slice(
            "pets-1",
            "pets",
            json!([{"name": "https", "port": 8443}]),
            json!([{"addresses": ["10.42.0.2"], "hostname": "Rex"},
                   {"addresses": ["10.42.0.3"]},
                   {"addresses": ["10.42.0.4"], "hostname": "sick", "conditions": {"ready": false}}]),
        ),
        slice("shy-1", "shy", json!([]), unready.clone()),
        slice("open-1", "open", json!([]), unready),
    ] {
        zone.apply_slice(&serde_json::from_value(value).unwrap());
    }
    zone
}

/// Asks each question, `TYPE name`, and shows the answers as in a zone file.
fn check(questions: &[&str], expected: Expect) {
    let (own, zone) = (own(), zone());
    let mut shown = String::new();
    for question in questions {
        let (asked, name) = question.split_once(' ').unwrap();
        let mut name = Name::from_ascii(name).unwrap();
        name.set_fqdn(true);
        shown += &format!("{question}\n");
        match own.answer(&zone, &name, asked.parse().unwrap()) {
            None => shown += "  elsewhere\n",
            Some(records) => {
                if records.answers.is_empty() {
                    let soa = records.soa.expect("an empty answer says who says so");
                    shown += &format!("  {:?} {} {} SOA\n", records.code, soa.name, soa.ttl);
                }
                records.answers.iter().for_each(|record| shown += &format!("  {record}\n"));
                records.additionals.iter().for_each(|record| shown += &format!("  + {record}\n"));
                records.follow.iter().for_each(|name| shown += &format!("  then {name}\n"));
            }
        }
    }
    expected.assert_eq(&shown);
}

#[test]
fn section_2_2_schema_version() {
    check(
        &["TXT dns-version.cluster.local", "A dns-version.cluster.local"],
        expect![[r#"
        TXT dns-version.cluster.local
          dns-version.cluster.local. 5 IN TXT 1.1.0
        A dns-version.cluster.local
          NoError cluster.local. 5 SOA
    "#]],
    );
}

#[test]
fn section_2_3_1_addresses_of_a_service() {
    check(
        &[
            "A web.default.svc.cluster.local",
            "AAAA web.default.svc.cluster.local",
            "MX web.default.svc.cluster.local",
            "A WEB.Default.SVC.cluster.LOCAL",
            "A missing.default.svc.cluster.local",
            "A pending.default.svc.cluster.local",
            "A web.other.svc.cluster.local",
        ],
        expect![[r#"
            A web.default.svc.cluster.local
              web.default.svc.cluster.local. 5 IN A 10.43.0.7
            AAAA web.default.svc.cluster.local
              web.default.svc.cluster.local. 5 IN AAAA fd00::7
            MX web.default.svc.cluster.local
              NoError cluster.local. 5 SOA
            A WEB.Default.SVC.cluster.LOCAL
              WEB.Default.SVC.cluster.LOCAL. 5 IN A 10.43.0.7
            A missing.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            A pending.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            A web.other.svc.cluster.local
              NXDomain cluster.local. 5 SOA
        "#]],
    );
}

#[test]
fn section_2_3_2_ports_of_a_service() {
    check(
        &[
            "SRV _https._tcp.web.default.svc.cluster.local",
            "SRV _dns._udp.web.default.svc.cluster.local",
            "SRV _dns._tcp.web.default.svc.cluster.local",
            "SRV _._tcp.web.default.svc.cluster.local",
            "A _https._tcp.web.default.svc.cluster.local",
            "A _tcp.web.default.svc.cluster.local",
            "A _sctp.web.default.svc.cluster.local",
        ],
        expect![[r#"
            SRV _https._tcp.web.default.svc.cluster.local
              _https._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 443 web.default.svc.cluster.local.
              + web.default.svc.cluster.local. 5 IN A 10.43.0.7
              + web.default.svc.cluster.local. 5 IN AAAA fd00::7
            SRV _dns._udp.web.default.svc.cluster.local
              _dns._udp.web.default.svc.cluster.local. 5 IN SRV 0 100 53 web.default.svc.cluster.local.
              + web.default.svc.cluster.local. 5 IN A 10.43.0.7
              + web.default.svc.cluster.local. 5 IN AAAA fd00::7
            SRV _dns._tcp.web.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            SRV _._tcp.web.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            A _https._tcp.web.default.svc.cluster.local
              NoError cluster.local. 5 SOA
            A _tcp.web.default.svc.cluster.local
              NoError cluster.local. 5 SOA
            A _sctp.web.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
        "#]],
    );
}

#[test]
fn section_2_3_3_names_of_service_addresses() {
    check(
        &[
            "PTR 7.0.43.10.in-addr.arpa",
            "PTR 8.0.43.10.in-addr.arpa",
            "PTR 43.10.in-addr.arpa",
            "PTR 1.2.0.192.in-addr.arpa",
            "PTR 10.in-addr.arpa",
        ],
        expect![[r#"
            PTR 7.0.43.10.in-addr.arpa
              7.0.43.10.in-addr.arpa. 5 IN PTR web.default.svc.cluster.local.
            PTR 8.0.43.10.in-addr.arpa
              NXDomain 43.10.in-addr.arpa. 5 SOA
            PTR 43.10.in-addr.arpa
              NoError 43.10.in-addr.arpa. 5 SOA
            PTR 1.2.0.192.in-addr.arpa
              elsewhere
            PTR 10.in-addr.arpa
              elsewhere
        "#]],
    );
}

#[test]
fn section_2_4_1_addresses_of_a_headless_service() {
    check(
        &[
            "A pets.default.svc.cluster.local",
            "AAAA pets.default.svc.cluster.local",
            "A rex.pets.default.svc.cluster.local",
            "A 10-42-0-3.pets.default.svc.cluster.local",
            "A sick.pets.default.svc.cluster.local",
            "A shy.default.svc.cluster.local",
            "A open.default.svc.cluster.local",
        ],
        expect![[r#"
            A pets.default.svc.cluster.local
              pets.default.svc.cluster.local. 5 IN A 10.42.0.2
              pets.default.svc.cluster.local. 5 IN A 10.42.0.3
            AAAA pets.default.svc.cluster.local
              NoError cluster.local. 5 SOA
            A rex.pets.default.svc.cluster.local
              rex.pets.default.svc.cluster.local. 5 IN A 10.42.0.2
            A 10-42-0-3.pets.default.svc.cluster.local
              10-42-0-3.pets.default.svc.cluster.local. 5 IN A 10.42.0.3
            A sick.pets.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            A shy.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            A open.default.svc.cluster.local
              open.default.svc.cluster.local. 5 IN A 10.42.0.9
        "#]],
    );
}

#[test]
fn section_2_4_2_ports_of_a_headless_service() {
    check(
        &[
            "SRV _https._tcp.pets.default.svc.cluster.local",
            "SRV _http._tcp.pets.default.svc.cluster.local",
            "SRV _tcp.pets.default.svc.cluster.local",
        ],
        expect![[r#"
            SRV _https._tcp.pets.default.svc.cluster.local
              _https._tcp.pets.default.svc.cluster.local. 5 IN SRV 0 50 8443 rex.pets.default.svc.cluster.local.
              _https._tcp.pets.default.svc.cluster.local. 5 IN SRV 0 50 8443 10-42-0-3.pets.default.svc.cluster.local.
              + rex.pets.default.svc.cluster.local. 5 IN A 10.42.0.2
              + 10-42-0-3.pets.default.svc.cluster.local. 5 IN A 10.42.0.3
            SRV _http._tcp.pets.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            SRV _tcp.pets.default.svc.cluster.local
              NoError cluster.local. 5 SOA
        "#]],
    );
}

#[test]
fn section_2_4_3_names_of_endpoint_addresses() {
    check(
        &[
            "PTR 2.0.42.10.in-addr.arpa",
            "PTR 3.0.42.10.in-addr.arpa",
            "PTR 4.0.42.10.in-addr.arpa",
            "PTR 9.0.42.10.in-addr.arpa",
        ],
        expect![[r#"
            PTR 2.0.42.10.in-addr.arpa
              2.0.42.10.in-addr.arpa. 5 IN PTR rex.pets.default.svc.cluster.local.
            PTR 3.0.42.10.in-addr.arpa
              3.0.42.10.in-addr.arpa. 5 IN PTR 10-42-0-3.pets.default.svc.cluster.local.
            PTR 4.0.42.10.in-addr.arpa
              NXDomain 42.10.in-addr.arpa. 5 SOA
            PTR 9.0.42.10.in-addr.arpa
              9.0.42.10.in-addr.arpa. 5 IN PTR 10-42-0-9.open.default.svc.cluster.local.
        "#]],
    );
}

#[test]
fn section_2_5_external_names() {
    check(
        &[
            "A away.default.svc.cluster.local",
            "CNAME away.default.svc.cluster.local",
            "A inner.default.svc.cluster.local",
            "A below.away.default.svc.cluster.local",
        ],
        expect![[r#"
            A away.default.svc.cluster.local
              away.default.svc.cluster.local. 5 IN CNAME www.example.com.
              then www.example.com.
            CNAME away.default.svc.cluster.local
              away.default.svc.cluster.local. 5 IN CNAME www.example.com.
            A inner.default.svc.cluster.local
              inner.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.
              then web.default.svc.cluster.local.
            A below.away.default.svc.cluster.local
              NXDomain cluster.local. 5 SOA
        "#]],
    );
}

#[test]
fn section_2_6_pods() {
    check(
        &[
            "A 10-42-0-7.default.pod.cluster.local",
            "AAAA 10-42-0-7.default.pod.cluster.local",
            "A 10-42-0.default.pod.cluster.local",
            "A x.10-42-0-7.default.pod.cluster.local",
        ],
        expect![[r#"
            A 10-42-0-7.default.pod.cluster.local
              10-42-0-7.default.pod.cluster.local. 5 IN A 10.42.0.7
            AAAA 10-42-0-7.default.pod.cluster.local
              NoError cluster.local. 5 SOA
            A 10-42-0.default.pod.cluster.local
              NXDomain cluster.local. 5 SOA
            A x.10-42-0-7.default.pod.cluster.local
              NXDomain cluster.local. 5 SOA
        "#]],
    );
}

#[test]
fn names_between_and_outside() {
    check(
        &[
            "SOA cluster.local",
            "NS cluster.local",
            "A ns.dns.cluster.local",
            "A svc.cluster.local",
            "A default.svc.cluster.local",
            "A nowhere.svc.cluster.local",
            "A example.com.cluster.local",
            "A example.com",
            "A xcluster.local",
            "A local",
        ],
        expect![[r#"
            SOA cluster.local
              cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5
            NS cluster.local
              cluster.local. 5 IN NS ns.dns.cluster.local.
            A ns.dns.cluster.local
              NoError cluster.local. 5 SOA
            A svc.cluster.local
              NoError cluster.local. 5 SOA
            A default.svc.cluster.local
              NoError cluster.local. 5 SOA
            A nowhere.svc.cluster.local
              NXDomain cluster.local. 5 SOA
            A example.com.cluster.local
              NXDomain cluster.local. 5 SOA
            A example.com
              elsewhere
            A xcluster.local
              elsewhere
            A local
              elsewhere
        "#]],
    );
}

#[test]
fn what_is_deleted_is_gone() {
    let mut zone = zone();
    let web = service("web", json!({"clusterIP": "10.43.0.7"}));
    zone.delete_service(&serde_json::from_value(web).unwrap());
    assert!(zone.service("default", "web").is_none());
    let pets = slice("pets-1", "pets", json!([]), json!([]));
    zone.delete_slice(&serde_json::from_value(pets).unwrap());
    assert_eq!(zone.slices("default", "pets").count(), 0);
    zone.reset_services();
    assert!(!zone.has_namespace("default"));
}

#[test]
fn only_domain_names_are_domains() {
    for (domain, right) in
        [("cluster.local", true), ("Cluster.Local.", true), ("", false), (".", false), ("a..b", false)]
    {
        assert_eq!(Own::new(domain, vec![], 5).is_some(), right, "{domain:?}");
    }
}
