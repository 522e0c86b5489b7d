//! An HTTP component: a path for each thing the tests want to see.

use futures_lite::stream;
use wstd::http::body::Bytes;
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
        // Takes as many mebibytes as the query says, and gives them back.
        "/take" => {
            let mebibytes: usize = number(&request);
            let taken = std::hint::black_box(vec![1_u8; mebibytes << 20]);
            Ok(Response::new(Body::from(format!("{} bytes\n", taken.len()))))
        }
        // Answers after as many milliseconds as the query says.
        "/sleep" => {
            println!("sleeping");
            wstd::task::sleep(std::time::Duration::from_millis(number(&request) as u64).into()).await;
            Ok(Response::new(Body::from("slept\n")))
        }
        "/spin" => {
            println!("spinning");
            loop {
                std::hint::black_box(0);
            }
        }
        // As long as the body is.
        "/length" => {
            println!("reading");
            let body = request.into_body().bytes_contents().await?;
            Ok(Response::new(Body::from(format!("{} bytes\n", body.len()))))
        }
        // Answers half and traps.
        "/half" => {
            let pieces = stream::unfold(0, |n| async move {
                match n {
                    0 => Some((Bytes::from_static(b"half\n"), 1)),
                    _ => {
                        wstd::task::sleep(std::time::Duration::from_millis(100).into()).await;
                        core::arch::wasm32::unreachable()
                    }
                }
            });
            Ok(Response::new(Body::from_stream(pieces)))
        }
        // Answers without end.
        "/endless" => {
            println!("streaming");
            let pieces = stream::unfold((), |()| async move { Some((Bytes::from(vec![b'x'; 64 << 10]), ())) });
            Ok(Response::new(Body::from_stream(pieces)))
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

fn number(request: &Request<Body>) -> usize {
    request.uri().query().and_then(|query| query.parse().ok()).unwrap_or(0)
}
