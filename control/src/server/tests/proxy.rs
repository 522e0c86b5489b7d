//! What one caller's proxied requests leave for the others.

use super::*;

const SILENT: &str = "/api/v1/nodes/n/proxy/silent";
const HELLO: &str = "/api/v1/nodes/n/proxy/hello";

/// More requests of one caller are refused, and those of others are carried, while a node answers none
/// of the caller's first ones.
#[tokio::test]
async fn a_caller_leaves_room_for_the_others() {
    let fixture = Arc::new(Fixture::start().await);
    let arrived = Arc::new(tokio::sync::Semaphore::new(0));
    let router = {
        let arrived = arrived.clone();
        axum::Router::new().route("/hello", axum::routing::get(async || "hello")).route(
            "/silent",
            axum::routing::get(async move || {
                arrived.add_permits(1);
                std::future::pending::<()>().await
            }),
        )
    };
    fixture.post("/api/v1/nodes", json!({ "metadata": { "name": "n" } })).await;
    fixture.server.add_node("n", router);
    let silent = (0..250).map(|_| {
        let fixture = fixture.clone();
        tokio::spawn(async move { fixture.get(SILENT).await })
    });
    let silent: Vec<_> = silent.collect();
    let all = tokio::time::timeout(Duration::from_secs(60), arrived.acquire_many(250)).await;
    all.expect("all requests in time").unwrap().forget();
    let too_many = "too many requests are being proxied, please try again later";
    fixture.get(HELLO).await.refused(429, too_many);
    let other = Caller::system("system:other");
    let answer = fixture.ask_as(Some(other), "GET", HELLO, &[], "").await;
    assert_eq!((answer.code, answer.text.as_str()), (200, "hello"));
    silent.iter().for_each(|request| request.abort());
    for request in silent {
        assert!(request.await.is_err_and(|error| error.is_cancelled()));
    }
    assert_eq!(fixture.get(HELLO).await.code, 200);
}
