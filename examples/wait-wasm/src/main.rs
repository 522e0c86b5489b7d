//! An HTTP component whose answers take time and no work: each waits for as many milliseconds as its
//! path says (`/1000`). For measuring how many requests can be under way.

use wstd::http::body::Body;
use wstd::http::{Error, Request, Response};
use wstd::time::Duration;

/// No request waits for longer.
const MOST: u64 = 60_000;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let millis = request.uri().path().trim_matches('/').parse().unwrap_or(0);
    wstd::task::sleep(Duration::from_millis(MOST.min(millis))).await;
    Ok(Response::new("waited\n".to_owned().into()))
}
