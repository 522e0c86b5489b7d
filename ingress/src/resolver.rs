//! Looks names up as this host's `/etc/resolv.conf` and `/etc/hosts` say.
//!
//! The C library would do the same, but keeps a thread until it has given up, also for somebody who has
//! left.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{TokioResolver, system_conf};

/// What is looked at, and how often at most.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A server that has not answered by then is asked once more.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// The resolver of the moment.
#[derive(Default)]
pub struct HostResolver(Mutex<Current>);

#[derive(Default)]
struct Current {
    resolver: Option<TokioResolver>,
    looked: Option<Instant>,
    modified: [Option<SystemTime>; 2],
}

impl HostResolver {
    /// Made anew when a file has changed; none where that names no server.
    pub fn get(&self) -> Option<TokioResolver> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return current.resolver.clone();
        }
        let first = current.looked.is_none();
        current.looked = Some(Instant::now());
        let modified = FILES.map(|file| Path::new(file).metadata().and_then(|m| m.modified()).ok());
        if first || modified != current.modified {
            current.modified = modified;
            current.resolver = build();
        }
        current.resolver.clone()
    }
}

fn build() -> Option<TokioResolver> {
    let text = std::fs::read(FILES[0]).unwrap_or_default();
    // Without servers there is still the file of hosts.
    let (config, options) = system_conf::parse_resolv_conf(text).unwrap_or_default();
    resolver(config, options)
}

/// One with these settings, bounded in time.
pub fn resolver(config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    options.timeout = options.timeout.min(TIMEOUT);
    options.attempts = options.attempts.min(ATTEMPTS);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // What is found is remembered by who asks.
    options.cache_size = 0;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().inspect_err(|error| tracing::warn!(%error, "names elsewhere cannot be looked up")).ok()
}
