//! A body that gives up when nothing comes for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

/// The body, and when it gives up.
pub struct Patient<B> {
    body: B,
    limit: Duration,
    error: fn() -> Error,
    /// Running while somebody waits.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<B> Patient<B> {
    /// `error` is what comes after `limit` without a byte.
    pub fn new(body: B, limit: Duration, error: fn() -> Error) -> Self {
        Self { body, limit, error, timer: None, waiting: false }
    }
}

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Patient<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            this.waiting = false;
            return polled;
        }
        let limit = this.limit;
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !this.waiting {
            // A limit of centuries is none.
            let far = Duration::from_secs(86_400 * 365);
            timer.as_mut().reset(Instant::now() + limit.min(far));
            this.waiting = true;
        }
        timer.as_mut().poll(cx).map(|()| Some(Err((this.error)())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    #[tokio::test(start_paused = true)]
    async fn waits_for_each_piece_and_no_longer() {
        let limit = Duration::from_secs(5);
        let pieces = futures::stream::iter(0..3).then(|_| async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(Frame::data(Bytes::from_static(b"x")))
        });
        let body = StreamBody::new(Box::pin(pieces.chain(futures::stream::pending())));
        let mut body = Patient::new(body, limit, || Error::ConnectionReadTimeout);
        let begun = Instant::now();
        for _ in 0..3 {
            body.frame().await.expect("a frame").expect("data");
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(12));
        let error = body.frame().await.expect("not the end").expect_err("an error");
        assert!(matches!(error, Error::ConnectionReadTimeout));
        assert_eq!(begun.elapsed(), Duration::from_secs(17));
    }
}
