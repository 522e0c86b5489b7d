//! Asking an API server that may be away.

use std::time::Duration;

use super::error::JoinError;

/// Pause before something that failed is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Asks until there is an answer. A refusal is an answer, and an error.
pub(super) async fn answered<T, F>(what: &'static str, ask: impl Fn() -> F) -> Result<T, JoinError>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(kube::Error::Api(status)) if matches!(status.code, 400..=403 | 422) => {
                return Err(JoinError::Refused { what, why: status.message });
            }
            Err(error) => tracing::warn!(%error, "cannot {what} yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
