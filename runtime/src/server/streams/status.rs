//! How an `exec` or `attach` ended, as clients are told it on the stream for errors.
//!
//! Since version 4 of the protocol that is a `Status` in JSON; before, a text, and nothing for
//! success. The texts are the kubelet's.

use bytes::Bytes;
use serde_json::{Value, json};

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Success,
    /// The command gave an exit code other than 0.
    ExitCode(Vec<String>, i32),
    /// It cannot be done at all.
    Refused(String),
    /// Something failed on the way.
    Failed(String),
}

impl End {
    /// What is sent.
    pub fn encode(&self, version: u8) -> Bytes {
        let status = self.status();
        if version >= 4 {
            return status.to_string().into();
        }
        match self {
            End::Success => Bytes::new(),
            _ => status["message"].as_str().unwrap_or_default().to_owned().into(),
        }
    }

    fn status(&self) -> Value {
        match self {
            End::Success => json!({"metadata": {}, "status": "Success"}),
            End::ExitCode(command, code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!(
                    "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                    command.join(" ")
                ),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            End::Refused(why) => json!({
                "metadata": {}, "status": "Failure", "message": why, "reason": "BadRequest", "code": 400,
            }),
            End::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(end: &End, version: u8, expected: &str) {
        assert_eq!(end.encode(version), expected, "{end:?}");
    }

    #[test]
    fn what_clients_are_told() {
        check(&End::Success, 4, r#"{"metadata":{},"status":"Success"}"#);
        check(&End::Success, 3, "");
        let code = End::ExitCode(vec!["sh".to_owned(), "-c".to_owned()], 7);
        let text = "command terminated with non-zero exit code: error executing command [sh -c], exit code 7";
        check(&code, 2, text);
        let found: Value = serde_json::from_slice(&code.encode(5)).unwrap();
        assert_eq!(found["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(found["reason"], "NonZeroExitCode");
        check(&End::Failed("x".to_owned()), 1, "Internal error occurred: x");
    }
}
