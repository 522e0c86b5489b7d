//! An HTTP server as a WebAssembly component: it exports `wasi:http/incoming-handler` and has no
//! main loop, no socket and no port of its own. Proa serves it on the pod's `containerPort`.

use wstd::http::body::Body;
use wstd::http::{Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let pod = std::env::var("POD_NAME").unwrap_or_else(|_| "somewhere".to_owned());
    println!("{} {}", request.method(), request.uri().path());
    let body = format!("{greeting} from WebAssembly in {pod}\n");
    Ok(Response::builder().header("content-type", "text/plain").body(body.into())?)
}
