//! The body of a request on its way in: read as a whole with a limit, or left.
//!
//! What a client sends and nobody reads would end its connection, over which the answer still has
//! to go: of such a body a bounded part is read and thrown away.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::header;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use proa_api::Refusal;

use super::held::Held;

/// No body may be larger: the stock server's limit.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

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

    /// Reads it as a whole, if it is not too large, comes in time and may be held.
    pub async fn read(&mut self, held: &Held) -> Result<Bytes, Refusal> {
        self.waits = false;
        match tokio::time::timeout(BODY_TIME, self.collect(held)).await {
            Ok(Ok(bytes)) => {
                self.body = Body::empty();
                Ok(bytes)
            }
            Ok(Err(refusal)) if refusal.code() == 413 => {
                self.discard_bytes = MAX_DISCARDED_BYTES;
                Err(refusal)
            }
            Ok(Err(refusal)) => Err(self.give_up(refusal)),
            Err(_) => {
                let text = "Timeout: request did not complete within the allotted timeout";
                Err(self.give_up(Refusal::new(504, "Timeout", text)))
            }
        }
    }

    async fn collect(&mut self, held: &Held) -> Result<Bytes, Refusal> {
        let mut limited = Limited::new(&mut self.body, MAX_BODY_BYTES);
        // One that comes whole, as nearly all do, is not copied.
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = limited.frame().await {
            let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                true => Refusal::too_large(MAX_BODY_BYTES),
                false => Refusal::bad_request(format!("the body could not be read: {error}")),
            })?;
            let Ok(data) = frame.into_data() else { continue };
            held.grow(data.len())?;
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
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
