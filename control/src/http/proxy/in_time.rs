//! How long the answer to a proxied request may be awaited.

use std::time::Duration;

use axum::body::Body;
use http::Response;
use proa_api::Refusal;
use tokio::sync::watch;

/// An answer must have begun so long after the last of the request's body has been sent.
const LIMIT: Duration = Duration::from_secs(120);

/// The body, and what rings with every piece of it that is taken, until it is gone.
pub fn watched(body: Body) -> (Body, watch::Receiver<()>) {
    let (taken, seen) = watch::channel(());
    let body = http_body_util::BodyExt::map_frame(body, move |frame| {
        taken.send_replace(());
        frame
    });
    (Body::new(body), seen)
}

/// The head of the answer to a request whose body is watched.
///
/// # Errors
/// Those of the request; 504 if nothing is answered in time, so that nobody holds what others need.
pub async fn begun(
    answer: impl Future<Output = Result<Response<Body>, Refusal>>,
    mut taken: watch::Receiver<()>,
) -> Result<Response<Body>, Refusal> {
    tokio::pin!(answer);
    loop {
        tokio::select! {
            answered = &mut answer => return answered,
            () = tokio::time::sleep(LIMIT) => {
                let text = "error trying to reach service: no answer has begun in time";
                return Err(Refusal::new(504, "Timeout", text));
            }
            Ok(()) = taken.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::StreamExt;
    use http_body_util::BodyExt;

    use super::*;

    /// Sends pieces for ten minutes, and then nothing is answered for so long.
    async fn ask(then: Duration) -> Result<Response<Body>, Refusal> {
        let pieces = futures::stream::iter(0..10).then(|_| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, Infallible>(Bytes::from_static(b"piece"))
        });
        let (body, taken) = watched(Body::from_stream(pieces));
        let answer = async {
            body.collect().await.unwrap();
            tokio::time::sleep(then).await;
            Ok(Response::new(Body::empty()))
        };
        begun(answer, taken).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_is_not_awaited() {
        assert!(ask(LIMIT / 2).await.is_ok());
        assert_eq!(ask(LIMIT * 2).await.unwrap_err().code(), 504);
        let (_, taken) = watched(Body::empty());
        assert_eq!(begun(std::future::pending(), taken).await.unwrap_err().code(), 504);
    }
}
