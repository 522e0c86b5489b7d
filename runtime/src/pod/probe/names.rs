//! Addresses of the hosts that probes and hooks name.
//!
//! They are asked for as the machine is set up. Whoever starts pods needs threads too, so a lookup takes
//! none, and ends with whoever waits for it.

use std::net::IpAddr;

use hickory_resolver::net::NetError;
use proa_resolve::HostResolver;

static HOST: HostResolver = HostResolver::new();

/// The addresses of a host, those of IPv4 first. An error is the end of a sentence.
pub async fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let failed = |error: NetError| {
        let why = if error.is_no_records_found() { "no such host".to_owned() } else { error.to_string() };
        format!("lookup {host}: {why}")
    };
    let resolver = HOST.get().ok_or_else(|| format!("lookup {host}: no resolver"))?;
    let found = resolver.lookup_ip(host).await.map_err(failed)?;
    Ok(found.iter().collect())
}
