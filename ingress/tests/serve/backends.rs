//! What stands behind a route beside pods that speak HTTP/1.1.

use http_body_util::BodyExt;
use serde_json::json;

use crate::client::{Connection, connect, empty, get};
use crate::endpoint::{echo, grpc};
use crate::world::{World, ingress, route};

#[tokio::test]
async fn http2_in_the_clear_where_the_service_says_so() {
    let endpoint = grpc().await;
    let mut objects = Vec::new();
    for (host, protocol) in [("h2c.example", "kubernetes.io/h2c"), ("grpc.example", "grpc")] {
        let mut made = route(host, &[endpoint]);
        made[1]["spec"]["ports"][0]["appProtocol"] = protocol.into();
        objects.extend(made);
    }
    let mut annotated = route("annotated.example", &[endpoint]);
    annotated[0]["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"});
    objects.extend(annotated);
    let world = World::routed(&objects).await;
    for host in ["h2c.example", "grpc.example", "annotated.example"] {
        let answer = get(world.http, host, "/p.S/M").await;
        assert_eq!(answer.text, format!("http://{host}/p.S/M None"), "over HTTP/1.1");
        let mut connection = Connection::http2(connect(world.http).await).await;
        let request = connection.request("POST", host, "/p.S/M").header("te", "trailers");
        let answer = connection.send(request.body(empty()).unwrap()).await.unwrap();
        let collected = answer.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0", "{host}");
        assert_eq!(collected.to_bytes(), format!("http://{host}/p.S/M None"));
    }
}

#[tokio::test]
async fn a_name_must_not_lead_to_this_host() {
    let endpoint = echo("local").await;
    let external = |name: &str, leads_to: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name},
            "spec": {"type": "ExternalName", "externalName": leads_to, "ports": [{"port": endpoint.port()}]}})
    };
    let to = |host: &str, name: &str| {
        let mut made = ingress(host, name);
        made["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] =
            json!({"number": endpoint.port()});
        made
    };
    let mut objects = vec![to("unknown.example", "unknown"), external("unknown", "name.invalid")];
    for (name, leads_to) in
        [("one", "127.0.0.1"), ("two", "localhost"), ("three", "169.254.169.254"), ("four", "0.0.0.0")]
    {
        objects.extend([to(&format!("{name}.example"), name), external(name, leads_to)]);
    }
    let world = World::routed(&objects).await;
    for name in ["one", "two", "three", "four"] {
        let answer = get(world.http, &format!("{name}.example"), "/").await;
        assert_eq!(answer.status, 503);
        let expected = "the name leads to an address that is not served through a name";
        assert!(answer.text.contains(expected), "{name}: {}", answer.text);
    }
    let answer = get(world.http, "unknown.example", "/").await;
    assert!(answer.text.contains("the name cannot be resolved"), "{}", answer.text);
}
