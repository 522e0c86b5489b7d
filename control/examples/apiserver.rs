//! The control plane alone, on a temporary directory and a free loopback port: for trying kubectl
//! against it. Prints the path of the kubeconfig; ends with Ctrl-C.

#![allow(clippy::print_stdout, reason = "its one line of output is what it is for")]

use std::net::Ipv4Addr;

use proa_control::server::{Config, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("proa-apiserver"), Into::into);
    let config = Config {
        data_dir: dir,
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        service_cidr: "10.43.0.0/16".parse()?,
        cluster_domain: "cluster.local".to_owned(),
        advertise: None,
        node_name: "local".to_owned(),
        settings: Default::default(),
        extra_names: Vec::new(),
        build: Default::default(),
        deny_external_ips: false,
        connections: 1000,
        legacy_api: true,
        scheduler: Default::default(),
    };
    let server = Server::start(config).await?;
    println!("{}", server.kubeconfig_path().display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
