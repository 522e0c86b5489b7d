//! What the ingress writes: the status of its own Ingresses, and nothing in vain.

use std::time::Duration;

use http::StatusCode;
use proa_ingress::Limits;
use serde_json::{Value, json};

use crate::api::Api;
use crate::endpoint::echo;
use crate::world::{World, ingress, route, until};

/// Long enough for a busy loop to have shown itself.
const WHILE: Duration = Duration::from_millis(1500);

fn shown() -> Value {
    json!({"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}})
}

#[tokio::test]
async fn is_written_once_and_only_for_our_own() {
    let mut foreign = ingress("foreign.example", "s");
    foreign["spec"]["ingressClassName"] = "nginx".into();
    foreign["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "elsewhere"}]}});
    let mut classless = ingress("classless.example", "s");
    classless["spec"].as_object_mut().unwrap().remove("ingressClassName");
    let mut objects = route("a.example", &[echo("one").await]);
    objects.extend([foreign.clone(), classless]);
    let world = World::routed(&objects).await;
    until("the status", || async { world.api.get("ingresses", "a.example")["status"] == shown() }).await;
    // Further changes are no reason to write again.
    world.api.put(&ingress("b.example", "s"));
    until("the other status", || async { world.api.get("ingresses", "b.example")["status"] == shown() })
        .await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(world.api.patches(), vec![json!({"status": shown()}); 2]);
    assert_eq!(world.api.get("ingresses", "foreign.example")["status"], foreign["status"]);
    assert_eq!(world.api.get("ingresses", "classless.example")["status"], Value::Null);
}

#[tokio::test]
async fn what_becomes_anothers_is_left_alone() {
    let world = World::routed(&route("a.example", &[echo("one").await])).await;
    until("the status", || async { world.api.get("ingresses", "a.example")["status"] == shown() }).await;
    let mut given_away = world.api.get("ingresses", "a.example");
    given_away["spec"]["ingressClassName"] = "nginx".into();
    world.api.put(&given_away);
    until("the route's end", || async {
        crate::client::get(world.http, "a.example", "/").await.status == 404
    })
    .await;
    assert_eq!(world.api.get("ingresses", "a.example")["status"], shown());
    assert_eq!(world.api.patches().len(), 1);
}

#[tokio::test]
async fn a_rival_makes_no_busy_loop() {
    let api = Api::new();
    api.set_rival();
    let objects = route("a.example", &[echo("one").await]);
    let world = World::start_with(&objects, Limits::default(), api).await;
    until("a first write", || async { !world.api.patches().is_empty() }).await;
    tokio::time::sleep(WHILE).await;
    let written = world.api.patches().len();
    assert!((1..=2).contains(&written), "{written} writes");
}

#[tokio::test]
async fn a_refused_write_is_tried_again_but_not_at_once_and_routes_do_not_wait() {
    let api = Api::new();
    api.refuse_patches(StatusCode::CONFLICT);
    let objects = route("a.example", &[echo("one").await]);
    let world = World::start_with(&objects, Limits::default(), api).await;
    until("the route", || async { crate::client::get(world.http, "a.example", "/").await.status == 200 })
        .await;
    until("a second write", || async { world.api.patches().len() == 2 }).await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(world.api.patches().len(), 2);
}
