//! Addresses of the hosts that probes and hooks name.
//!
//! They are asked for as the machine is set up, but not by the C library: its lookups take a thread each
//! for as long as nameservers take, also when nobody waits any more, and whoever starts pods needs
//! threads too. Here a lookup ends with whoever waits for it.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;

/// The addresses of a host, those of IPv4 first. An error is the end of a sentence.
pub async fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let failed = |error: NetError| {
        let why = if error.is_no_records_found() { "no such host".to_owned() } else { error.to_string() };
        format!("lookup {host}: {why}")
    };
    let found = resolver().map_err(failed)?.lookup_ip(host).await.map_err(failed)?;
    Ok(found.iter().collect())
}

/// Made anew each time, as the machine's network may have changed since.
fn resolver() -> Result<TokioResolver, NetError> {
    // Without nameservers there are still the names in the hosts file.
    let (config, mut options) =
        read_system_conf().unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}
