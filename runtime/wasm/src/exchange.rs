//! One request on its way between its client and its guest: what each side must know of the other.
//!
//! The connection tells when the client has gone or has the whole answer; the guest's task tells
//! when the guest has failed. So neither works for somebody who has left, and an answer that breaks
//! off never looks like a whole one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use wasmtime_wasi_http::{Error, WasiBody};

/// A client that takes nothing of its answer for so long has gone.
pub const STALL: Duration = Duration::from_secs(30);

/// What both sides know.
pub struct Exchange {
    begun: Instant,
    deadline: Option<Instant>,
    client: AtomicU8,
    guest: AtomicU8,
    /// Milliseconds after `begun` at which the client was given a piece of its answer, while it has
    /// not come for the next one; 0 otherwise.
    given_ms: AtomicU64,
    /// For whoever waits on the client.
    client_changed: Notify,
    /// The client has the whole answer.
    client_served: Notify,
}

const OPEN: u8 = 0;
// What a client may be beside open.
const SERVED: u8 = 1;
const GONE: u8 = 2;
// What a guest may be beside open.
const FAILED: u8 = 1;
const LATE: u8 = 2;

/// Why a request ends before its guest has ended it.
#[derive(Debug, PartialEq, Eq)]
pub enum Over {
    /// Nobody waits for the answer.
    ClientGone,
    /// Its time is over.
    Late,
}

impl Exchange {
    /// One that begins now.
    pub fn new(timeout: Option<Duration>) -> Arc<Self> {
        let begun = Instant::now();
        Arc::new(Self {
            begun,
            deadline: timeout.and_then(|timeout| begun.checked_add(timeout)),
            client: AtomicU8::new(OPEN),
            guest: AtomicU8::new(OPEN),
            given_ms: AtomicU64::new(0),
            client_changed: Notify::new(),
            client_served: Notify::new(),
        })
    }

    /// Waits until the guest is to be ended. A guest whose client has the whole answer may go on
    /// until its time is over.
    pub async fn over(&self) -> Over {
        loop {
            let now = Instant::now();
            match self.client.load(Ordering::Acquire) {
                GONE => return Over::ClientGone,
                OPEN if self.is_stalled(now) => return Over::ClientGone,
                _ => {}
            }
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                self.guest.store(LATE, Ordering::Release);
                return Over::Late;
            }
            let look = now + STALL;
            let until = self.deadline.map_or(look, |deadline| deadline.min(look));
            let _ = tokio::time::timeout_at(until, self.client_changed.notified()).await;
        }
    }

    /// Waits until the client has the whole answer.
    pub async fn served(&self) {
        while self.client.load(Ordering::Acquire) != SERVED {
            self.client_served.notified().await;
        }
    }

    /// The guest has failed when what this gives is dropped. To be dropped before anything of the
    /// guest is.
    pub fn fail_unless_whole(&self) -> FailUnlessWhole<'_> {
        FailUnlessWhole(self)
    }

    /// The guest was ended because its time was over.
    pub fn is_late(&self) -> bool {
        self.guest.load(Ordering::Acquire) == LATE
    }

    fn has_failed(&self) -> bool {
        self.guest.load(Ordering::Acquire) != OPEN
    }

    fn is_stalled(&self, now: Instant) -> bool {
        let given = self.given_ms.load(Ordering::Relaxed);
        given != 0 && now >= self.begun + Duration::from_millis(given) + STALL
    }

    fn client_is(&self, what: u8) {
        self.client.store(what, Ordering::Release);
        self.client_changed.notify_one();
        self.client_served.notify_one();
    }
}

/// See [`Exchange::fail_unless_whole`].
pub struct FailUnlessWhole<'a>(&'a Exchange);

impl FailUnlessWhole<'_> {
    /// The guest has done all it had to do.
    pub fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for FailUnlessWhole<'_> {
    fn drop(&mut self) {
        let guest = &self.0.guest;
        let _ = guest.compare_exchange(OPEN, FAILED, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// The client's end: the client counts as gone when this is dropped, unless it has been served.
pub struct Client {
    exchange: Arc<Exchange>,
    served: bool,
}

impl Client {
    /// The client of an exchange.
    pub fn new(exchange: &Arc<Exchange>) -> Self {
        Self { exchange: exchange.clone(), served: false }
    }

    /// The answer as the client is to get it.
    pub fn answer(mut self, asked: &Method, response: Response<WasiBody>) -> Response<WasiBody> {
        // Of these nothing is read but the head.
        let status = response.status().as_u16();
        let length =
            response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = response.body().size_hint().exact().or(length);
        self.served = asked == Method::HEAD || matches!(status, 100..200 | 204 | 304) || left == Some(0);
        response.map(|body| Answer { body, left, client: self }.boxed_unsync())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.exchange.client_is(if self.served { SERVED } else { GONE });
    }
}

/// The body of an answer.
struct Answer {
    body: WasiBody,
    /// Bytes that are still to come, where that is known: the connection stops asking after them.
    left: Option<u64>,
    client: Client,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let exchange = &this.client.exchange;
        exchange.given_ms.store(0, Ordering::Relaxed);
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            // What a guest had in hand when it failed ends as if it had been all.
            Poll::Ready(None) if exchange.has_failed() => {
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
            }
            Poll::Ready(None) => this.client.served = true,
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(Some(Ok(frame))) => {
                let given = exchange.begun.elapsed().as_millis();
                exchange.given_ms.store(u64::try_from(given).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
                if let (Some(left), Some(data)) = (this.left.as_mut(), frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                this.client.served |= this.left == Some(0) || frame.is_trailers();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.client.exchange.has_failed()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.client.served |= self.is_end_stream();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Empty, Full, StreamBody};

    fn body(text: &'static str) -> WasiBody {
        Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    }

    fn pending() -> WasiBody {
        let first = Ok(Frame::data(Bytes::from_static(b"a")));
        let forever = futures::stream::pending();
        StreamBody::new(futures::StreamExt::chain(futures::stream::iter([first]), forever)).boxed_unsync()
    }

    fn answer(exchange: &Arc<Exchange>, method: &Method, body: WasiBody) -> WasiBody {
        Client::new(exchange).answer(method, Response::new(body)).into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_ends_its_request() {
        let exchange = Exchange::new(None);
        drop(Client::new(&exchange));
        assert_eq!(exchange.over().await, Over::ClientGone, "before its answer");
        let exchange = Exchange::new(None);
        let mut half = answer(&exchange, &Method::GET, pending());
        half.frame().await.expect("a frame").expect("data");
        drop(half);
        assert_eq!(exchange.over().await, Over::ClientGone, "in the middle of it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_served_leaves_the_guest_its_time() {
        let all = async |method: Method, body: WasiBody, read: bool| {
            let exchange = Exchange::new(Some(Duration::from_secs(7)));
            let begun = Instant::now();
            let body = answer(&exchange, &method, body);
            if read {
                body.collect().await.expect("an answer");
            } else {
                drop(body);
            }
            exchange.served().await;
            assert_eq!(exchange.over().await, Over::Late);
            assert_eq!(begun.elapsed(), Duration::from_secs(7));
        };
        all(Method::GET, body("all"), true).await;
        all(Method::GET, Empty::new().map_err(|never| match never {}).boxed_unsync(), false).await;
        all(Method::HEAD, body("not wanted"), false).await;

        // An empty answer whose guest has more to do is not asked for its body.
        let exchange = Exchange::new(Some(Duration::from_secs(7)));
        let mut empty = Response::new(pending());
        empty.headers_mut().insert(CONTENT_LENGTH, 0.into());
        drop(Client::new(&exchange).answer(&Method::GET, empty));
        exchange.served().await;
        assert_eq!(exchange.over().await, Over::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_has_gone() {
        let exchange = Exchange::new(None);
        let mut slow = answer(&exchange, &Method::GET, pending());
        let begun = Instant::now();
        slow.frame().await.expect("a frame").expect("data");
        assert_eq!(exchange.over().await, Over::ClientGone);
        assert!(begun.elapsed() >= STALL && begun.elapsed() < STALL * 3, "{:?}", begun.elapsed());
        // One that waits for its guest has not.
        let exchange = Exchange::new(Some(STALL * 10));
        let mut waits = answer(&exchange, &Method::GET, pending());
        waits.frame().await.expect("a frame").expect("data");
        assert!(futures::poll!(std::pin::pin!(waits.frame())).is_pending());
        assert_eq!(exchange.over().await, Over::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_answer_is_not_a_whole_one() {
        let exchange = Exchange::new(None);
        let mut cut = answer(&exchange, &Method::GET, body("half"));
        cut.frame().await.expect("a frame").expect("data");
        drop(exchange.fail_unless_whole());
        assert!(!cut.is_end_stream());
        assert!(cut.frame().await.expect("not the end").is_err());
        let exchange = Exchange::new(Some(Duration::from_secs(1)));
        let mut late = answer(&exchange, &Method::GET, body("half"));
        assert_eq!(exchange.over().await, Over::Late);
        late.frame().await.expect("a frame").expect("data");
        assert!(late.frame().await.expect("not the end").is_err() && exchange.is_late());
    }
}
