//! Bodies pass through as they come, whatever their size, and outlive the table they were routed by.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::{Notify, mpsc};

use crate::client::{self, Connection, connect, empty, get};
use crate::endpoint::{self, echo, full};
use crate::world::{World, ingress, route, service, slice, soon, until};

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 1600;
/// The kernel lets the receive buffer of one of the ingress's sockets grow to tens of megabytes (those
/// of the clients and endpoints here are small); a body of 100 MiB must not fit.
const MOST_BUFFERED: usize = 64 * 1024 * 1024;

/// 100 MiB in chunks, counted as they are taken.
fn big(taken: Arc<AtomicUsize>) -> impl futures::Stream<Item = Frame<Bytes>> + Send + Sync {
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    futures::stream::iter(0..CHUNKS).map(move |_| {
        taken.fetch_add(CHUNK, Ordering::SeqCst);
        Frame::data(chunk.clone())
    })
}

/// Waits until `taken` has stopped growing, and returns it.
async fn settled(taken: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = taken.load(Ordering::SeqCst);
        if now == before && now > 0 {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn length(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    length
}

async fn connections(world: &World) -> [Connection; 2] {
    [Connection::http1(connect(world.http).await).await, Connection::http2(connect(world.http).await).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_answers_wait_for_the_client() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let endpoint = endpoint::serve(move |_| {
        let body = StreamBody::new(big(Arc::clone(&counter)).map(Ok::<_, Infallible>));
        async move { Response::new(UnsyncBoxBody::new(body)) }
    });
    let world = World::routed(&route("a.example", &[endpoint.await])).await;
    for mut connection in connections(&world).await {
        taken.store(0, Ordering::SeqCst);
        let request = connection.request("GET", "a.example", "/").body(empty()).unwrap();
        let answer = connection.send(request).await.unwrap();
        let buffered = settled(&taken).await;
        assert!(buffered < MOST_BUFFERED, "{buffered} bytes were read ahead");
        assert_eq!(soon("the whole answer", length(answer.into_body())).await, CHUNK * CHUNKS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_requests_wait_for_the_endpoint() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let endpoint = endpoint::serve(move |request| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            Response::new(full(length(request.into_body()).await.to_string()))
        }
    });
    let world = World::routed(&route("a.example", &[endpoint.await])).await;
    for mut connection in connections(&world).await {
        let taken = Arc::new(AtomicUsize::new(0));
        let body: client::Body = UnsyncBoxBody::new(StreamBody::new(big(Arc::clone(&taken)).map(Ok)));
        let request = connection.request("PUT", "a.example", "/").body(body).unwrap();
        let answer = tokio::spawn(async move { connection.ask(request).await });
        let buffered = settled(&taken).await;
        assert!(buffered < MOST_BUFFERED, "{buffered} bytes were read ahead");
        go.notify_one();
        let answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.text, (CHUNK * CHUNKS).to_string());
    }
}

/// An endpoint that sends what the test gives it, as long as the test lives.
async fn fed() -> (mpsc::Sender<&'static str>, std::net::SocketAddr) {
    let (sender, receiver) = mpsc::channel::<&'static str>(1);
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let endpoint = endpoint::serve(move |_| {
        let receiver = receiver.lock().unwrap().take();
        async move {
            let Some(receiver) = receiver else { return Response::new(full("once only")) };
            let texts = futures::stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|text| (text, receiver))
            });
            let frames = texts.map(|text| Ok(Frame::data(Bytes::from(text))));
            Response::new(UnsyncBoxBody::new(StreamBody::new(frames)))
        }
    });
    (sender, endpoint.await)
}

#[tokio::test]
async fn a_change_of_routes_touches_no_answer_under_way() {
    let (feed, endpoint) = fed().await;
    let world = World::routed(&route("a.example", &[endpoint])).await;
    let mut connection = Connection::http1(connect(world.http).await).await;
    let request = connection.request("GET", "a.example", "/").body(empty()).unwrap();
    let mut body = connection.send(request).await.unwrap().into_body();
    feed.send("before ").await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "before ");
    // The host goes to another service now, and the old endpoint is gone from its own.
    let other = echo("other").await;
    world.api.delete(&slice("a-example", endpoint));
    for object in [service("other"), slice("other", other), ingress("a.example", "other")] {
        world.api.put(&object);
    }
    until("the new route", || async { get(world.http, "a.example", "/").await.text.starts_with("other ") })
        .await;
    feed.send("after").await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "after");
    drop(feed);
    assert!(soon("the end of the answer", body.frame()).await.is_none());
    // And the connection is still good for the next request.
    assert!(connection.get("a.example", "/").await.text.starts_with("other "));
    world.api.delete(&ingress("a.example", "other"));
    until("the route's end", || async { get(world.http, "a.example", "/").await.status == 404 }).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let endpoint = endpoint::canned("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let world = World::routed(&route("a.example", &[endpoint.await])).await;
    for mut connection in connections(&world).await {
        let request = connection.request("GET", "a.example", "/").body(empty()).unwrap();
        let answer = connection.send(request).await.unwrap();
        assert!(soon("the end", answer.into_body().collect()).await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request() {
    let gone = Arc::new(Notify::new());
    let told = Arc::clone(&gone);
    let endpoint = endpoint::raw(move |mut stream| {
        let told = Arc::clone(&told);
        async move {
            endpoint::read_head(&mut stream).await;
            // Reads on until the proxy closes the connection.
            endpoint::read_head(&mut stream).await;
            told.notify_one();
        }
    });
    let world = World::routed(&route("a.example", &[endpoint.await])).await;
    let mut stream = connect(world.http).await;
    let head = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(200), gone.notified()).await.is_err();
    assert!(waits, "the endpoint is asked as long as the client waits");
    drop(stream);
    soon("the end of the request", gone.notified()).await;
}
