//! What is kept in memory for callers: bodies that have not come whole, answers that have not been
//! read, and watches. Whoever asks over the network has no more than a share of it.
//!
//! Bytes are counted, and not connections or requests: over one HTTP/2 connection there are many.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use http::Response;
use http::request::Parts;
use http_body::{Frame, SizeHint};
use proa_api::Refusal;
use proa_api::shares::{Share, Shares, client};

use super::authenticate::ANONYMOUS;
use super::peer::Peer;
use super::pretty;
use super::proxy::turns::holder;
use super::unread::Unread;
use crate::registry::Caller;

/// Bytes for all callers together, and for one.
const BYTES: (usize, usize) = (192 << 20, 48 << 20);
/// About what a request takes for itself, its headers included.
const REQUEST_BYTES: usize = 16 << 10;
/// Most bytes of an answer that are handed over at once.
pub const SLICE_BYTES: usize = 32 << 10;
/// About what each byte of the parameters takes once they are read: selectors have many small pieces.
const BYTES_PER_PARAMETER_BYTE: usize = 48;

/// What one request takes of it, until the last clone is dropped. Nothing for callers in the process.
#[derive(Clone, Debug, Default)]
pub struct Held(Option<Arc<Share<String>>>);

impl Held {
    /// For a request that has just come.
    pub fn enter(caller: &Caller, parts: &Parts) -> Result<Held, Refusal> {
        static SHARES: LazyLock<Arc<Shares<String>>> = LazyLock::new(|| Shares::new(BYTES.0, BYTES.1));
        let Some(Peer(peer)) = parts.extensions.get() else { return Ok(Held(None)) };
        // Those whom nobody knows are told apart by where they are.
        let who = match caller.user == ANONYMOUS {
            true => client(*peer).to_string(),
            false => holder(&caller.user).to_owned(),
        };
        let parameters = parts.uri.query().map_or(0, str::len);
        let share = SHARES.take_many(who, REQUEST_BYTES + parameters * BYTES_PER_PARAMETER_BYTE);
        share.map(|share| Held(Some(Arc::new(share)))).ok_or_else(too_much)
    }

    /// So many bytes more are kept.
    pub fn grow(&self, bytes: usize) -> Result<(), Refusal> {
        match &self.0 {
            Some(share) if !share.grow(bytes) => Err(too_much()),
            _ => Ok(()),
        }
    }

    /// So many bytes more are kept, until it is dropped.
    pub fn count(&self, bytes: usize) -> Result<Counted, Refusal> {
        self.grow(bytes)?;
        Ok(Counted { held: self.clone(), bytes })
    }

    /// The answer, which takes its part until it has left. One that comes in pieces, however long it
    /// is, takes no more than those that are there.
    pub fn until_read(self, response: Response<Body>) -> Result<Response<Body>, Refusal> {
        if self.0.is_none() || response.body().is_end_stream() {
            return Ok(response);
        }
        let whole = match response.body().size_hint().exact() {
            Some(bytes) if !pretty::is_left(&response) => {
                Some(self.count(usize::try_from(bytes).unwrap_or(usize::MAX))?)
            }
            _ => None,
        };
        let unread = Unread::current();
        Ok(response.map(|body| Body::new(HeldBody { body, piece: Bytes::new(), whole, held: self, unread })))
    }
}

fn too_much() -> Refusal {
    Refusal::too_many_requests("too much is being kept for your requests, please try again later", 1)
}

/// Bytes that are kept for a request for part of its time.
#[derive(Debug)]
pub struct Counted {
    held: Held,
    bytes: usize,
}

impl Counted {
    /// There are no more than so many left.
    pub fn shrink_to(&mut self, bytes: usize) {
        let gone = self.bytes.saturating_sub(bytes);
        self.bytes -= gone;
        if let Some(share) = &self.held.0 {
            share.shrink(gone);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// What a body gives at once. It counts until the last slice of it has left.
struct Piece {
    bytes: Bytes,
    _counted: Counted,
    unread: Option<Arc<Unread>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(unread) = &self.unread {
            unread.left();
        }
    }
}

/// Gives the pieces of a body in slices: whoever sends them asks for the next when there is room.
struct HeldBody {
    body: Body,
    /// What is left of the last one.
    piece: Bytes,
    /// The count of a body that is there as a whole, until it is asked for.
    whole: Option<Counted>,
    held: Held,
    unread: Option<Arc<Unread>>,
}

impl HeldBody {
    fn piece(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        let counted = self.whole.take().map_or_else(|| self.held.count(bytes.len()), Ok)?;
        if let Some(unread) = &self.unread {
            unread.given();
        }
        Ok(Bytes::from_owner(Piece { bytes, _counted: counted, unread: self.unread.clone() }))
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.piece.is_empty() {
            let bytes = match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|f| f.map(Frame::into_data))
            {
                Some(Ok(Ok(bytes))) => bytes,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            self.piece = self.piece(bytes).map_err(axum::Error::new)?;
        }
        if let Some(unread) = &self.unread {
            unread.taken();
        }
        let most = self.piece.len().min(SLICE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(most)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, more) = (self.piece.len() as u64, self.body.size_hint());
        let mut all = SizeHint::new();
        all.set_lower(more.lower() + rest);
        if let Some(upper) = more.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::Request;

    use super::*;

    fn enter(user: &str, address: [u8; 4], path: &str) -> Result<Held, Refusal> {
        let caller = Caller { user: user.to_owned(), ..Caller::default() };
        let (mut parts, ()) = Request::get(path).body(()).unwrap().into_parts();
        parts.extensions.insert(Peer(IpAddr::from(address)));
        Held::enter(&caller, &parts)
    }

    #[test]
    fn nobody_fills_the_memory() {
        const NEAR: [u8; 4] = [192, 0, 2, 1];
        let (first, second) = (enter("ann", NEAR, "/").unwrap(), enter("ann", NEAR, "/").unwrap());
        first.grow(BYTES.1 / 2).unwrap();
        assert_eq!(second.grow(BYTES.1 / 2).unwrap_err().code(), 429);
        let other = enter("bob", NEAR, "/").unwrap();
        other.grow(BYTES.1 / 2).unwrap();
        drop(first);

        // An answer counts until it has been read, and is refused where it would be too much.
        let answer = || Response::new(Body::from(vec![0; BYTES.1 / 2]));
        let held = second.until_read(answer()).unwrap();
        assert_eq!(held.body().size_hint().exact(), Some((BYTES.1 / 2) as u64));
        let third = enter("ann", NEAR, "/").unwrap();
        assert_eq!(third.until_read(answer()).unwrap_err().code(), 429);
        drop(held);
        let third = enter("ann", NEAR, "/").unwrap();
        third.until_read(answer()).unwrap();

        // Selectors count for what they become, and those whom nobody knows by where they are.
        let long = format!("/?labelSelector={}", "!a,".repeat(10_000));
        let few: Vec<_> = std::iter::from_fn(|| enter(ANONYMOUS, NEAR, &long).ok()).take(1000).collect();
        assert!(few.len() < 50, "{}", few.len());
        enter(ANONYMOUS, [192, 0, 2, 2], "/").unwrap();
    }
}
