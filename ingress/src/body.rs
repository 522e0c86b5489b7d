//! Bodies: of answers, and of requests that may be offered to several endpoints.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// The body of an answer.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// Why a request's body has not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The client has broken off, or sends what is no body.
    #[error("the request's body is not valid")]
    Invalid,
    /// The client has sent nothing for too long, and nobody answers meanwhile.
    #[error("the request's body did not go on in time")]
    Stalled,
}

/// A request's body that may be offered to one endpoint after another: whoever polls it first
/// has it.
#[derive(Clone)]
pub struct Lent {
    offered: Arc<Mutex<Option<Incoming>>>,
    hint: (bool, SizeHint),
    taken: Option<Arc<Mutex<Taken>>>,
    progress: Arc<Progress>,
}

struct Taken {
    body: Incoming,
    /// Runs while nothing comes.
    silence: Option<Pin<Box<Sleep>>>,
}

/// What becomes of a request whose body is lent.
struct Progress {
    /// The client may be silent so long.
    patience: Option<Duration>,
    /// An answer is under way: as long as it is, the client may wait for what it says.
    answering: AtomicBool,
    broken: OnceLock<Broken>,
}

/// An answer that is under way, until it is dropped.
pub struct Answering {
    progress: Arc<Progress>,
}

/// A body that holds something as long as it is there.
pub struct Held<B, G> {
    body: B,
    _held: G,
}

impl Lent {
    /// A body that is given up when the client is silent for longer than `patience` before there is an
    /// answer, or after it.
    pub fn new(body: Incoming, patience: Option<Duration>) -> Self {
        let hint = (body.is_end_stream(), body.size_hint());
        let (answering, broken) = (AtomicBool::new(false), OnceLock::new());
        let progress = Arc::new(Progress { patience, answering, broken });
        Lent { offered: Arc::new(Mutex::new(Some(body))), hint, taken: None, progress }
    }

    /// Why it has not come to its end, if the client is to blame.
    pub fn broken(&self) -> Option<Broken> {
        self.progress.broken.get().copied()
    }

    /// To be held as long as the answer is under way.
    pub fn answering(&self) -> Answering {
        self.progress.answering.store(true, Ordering::Relaxed);
        Answering { progress: Arc::clone(&self.progress) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.progress.answering.store(false, Ordering::Relaxed);
    }
}

impl Progress {
    /// Looks whether the client has been silent for too long.
    fn poll_silence(&self, silence: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<Broken> {
        let Some(patience) = self.patience else { return Poll::Pending };
        loop {
            let sleep = silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !self.answering.load(Ordering::Relaxed) {
                return Poll::Ready(Broken::Stalled);
            }
            *silence = None;
        }
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.taken.is_none() {
            let body = self.offered.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.taken = body.map(|body| Arc::new(Mutex::new(Taken { body, silence: None })));
        }
        let Some(taken) = &self.taken else { return Poll::Ready(None) };
        let Taken { body, silence } = &mut *taken.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "a request's body ended early");
                Broken::Invalid
            }
            Poll::Ready(other) => {
                *silence = None;
                return Poll::Ready(other.map(|frame| frame.map_err(|_| Broken::Invalid)));
            }
            Poll::Pending => std::task::ready!(self.progress.poll_silence(silence, cx)),
        };
        Poll::Ready(Some(Err(*self.progress.broken.get_or_init(|| broken))))
    }

    fn is_end_stream(&self) -> bool {
        self.hint.0
    }

    fn size_hint(&self) -> SizeHint {
        self.hint.1
    }
}

impl<B, G> Held<B, G> {
    pub fn new(body: B, held: G) -> Self {
        Held { body, _held: held }
    }
}

impl<B: hyper::body::Body + Unpin, G: Unpin> hyper::body::Body for Held<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
