//! An HTTP component: a path for each thing the tests want to see.

use wstd::http::{Body, Client, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    match request.uri().path() {
        "/" => Ok(Response::new(Body::from("hello from wasm\n"))),
        "/greeting" => Ok(Response::new(Body::from(std::env::var("GREETING").unwrap_or_default()))),
        "/trap" => core::arch::wasm32::unreachable(),
        "/eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        // Asks another server in the pod, at the port that the query names.
        "/ask" => {
            let port = request.uri().query().unwrap_or("80");
            let request = Request::get(format!("http://127.0.0.1:{port}/")).body(Body::empty())?;
            let answer = Client::new().send(request).await?;
            Ok(Response::new(answer.into_body()))
        }
        _ => Ok(Response::builder().status(404).body(Body::empty())?),
    }
}
