//! Who may use a route: passwords, addresses, and what is closed because it is not understood.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{Answer, Connection, connect, empty, get};
use crate::endpoint::echo;
use crate::world::{World, route, until};

fn annotated(mut objects: Vec<Value>, annotations: &[(&str, &str)]) -> Vec<Value> {
    for (name, value) in annotations {
        let name = format!("nginx.ingress.kubernetes.io/{name}");
        objects[0]["metadata"]["annotations"][name] = (*value).into();
    }
    objects
}

fn users(entries: &[(&str, &str)]) -> Value {
    let data = entries.iter().map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into()));
    let data: serde_json::Map<String, Value> = data.collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"namespace": "ns", "name": "users"}, "data": data})
}

async fn sign_in(world: &World, host: &str, credentials: &str) -> Answer {
    let mut connection = Connection::http1(connect(world.http).await).await;
    let request = connection.request("GET", host, "/x");
    let request = request.header("authorization", format!("Basic {}", STANDARD.encode(credentials)));
    connection.ask(request.body(empty()).unwrap()).await
}

/// `openssl passwd -apr1 -salt abcdefgh secret`, and `htpasswd -nbs`.
const APR1: &str = "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/";
const SHA1: &str = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=";

#[tokio::test]
async fn basic_authentication() {
    let endpoint = echo("one").await;
    let auth = [("auth-type", "basic"), ("auth-secret", "users"), ("auth-realm", "Ann\"s only")];
    let mut objects = annotated(route("a.example", &[endpoint]), &auth);
    let map = [&auth[..2], &[("auth-secret-type", "auth-map")]].concat();
    objects.extend(annotated(route("map.example", &[endpoint]), &map));
    let world = World::routed(&objects).await;
    let missing = "503 Service Unavailable: Secret users does not exist\n";
    until("closed", || async { get(world.http, "a.example", "/").await.text == missing }).await;

    world
        .api
        .put(&users(&[("auth", &format!("ann:{APR1}\nbob:{SHA1}\nold:rqXexS6ZhobKA\n")), ("eve", SHA1)]));
    until("a challenge", || async { get(world.http, "a.example", "/").await.status == 401 }).await;
    let asked = get(world.http, "a.example", "/").await;
    assert_eq!(asked.headers["www-authenticate"], "Basic realm=\"Ann\\\"s only\"");
    for (host, credentials, status) in [
        ("a.example", "ann:secret", 200),
        ("a.example", "ann:secret", 200),
        ("a.example", "bob:secret", 200),
        ("a.example", "ann:Secret", 401),
        ("a.example", "ann:", 401),
        ("a.example", "old:secret", 401),
        ("a.example", "eve:secret", 401),
        ("map.example", "eve:secret", 200),
        ("map.example", "ann:secret", 401),
        ("map.example", "auth:secret", 401),
    ] {
        let answer = sign_in(&world, host, credentials).await;
        assert_eq!(answer.status, status, "{host} {credentials}: {}", answer.text);
        assert!(!answer.text.contains("authorization:"), "the endpoint gets to know the password");
    }
    // A password that is taken back is forgotten.
    world.api.put(&users(&[("auth", &format!("bob:{SHA1}\n"))]));
    until("ann is out", || async { sign_in(&world, "a.example", "ann:secret").await.status == 401 }).await;
    let why = "Secret users: the password of user \"old\" is hashed in a way that is not supported";
    until("the Event", || async { world.api.events().iter().any(|(_, text)| text == why) }).await;
}

#[tokio::test]
async fn what_is_known_of_a_secret_is_not_read_again_for_another() {
    let endpoint = echo("one").await;
    let with_secret = |host: &str, secret: &str| {
        annotated(route(host, &[endpoint]), &[("auth-type", "basic"), ("auth-secret", secret)])
    };
    let mut objects = with_secret("a.example", "users");
    objects.push(users(&[("auth", &format!("ann:{APR1}\n"))]));
    let world = World::routed(&objects).await;
    until("a challenge", || async { get(world.http, "a.example", "/").await.status == 401 }).await;
    for number in 0..5 {
        let host = format!("b{number}.example");
        with_secret(&host, &format!("missing-{number}")).iter().for_each(|object| world.api.put(object));
        let missing = format!("503 Service Unavailable: Secret missing-{number} does not exist\n");
        until("closed", || async { get(world.http, &host, "/").await.text == missing }).await;
    }
    assert_eq!(world.api.listed("metadata.name=users"), 1);
    // One that is named no more is not known either.
    world.api.put(&with_secret("a.example", "missing-0")[0]);
    let missing = "503 Service Unavailable: Secret missing-0 does not exist\n";
    until("closed", || async { get(world.http, "a.example", "/").await.text == missing }).await;
    world.api.put(&with_secret("a.example", "users")[0]);
    until("a challenge", || async { get(world.http, "a.example", "/").await.status == 401 }).await;
    assert_eq!(world.api.listed("metadata.name=users"), 2);
}

#[tokio::test]
async fn addresses() {
    let endpoint = echo("one").await;
    let lists = [("in.example", "127.0.0.0/8"), ("out.example", "192.0.2.0/24")];
    let objects = lists.map(|(host, range)| {
        annotated(route(host, &[endpoint]), &[("whitelist-source-range", range), ("ssl-redirect", "true")])
    });
    let world = World::routed(&objects.concat()).await;
    assert_eq!(get(world.http, "in.example", "/").await.status, 200);
    assert_eq!(get(world.http, "out.example", "/").await.status, 403);
}

#[tokio::test]
async fn what_would_protect_and_is_not_understood_closes() {
    let endpoint = echo("one").await;
    let mut objects = annotated(route("a.example", &[endpoint]), &[("auth-url", "http://sign-in.example")]);
    objects.extend(annotated(route("b.example", &[endpoint]), &[("proxy-body-size", "8m")]));
    let mut default = annotated(route("c.example", &[endpoint]), &[("auth-tls-secret", "ns/ca")]);
    default[0]["spec"]["defaultBackend"] = json!({"service": {"name": "c-example", "port": {"number": 80}}});
    objects.extend(default);
    let world = World::start(&objects).await;
    until("routes", || async { get(world.http, "b.example", "/").await.status == 200 }).await;
    let prefix = "annotation nginx.ingress.kubernetes.io";
    let closed = get(world.http, "a.example", "/").await;
    assert_eq!(closed.text, format!("503 Service Unavailable: {prefix}/auth-url: it is not supported\n"));
    for host in ["c.example", "elsewhere.example"] {
        assert_eq!(get(world.http, host, "/").await.status, 503, "{host}");
    }
    let said = [
        ("AnnotationIgnored", format!("{prefix}/proxy-body-size is not supported and has no effect")),
        ("IngressClosed", format!("{prefix}/auth-tls-secret: it is not supported")),
        ("IngressClosed", format!("{prefix}/auth-url: it is not supported")),
    ];
    let said = said.map(|(reason, text)| (reason.to_owned(), text));
    until("the Events", || async { world.api.events() == said }).await;

    let open = route("a.example", &[endpoint]);
    world.api.put(&open[0]);
    until("the route", || async { get(world.http, "a.example", "/").await.status == 200 }).await;
    // What comes back is counted, and no Event of its own.
    world.api.put(&objects[0]);
    let (_, text) = &said[2];
    until("the count", || async { world.api.count(text) == 2 }).await;
    assert_eq!(world.api.events(), said);
}

#[tokio::test]
async fn paths_are_rewritten() {
    let mut objects = annotated(
        route("a.example", &[echo("one").await]),
        &[("use-regex", "true"), ("rewrite-target", "/v1/$2")],
    );
    let path = &mut objects[0]["spec"]["rules"][0]["http"]["paths"][0];
    path["path"] = "/api(/|$)(.*)".into();
    path["pathType"] = "ImplementationSpecific".into();
    let mut open = path.clone();
    open["path"] = "/open()(.*)".into();
    objects[0]["spec"]["rules"][0]["http"]["paths"].as_array_mut().unwrap().push(open);
    let world = World::routed(&objects).await;
    for (path, seen) in [
        ("/api/users?q=1", "one GET /v1/users?q=1\n"),
        ("/API", "one GET /v1/\n"),
        ("/api/a%20b", "one GET /v1/a%20b\n"),
        ("/api/x/../../admin", "404 Not Found"),
        ("/apix", "404 Not Found"),
        ("/api/..%2fadmin", "400 Bad Request"),
        ("/open../admin", "400 Bad Request"),
        ("/open.%2e/admin", "400 Bad Request"),
        ("/open./admin", "400 Bad Request"),
        ("/opened", "one GET /v1/ed\n"),
    ] {
        let answer = get(world.http, "a.example", path).await;
        assert!(answer.text.starts_with(seen), "{path}: {}", answer.text);
    }
}
