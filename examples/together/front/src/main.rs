//! The WebAssembly half of the pod: it asks the container beside it over 127.0.0.1 and reads the
//! file that the container has written to the volume they share.

use wstd::http::body::Body;
use wstd::http::{Client, Error, Request, Response};

/// Where the container listens: the pod has one network namespace.
const BACK: &str = "http://127.0.0.1:9000/";

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    let request = Request::get(BACK).body(Body::empty())?;
    let mut response = Client::new().send(request).await?;
    let answer = response.body_mut().str_contents().await?.trim_end().to_owned();
    let note = std::fs::read_to_string("/shared/note").unwrap_or_else(|error| format!("({error})"));
    let body = format!("The container says: {answer}\nIts note says: {}\n", note.trim_end());
    Ok(Response::new(body.into()))
}
