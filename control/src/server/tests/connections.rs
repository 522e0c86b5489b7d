//! What connections that ask for nothing leave for others.

use proa_api::shares::Shares;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

const NO_TLS: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

async fn connect(address: SocketAddr, from: &str, say: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    // It may be gone already.
    let _ = stream.write_all(say).await;
    stream
}

/// How much is answered before the end.
async fn answered(mut stream: TcpStream) -> usize {
    let end = async { stream.read(&mut [0; 64]).await.unwrap_or(0) };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("an answer or the end")
}

#[tokio::test]
async fn whoever_asks_nothing_keeps_nobody_out() {
    let fixture = Fixture::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tls, api) = (fixture.server.tls.clone(), fixture.server.api.clone());
    tokio::spawn(api::serve::listen(listener, tls, api, Shares::new(8, 2)));
    let silent = [connect(address, "127.0.0.1:0", b"").await, connect(address, "127.0.0.1:0", b"").await];
    assert_eq!(answered(connect(address, "127.0.0.1:0", b"").await).await, 0);
    // Another is listened to: what is no TLS is answered with an alert.
    assert_ne!(answered(connect(address, "127.0.0.2:0", NO_TLS).await).await, 0);
    drop(silent);
    let room = async { while answered(connect(address, "127.0.0.1:0", NO_TLS).await).await == 0 {} };
    tokio::time::timeout(Duration::from_secs(5), room).await.expect("room");
}
