//! The ingress served for real on loopback: clients on one side, endpoints on the other, and an
//! API in memory that it follows. Ports are the kernel's choice and nothing leaves the process.

mod api;
mod client;
mod endpoint;
mod world;

mod access;
mod backends;
mod http;
mod lifecycle;
mod status;
mod streams;
mod stuck;
mod tls;
mod upgrade;
