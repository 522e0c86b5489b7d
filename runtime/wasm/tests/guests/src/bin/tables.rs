//! An HTTP component whose table of functions begins late (see `build.rs`).

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new(Body::from("a large table\n")))
}
