//! The verdict on a Job: that it has succeeded or failed, and why.

/// The condition that says what is coming once all pods have ended.
pub(super) const SUCCESS: &str = "SuccessCriteriaMet";
/// The same for a Job that has failed.
pub(super) const FAILURE: &str = "FailureTarget";

/// What a Job has come to, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// [`SUCCESS`] or [`FAILURE`].
    pub target: &'static str,
    pub reason: String,
    pub message: String,
}

impl Verdict {
    pub fn failure(reason: &str, message: &str) -> Self {
        Verdict { target: FAILURE, reason: reason.to_owned(), message: message.to_owned() }
    }

    pub fn success(reason: &str, message: String) -> Self {
        Verdict { target: SUCCESS, reason: reason.to_owned(), message }
    }

    /// True if the Job has done its work.
    pub fn is_success(&self) -> bool {
        self.target == SUCCESS
    }
}
