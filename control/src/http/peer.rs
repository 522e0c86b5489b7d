//! Who is at the other end of a connection.

use std::net::IpAddr;

/// The address of a request's client.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);
