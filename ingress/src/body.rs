//! Bodies: of answers, and of requests that may be offered to several endpoints.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming, SizeHint};

/// The body of an answer.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// A request's body that may be offered to one endpoint after another: whoever polls it first
/// has it.
#[derive(Clone)]
pub struct Lent {
    offered: Arc<Mutex<Option<Incoming>>>,
    hint: (bool, SizeHint),
    taken: Option<Arc<Mutex<Incoming>>>,
}

impl Lent {
    pub fn new(body: Incoming) -> Self {
        let hint = (hyper::body::Body::is_end_stream(&body), hyper::body::Body::size_hint(&body));
        Lent { offered: Arc::new(Mutex::new(Some(body))), hint, taken: None }
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.taken.is_none() {
            let body = self.offered.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.taken = body.map(|b| Arc::new(Mutex::new(b)));
        }
        let Some(body) = &self.taken else { return Poll::Ready(None) };
        let mut body = body.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.hint.0
    }

    fn size_hint(&self) -> SizeHint {
        self.hint.1
    }
}
