//! Where the requests of a route go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::names::External;

/// A port of a Service, or why there is nobody to ask.
#[derive(Debug)]
pub struct Backend {
    /// `namespace/service:port`, for logs and reasons.
    pub name: String,
    /// Its ready endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// The name elsewhere whose addresses are its endpoints.
    pub external: Option<External>,
    /// Its endpoints speak HTTP/2 in the clear.
    pub http2: bool,
    /// Why there are none, if there are none.
    pub unavailable: &'static str,
    /// Others are left out, as they cannot be reached.
    pub left_out: bool,
    next: AtomicUsize,
}

/// The Service named by a route does not exist.
pub const NO_SERVICE: &str = "the service does not exist";
/// The Service has no such port.
pub const NO_PORT: &str = "the service has no such port";
/// The Service has no pod that is ready.
pub const NO_ENDPOINTS: &str = "the service has no ready endpoints";
/// The Service's pods are all on other nodes.
pub const NOT_REACHED: &str = "the service's pods are on other nodes, which cannot be reached yet";
/// The route leads to something other than a Service.
pub const RESOURCE_BACKEND: &str = "resource backends are not supported";

impl Backend {
    /// One that nobody answers for, and why.
    pub fn none(name: String, unavailable: &'static str) -> Self {
        let (endpoints, next) = (Vec::new(), AtomicUsize::new(0));
        Backend { name, endpoints, external: None, http2: false, unavailable, left_out: false, next }
    }

    /// The endpoints to try, each once, starting with another one each time.
    pub fn in_turn<'a>(&self, endpoints: &'a [SocketAddr]) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let count = endpoints.len();
        let start = if count == 0 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % count };
        endpoints.iter().cycle().skip(start).take(count).copied()
    }
}
