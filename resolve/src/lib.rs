//! The machine's resolver: names are looked up as its `/etc/resolv.conf` and `/etc/hosts` say.
//!
//! The C library would do the same, but keeps a thread until it has given up, also for somebody who has
//! left. Here a lookup ends with whoever waits for it.

mod watched;

use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{TokioResolver, system_conf};

pub use watched::Watched;

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// A server that has not answered by then is asked once more.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Questions at a time over one connection to a server. Many share it.
const IN_FLIGHT: usize = 512;

/// The machine's resolver of the moment.
pub struct HostResolver(Watched<TokioResolver>);

impl Default for HostResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl HostResolver {
    /// Looks at nothing yet.
    pub const fn new() -> Self {
        HostResolver(Watched::new())
    }

    /// Made anew when a file has changed; none where that is of no use.
    pub fn get(&self) -> Option<TokioResolver> {
        self.0.get(&FILES, Instant::now(), || {
            let text = std::fs::read(FILES[0]).unwrap_or_default();
            // Without servers there is still the file of hosts.
            let (config, options) = system_conf::parse_resolv_conf(text).unwrap_or_default();
            bounded(config, options)
        })
    }
}

/// A resolver with these settings, of which a lookup does not take long. It remembers nothing.
pub fn bounded(config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    options.timeout = options.timeout.min(TIMEOUT);
    options.attempts = options.attempts.min(ATTEMPTS);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    options.max_active_requests = IN_FLIGHT;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().inspect_err(|error| tracing::warn!(%error, "the machine's resolver is of no use")).ok()
}
