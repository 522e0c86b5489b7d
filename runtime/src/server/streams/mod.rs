//! Streams between clients and containers: `exec`, `attach`, `port-forward`.
//!
//! `serve` answers the requests of the node's HTTP server (`http.rs`). A client speaks SPDY/3.1
//! (`spdy`) or WebSocket (`websocket`); both become `Input`s and `Output`s (`channel`), and what
//! lies behind them (`remote`, `forward`) does not know which it was. The API server only carries
//! bytes, so this is the one place where these protocols are understood.

mod channel;
mod forward;
mod open;
mod pipe;
mod remote;
pub mod serve;
mod spdy;
mod status;
mod tunnel;
mod upgrade;
mod websocket;
