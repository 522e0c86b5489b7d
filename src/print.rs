//! What a command says on its standard output.

use std::io::{ErrorKind, Write};

/// Prints a line. A reader that has seen enough, such as `head`, is no failure: what would follow
/// is left out.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => complain(&format!("cannot write to standard output: {error}")),
    }
}

/// Says what went wrong, where somebody still listens.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "proa: {text}");
}
