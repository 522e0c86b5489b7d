//! The IO: listens, puts answers together, and sends them.
//!
//! hickory does the framing, the wire format and truncation.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::join_all;
use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use proa_api::shares::Room;
use proa_supervise::{Task, keep};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::answer::Own;
use crate::config::DnsConfig;
use crate::forward::Forwarder;
use crate::tcp;
use crate::watch::{self, Watched};

/// Largest UDP message: fits the smallest IPv6 path without fragments (DNS Flag Day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// Aliases followed in one answer.
const ALIASES: usize = 8;
/// The part of Proa that it is.
pub const COMPONENT: &str = "proa-dns";
/// Times a free port is sought when any port will do.
const PORT_ATTEMPTS: usize = 16;

/// Why the DNS server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The cluster domain is not a domain name.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// An address cannot be listened on.
    #[error("DNS cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("DNS server: {0}")]
    Server(String),
}

/// A DNS server that has its sockets.
pub struct Server {
    resolver: Resolver,
    sockets: Vec<Sockets>,
    room: Room,
}

/// On one address.
struct Sockets {
    /// Whoever serves it has a descriptor of his own for it: hickory takes it and gives it not back.
    udp: std::net::UdpSocket,
    tcp: TcpListener,
}

const fn task(name: &'static str) -> Task {
    Task { component: COMPONENT, name }
}

/// Finds answers. Clones share what they know.
#[derive(Clone)]
struct Resolver {
    own: Arc<Own>,
    watched: Arc<RwLock<Watched>>,
    forwarder: Arc<Forwarder>,
}

/// A whole answer.
#[derive(Default)]
struct Response {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Server {
    /// Takes the sockets, so that whatever is wrong with them is known before anything else starts.
    pub async fn bind(config: DnsConfig) -> Result<Self, DnsError> {
        let own = Own::new(&config.cluster_domain, config.own_ranges, config.ttl_seconds)
            .ok_or(DnsError::Domain(config.cluster_domain))?;
        let mut sockets = Vec::new();
        for address in &config.listen {
            let bound = bind(*address).await;
            sockets.push(bound.map_err(|source| DnsError::Listen { address: *address, source })?);
        }
        let addresses = addresses(&sockets);
        let resolver = Resolver {
            own: Arc::new(own),
            watched: Arc::default(),
            forwarder: Arc::new(Forwarder::new(config.upstream, addresses)),
        };
        let room = Room::new(config.connections, config.connections);
        Ok(Self { resolver, sockets, room })
    }

    /// The addresses it listens on, on UDP and TCP alike.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.sockets)
    }

    /// Serves until `shutdown`.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) {
        let watch = || async {
            let watch = watch::run(client.clone(), Arc::clone(&self.resolver.watched));
            shutdown.run_until_cancelled(watch).await;
        };
        tokio::join!(keep(task("dns-watch"), &shutdown, watch), self.serve(&shutdown));
    }

    async fn serve(&self, shutdown: &CancellationToken) {
        let serve = async |Sockets { udp, tcp }: &Sockets| {
            let udp = || serve_udp(udp, self.resolver.clone(), shutdown);
            let tcp = || async {
                let serve = tcp::serve(tcp, self.resolver.clone(), self.room.clone());
                shutdown.run_until_cancelled(serve).await;
            };
            tokio::join!(keep(task("dns-udp"), shutdown, udp), keep(task("dns-tcp"), shutdown, tcp));
        };
        join_all(self.sockets.iter().map(serve)).await;
    }
}

async fn serve_udp(
    socket: &std::net::UdpSocket,
    resolver: Resolver,
    shutdown: &CancellationToken,
) -> Result<(), DnsError> {
    let failed = |error: &dyn std::fmt::Display| DnsError::Server(error.to_string());
    let socket = socket.try_clone().and_then(UdpSocket::from_std).map_err(|error| failed(&error))?;
    let mut server = hickory_server::Server::new(resolver);
    server.register_socket(socket);
    let ended = tokio::select! {
        ended = server.block_until_done() => ended,
        () = shutdown.cancelled() => server.shutdown_gracefully().await,
    };
    ended.map_err(|error| failed(&error))
}

fn addresses(sockets: &[Sockets]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|sockets| sockets.udp.local_addr().ok()).collect()
}

/// Both sockets on one address. For port 0 a port that is free on both.
async fn bind(address: SocketAddr) -> std::io::Result<Sockets> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok(Sockets { udp: udp.into_std()?, tcp }),
            Err(_) if address.port() == 0 && attempts < PORT_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Resolver {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().min(UDP_PAYLOAD)).set_version(0);
            edns
        });
        let response = self.respond(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = true;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [Record; 0] = [];
        let message =
            builder.build(metadata, &response.answers, &response.authorities, &none, &response.additionals);
        match out.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "cannot send an answer");
                ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
            }
        }
    }
}

impl Resolver {
    async fn respond(&self, request: &Request) -> Response {
        let refuse = |code| Response { code, ..Response::default() };
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return refuse(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return refuse(ResponseCode::FormErr) };
        let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if query.query_class() != DNSClass::IN || transfer {
            return refuse(ResponseCode::Refused);
        }
        let client = request.src().ip();
        self.resolve(client, query.original().name().clone(), query.query_type()).await
    }

    /// Answers a client's question, following aliases in and out of the cluster.
    async fn resolve(&self, client: IpAddr, mut name: Name, asked: RecordType) -> Response {
        let mut response = Response::default();
        for hop in 0..ALIASES {
            let own = {
                let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
                let answer = self.own.answer(&watched.zone, &name, asked);
                if answer.is_some() && !watched.complete() {
                    return Response { code: ResponseCode::ServFail, ..Response::default() };
                }
                answer
            };
            let Some(records) = own else {
                let forwarded = self.forwarder.ask(client, &name, asked).await;
                response.code = forwarded.code;
                response.answers.extend(forwarded.answers);
                response.authorities.extend(forwarded.authorities);
                return response;
            };
            response.authoritative |= hop == 0;
            response.code = records.code;
            response.answers.extend(records.answers);
            response.additionals.extend(records.additionals);
            response.authorities.extend(records.soa);
            match records.follow {
                Some(target) => name = target,
                None => return response,
            }
        }
        Response { code: ResponseCode::ServFail, ..Response::default() }
    }
}

#[cfg(test)]
mod tests;
