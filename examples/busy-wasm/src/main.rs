//! An HTTP component whose answers take work: each request counts primes for as many rounds as its
//! path says (`/200`; 20 if it says nothing). For watching an autoscaler at work.

use wstd::http::body::Body;
use wstd::http::{Error, Request, Response};

/// Numbers that one round looks at.
const ROUND: u32 = 10_000;
/// Rounds if the path names none.
const ROUNDS: u32 = 20;
/// No request works for longer.
const MAX_ROUNDS: u32 = 10_000;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let asked = request.uri().path().trim_matches('/').parse().unwrap_or(ROUNDS);
    let rounds = asked.min(MAX_ROUNDS);
    let primes: u32 = (0..rounds).map(|_| primes_below(std::hint::black_box(ROUND))).sum();
    let body = format!("{primes} primes in {rounds} rounds\n");
    Ok(Response::builder().header("content-type", "text/plain").body(body.into())?)
}

fn primes_below(limit: u32) -> u32 {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0);
    u32::try_from((2..limit).filter(is_prime).count()).unwrap_or(u32::MAX)
}
