//! How a guest ended, and what that is as an exit code and in words.

use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::host;

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By a trap.
    Trapped {
        /// Why, in a line.
        cause: String,
        /// Where: the trap with its backtrace.
        details: String,
    },
    /// It was refused memory, and that was its end.
    OutOfMemory,
    /// It was interrupted after SIGTERM.
    Interrupted,
    /// It never ran.
    Failed(String),
}

impl Outcome {
    /// What an error that came out of a guest means.
    pub fn of_error(error: &wasmtime::Error) -> Self {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::Exited(exit.0);
        }
        if host::memory_was_denied() {
            return Self::OutOfMemory;
        }
        match error.downcast_ref::<Trap>() {
            // Nothing else interrupts a guest that runs as a command.
            Some(Trap::Interrupt) => Self::Interrupted,
            Some(trap) => Self::Trapped { cause: trap.to_string(), details: format!("{error:?}") },
            None => Self::Failed(format!("{error:#}")),
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::Trapped { .. } => 134,
            Self::OutOfMemory => 137,
            Self::Interrupted => 143,
            Self::Failed(_) => 1,
        }
    }

    /// What there is to say beyond the message, for the log.
    pub fn details(&self) -> Option<&String> {
        match self {
            Self::Trapped { details, .. } => Some(details),
            _ => None,
        }
    }

    /// The container's reason and message, where the code alone does not say it.
    pub fn report(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Exited(_) => None,
            Self::Trapped { cause, .. } => Some(("Error", cause.clone())),
            Self::OutOfMemory => {
                Some(("OOMKilled", "the guest asked for more memory than its limit".to_owned()))
            }
            Self::Interrupted => Some(("Error", "interrupted by SIGTERM".to_owned())),
            Self::Failed(message) => Some(("Error", message.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_exit_codes() {
        let check = |error: wasmtime::Error, code| {
            assert_eq!(Outcome::of_error(&error).exit_code(), code, "{error:#}");
        };
        check(I32Exit(7).into(), 7);
        check(Trap::UnreachableCodeReached.into(), 134);
        check(Trap::Interrupt.into(), 143);
        check(wasmtime::format_err!("no such export"), 1);
    }

    #[test]
    fn a_trap_is_told_in_one_line() {
        let error = wasmtime::Error::from(Trap::UnreachableCodeReached).context("while running\na guest");
        let outcome = Outcome::of_error(&error);
        let (_, message) = outcome.report().expect("a message");
        assert_eq!(message, "wasm trap: wasm `unreachable` instruction executed");
        assert!(outcome.details().is_some_and(|details| details.contains("while running\na guest")));
    }
}
