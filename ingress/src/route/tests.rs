use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;

use super::Table;
use super::backend::{NO_ENDPOINTS, NO_SERVICE, NOT_REACHED};
use super::problem::{REASON_BEHIND, REASON_CLOSED, REASON_IGNORED, REASON_MORE};
use crate::index::{Index, Indexed, Ranges};
use crate::pattern::Patterns;

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
            Some("Service") => {
                serde_json::from_str::<k8s_openapi::api::core::v1::Service>(&text).unwrap().apply(&mut index)
            }
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

fn compile(index: &Index) -> Table {
    Table::compile(index, &mut Patterns::default())
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
    let table = compile(&index(&all));
    for (host, path, expected) in cases {
        let found = table.find(host, path.as_bytes()).map(|r| r.backend.name.as_str());
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
        compile(&index(&[class(), ingress])).find("h", b"/").is_some()
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
    let table = compile(&index(&[class(), ingress]));
    let problems: Vec<_> = table.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["Ingress ns/s-1: Secret cert: there is no such Secret of type kubernetes.io/tls"]);
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
    let table = compile(&index(&[class(), service.clone(), slice, ingress.clone()]));
    let backend = &table.find("h", b"/").unwrap().backend;
    assert_eq!(backend.endpoints, ["10.0.0.2:8080".parse().unwrap()]);
    let table = compile(&index(&[class(), service, ingress.clone()]));
    assert_eq!(table.find("h", b"/").unwrap().backend.unavailable, NO_ENDPOINTS);
    let table = compile(&index(&[class(), ingress.clone()]));
    assert_eq!(table.find("h", b"/").unwrap().backend.unavailable, NO_SERVICE);
    let table = compile(&index(&[ingress]));
    assert!(table.find("h", b"/").is_none(), "no class of ours: not our Ingress");
}

fn annotated(mut ingress: serde_json::Value, annotations: &[(&str, &str)]) -> serde_json::Value {
    for (name, value) in annotations {
        ingress["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{name}")] = (*value).into();
    }
    ingress
}

#[test]
fn rewriting() {
    for (path, target, request, expected) in [
        ("/app(/|$)(.*)", "/$2", "/app/x/y", Some("/x/y")),
        ("/app(/|$)(.*)", "/$2", "/APP", Some("/")),
        ("/app(/|$)(.*)", "/$2", "/apple", None),
        ("/app", "/", "/app/x", Some("/")),
        ("/app", "/", "/apple", None),
        ("/app(.*)", "/v1$1", "/app/a b", Some("/v1/a%20b")),
        // What is put together with dot segments is sent to nobody.
        ("/app/x(.*)", "/pub/.$1", "/app/x./admin", Some("refused")),
        ("/api(.*)", "/public/$1", "/api../admin", Some("refused")),
        ("/app/(.*)", "/$1$9", "/app/x", Some("/x")),
    ] {
        let ingress = annotated(
            rule("s", "h", path, "ImplementationSpecific"),
            &[("rewrite-target", target), ("use-regex", "true")],
        );
        let table = compile(&index(&[class(), ingress]));
        let found = table.find("h", request.as_bytes()).map(|r| r.rewritten(request.as_bytes()).unwrap());
        let found = found.map(|sent| sent.unwrap_or_else(|_| "refused".to_owned()));
        assert_eq!(found.as_deref(), expected, "{path} {request}");
    }
    let plain = compile(&index(&[class(), rule("s", "h", "/a.b", "Prefix")]));
    assert!(plain.find("h", b"/axb").is_none(), "without the annotation a path is no pattern");
    let broken = annotated(rule("s", "h", "/(", "ImplementationSpecific"), &[("use-regex", "true")]);
    let table = compile(&index(&[class(), broken]));
    let problems: Vec<_> = table.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["Ingress ns/s-2: path /( is not served: it is not a regular expression"]);
    let broken = annotated(rule("s", "h", "/adm[", "ImplementationSpecific"), &[("use-regex", "true")]);
    let table = compile(&index(&[class(), broken, rule("wide", "h", "/", "Prefix")]));
    let closed = |path: &[u8]| table.find("h", path).unwrap().access.closed.is_some();
    assert_eq!([&b"/admin"[..], b"/Adm/x", b"/other"].map(closed), [true, true, false]);
    let root = annotated(rule("s", "h", "/", "Prefix"), &[("rewrite-target", "/")]);
    let table = compile(&index(&[class(), root]));
    assert!(table.find("h", b"/x").unwrap().rewritten(b"/x").is_none(), "the target is the path itself");
}

#[test]
fn plain_http_goes_to_https_where_the_host_has_tls() {
    for (hosts, annotations, expected) in [
        (Some(vec!["h.example"]), &[][..], true),
        (Some(vec!["H.Example"]), &[], true),
        (Some(vec!["*.example"]), &[], true),
        (Some(vec![]), &[], true),
        (Some(vec!["other.example"]), &[], false),
        (None, &[], false),
        (Some(vec!["h.example"]), &[("ssl-redirect", "false")], false),
        (None, &[("force-ssl-redirect", "true")], true),
    ] {
        let mut ingress = annotated(rule("s", "h.example", "/", "Prefix"), annotations);
        if let Some(hosts) = &hosts {
            ingress["spec"]["tls"] = serde_json::json!([{ "hosts": hosts }]);
        }
        let table = compile(&index(&[class(), ingress]));
        assert_eq!(table.find("h.example", b"/").unwrap().to_https, expected, "{hosts:?} {annotations:?}");
    }
}

#[test]
fn an_ingress_that_would_be_open_to_others_is_closed() {
    let auth = [("auth-type", "basic"), ("auth-secret", "users")];
    let protected = annotated(rule("s", "h", "/", "Prefix"), &auth);
    let mut index = index(&[class(), protected]);
    let closed = |index: &Index| compile(index).find("h", b"/").unwrap().access.closed.clone();
    let wanted = ("ns".to_owned(), "users".to_owned());
    assert!(compile(&index).secrets().contains(&wanted));
    assert_eq!(closed(&index).as_deref(), Some(""), "not known yet");
    index.passwords.insert(wanted.clone(), None);
    assert_eq!(closed(&index).as_deref(), Some("Secret users does not exist"));
    let data = |key: &str| Some(Arc::new([(key.to_owned(), b"ann:{SHA}x".to_vec())].into()));
    index.passwords.insert(wanted.clone(), data("users"));
    assert_eq!(closed(&index).as_deref(), Some("Secret users has no key auth"));
    index.passwords.insert(wanted, data("auth"));
    assert_eq!(closed(&index), None);

    let unknown = annotated(rule("s", "h", "/", "Prefix"), &[("auth-url", "http://x"), ("app-root", "/x")]);
    let table = compile(&self::index(&[class(), unknown]));
    let problems: Vec<_> = table.problems().iter().map(|p| (p.reason, p.message.as_str())).collect();
    assert_eq!(
        problems,
        [
            (
                REASON_IGNORED,
                "annotation nginx.ingress.kubernetes.io/app-root is not supported and has no effect"
            ),
            (REASON_CLOSED, "annotation nginx.ingress.kubernetes.io/auth-url: it is not supported"),
        ]
    );
}

#[test]
fn pods_of_other_nodes_are_left_out() {
    let service = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": "s"},
        "spec": {"ports": [{"port": 80}]}});
    let slice = |addresses: &[&str]| {
        let endpoints: Vec<_> = addresses.iter().map(|a| serde_json::json!({"addresses": [a]})).collect();
        serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"port": 80}], "endpoints": endpoints})
    };
    for (addresses, reached, unavailable) in [
        (&["10.42.0.2", "10.42.1.2", "192.0.2.1"][..], &["10.42.0.2:80", "192.0.2.1:80"][..], NOT_REACHED),
        (&["10.42.1.2"], &[], NOT_REACHED),
        (&[], &[], NO_ENDPOINTS),
    ] {
        let mut index = index(&[class(), service.clone(), slice(addresses), rule("s", "h", "/", "Prefix")]);
        let net = |text: &str| text.parse().unwrap();
        index.ranges = Some(Ranges {
            pods: net("10.42.0.0/16"),
            node: net("10.42.0.0/24"),
            services: net("10.43.0.0/16"),
        });
        let table = compile(&index);
        let backend = &table.find("h", b"/").unwrap().backend;
        let found: Vec<_> = backend.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(
            (found, backend.unavailable),
            (reached.iter().map(|e| (*e).to_owned()).collect(), unavailable)
        );
        assert_eq!(table.problems().len(), usize::from(unavailable == NOT_REACHED));
    }
}

/// Three thousand patterns of one Ingress would take gigabytes, and as long at every change of a Service.
#[test]
fn an_ingress_with_too_many_patterns_is_closed_and_nothing_compiled() {
    let mut many = annotated(rule("many", "h", "/", "Prefix"), &[("use-regex", "true")]);
    let path = |n: usize| {
        let path = format!("/p{n}/([a-z]+/){{8}}");
        serde_json::json!({"path": path, "pathType": "ImplementationSpecific",
            "backend": {"service": {"name": "many", "port": {"number": 80}}}})
    };
    many["spec"]["rules"][0]["http"]["paths"] = (0..3000).map(path).collect();
    let mut few = many.clone();
    few["metadata"]["name"] = "few".into();
    few["spec"]["rules"][0]["host"] = "few".into();
    few["spec"]["rules"][0]["http"]["paths"].as_array_mut().unwrap().truncate(10);
    let wide = rule("wide", "h", "/", "Prefix");
    let mut patterns = Patterns::default();
    let table = Table::compile(&index(&[class(), many, few, wide]), &mut patterns);
    let problems: Vec<_> = table.problems().iter().map(|p| (p.reason, p.message.as_str())).collect();
    assert_eq!(problems, [(REASON_CLOSED, "it has more than 100 different patterns")]);
    let closed = |host: &str, path: &str| table.find(host, path.as_bytes()).unwrap().access.closed.is_some();
    assert!(closed("h", "/p17/x") && closed("h", "/P2999/a/") && !closed("h", "/other"));
    assert!(!closed("few", "/p3/a/b/c/d/e/f/g/h/"));
    assert_eq!(patterns.len(), 10);
}

/// A pattern can be made to go first by making it longer.
#[test]
fn a_pattern_of_another_namespace_takes_no_host() {
    let pattern = |namespace: &str| {
        let path = "/(.*)(xxxxxxxx)?";
        let mut taking =
            annotated(rule("take", "h", path, "ImplementationSpecific"), &[("use-regex", "true")]);
        taking["metadata"]["namespace"] = namespace.into();
        taking
    };
    let rules = [rule("root", "h", "/", "Prefix"), rule("foo", "h", "/foo", "Prefix")];
    let with = |more: serde_json::Value| [&rules[..], &[more]].concat();
    check(&with(pattern("other")), &[("h", "/foo", Some("ns/foo:80")), ("h", "/x", Some("ns/root:80"))]);
    check(&with(pattern("ns")), &[("h", "/foo", Some("ns/take:80"))]);
    // What the others leave is the pattern's, and so is a host that it has had before them.
    let foo = [rules[1].clone(), pattern("other")];
    check(&foo, &[("h", "/foo", Some("ns/foo:80")), ("h", "/x", Some("other/take:80"))]);
    check(&with(pattern("an-older-one")), &[("h", "/foo", Some("an-older-one/take:80"))]);
    let table = compile(&index(&[&[class()][..], &foo].concat()));
    let problems: Vec<_> = table.problems().iter().map(|p| (p.reason, p.message.as_str())).collect();
    let said = "patterns of host \"h\" are matched after its other rules: an older Ingress of another namespace has that host";
    assert_eq!(problems, [(REASON_BEHIND, said)]);
}

#[test]
fn of_many_problems_the_first_ones_are_said() {
    let mut broken = rule("s", "h", "/", "Prefix");
    let path = |n: usize| {
        serde_json::json!({"path": format!("/{n}/{}%zz", "x".repeat(1000)), "pathType": "Prefix",
            "backend": {"service": {"name": "s", "port": {"number": 80}}}})
    };
    broken["spec"]["rules"][0]["http"]["paths"] = (0..1000).chain(0..10).map(path).collect();
    let table = compile(&index(&[class(), broken]));
    let (more, said): (Vec<_>, Vec<_>) = table.problems().iter().partition(|p| p.reason == REASON_MORE);
    assert_eq!(more.iter().map(|p| p.message.as_str()).collect::<Vec<_>>(), ["and 984 more problems"]);
    assert_eq!(said.len(), 16);
    assert!(said.iter().all(|p| p.message.len() <= 255));
}
