//! The body of a request on its way in: read as a whole with a limit, or left.
//!
//! What a client sends and nobody reads would end its connection, over which the answer still has
//! to go: of such a body a bounded part is read and thrown away.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::header;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use proa_api::Refusal;
use proa_api::shares::Shares;

use super::proxy::turns::holder;
use crate::registry::Caller;

/// No body may be larger: the stock server's limit.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Bodies up to this cost no more than the connections that they come over.
const SMALL_BODY_BYTES: u64 = 64 << 10;
/// Larger bodies that are being read at a time, of all callers and of one. They may come slowly.
const LARGE_BODIES: (usize, usize) = (64, 16);
/// A body must have come by then.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Of a body that nobody wants, this much is read: a client that is cut off while it sends does not
/// look at the answer.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// The same of a caller who may not send it at all.
const MAX_REFUSED_BYTES: usize = MAX_BODY_BYTES;
/// For at most this long.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// A body that may not have come yet.
pub struct Incoming {
    body: Body,
    discard_bytes: usize,
    /// The client waits for leave before it sends: reading would give it.
    waits: bool,
}

impl Incoming {
    /// The body of this request.
    pub fn new(parts: &Parts, body: Body) -> Incoming {
        let waits = parts.headers.contains_key(header::EXPECT);
        Incoming { body, discard_bytes: MAX_REFUSED_BYTES, waits }
    }

    /// Reads it as a whole for a caller, if it is not too large and comes in time.
    pub async fn read(&mut self, caller: &Caller) -> Result<Bytes, Refusal> {
        static LARGE: LazyLock<Arc<Shares<String>>> =
            LazyLock::new(|| Shares::new(LARGE_BODIES.0, LARGE_BODIES.1));
        let is_large = self.body.size_hint().upper().is_none_or(|bytes| bytes > SMALL_BODY_BYTES);
        let _share = match is_large.then(|| LARGE.take(holder(&caller.user).to_owned())) {
            Some(None) => {
                let text = "too many large requests are being read, please try again later";
                return Err(self.give_up(Refusal::too_many_requests(text, 1)));
            }
            share => share,
        };
        self.waits = false;
        let limited = Limited::new(&mut self.body, MAX_BODY_BYTES).collect();
        match tokio::time::timeout(BODY_TIME, limited).await {
            Ok(Ok(collected)) => {
                self.body = Body::empty();
                Ok(collected.to_bytes())
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                self.discard_bytes = MAX_DISCARDED_BYTES;
                Err(Refusal::too_large(MAX_BODY_BYTES))
            }
            Ok(Err(error)) => {
                Err(self.give_up(Refusal::bad_request(format!("the body could not be read: {error}"))))
            }
            Err(_) => {
                let text = "Timeout: request did not complete within the allotted timeout";
                Err(self.give_up(Refusal::new(504, "Timeout", text)))
            }
        }
    }

    /// Hands it over to who reads it as it comes.
    pub fn take(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// Nothing more is expected of it.
    fn give_up(&mut self, refusal: Refusal) -> Refusal {
        self.waits = true;
        refusal
    }

    /// Throws away what nobody has read. False if there is more, so that nothing else can come over
    /// the connection.
    pub async fn finish(mut self) -> bool {
        if self.body.is_end_stream() {
            return true;
        }
        if self.waits {
            return false;
        }
        let rest = async {
            let mut left = self.discard_bytes;
            while let Some(frame) = self.body.frame().await {
                let Ok(frame) = frame else { return false };
                let size = frame.data_ref().map_or(0, Bytes::len);
                if size >= left {
                    return false;
                }
                left -= size;
            }
            true
        };
        tokio::time::timeout(DISCARD_TIME, rest).await.unwrap_or(false)
    }
}
