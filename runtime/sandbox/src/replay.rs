//! What a container has written before somebody was attached to it, read back from its log.
//!
//! `kubectl run -i` makes a pod, waits until it runs, and attaches: a program that only says one
//! thing has said it by then. So whoever is first to attach to a young run is given what it has
//! written, and who comes later hears it from then on, as everywhere. The log has it all, so that
//! nothing is kept in memory for somebody who may never come.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::log::Stream;

/// The first who attaches to a run that is younger is given what it has written.
pub const YOUNG_MS: i64 = 60_000;
/// The last so many bytes of the log are read back.
const MAX_BYTES: u64 = 1 << 20;

/// What one stream's whole lines in a log were. The file that is written now is read; of a run
/// that has filled more than one in its first minute, the end.
pub fn written(log: &Path, stream: Stream) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(MAX_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    // The first line is one that was cut, unless the file begins with it.
    let whole = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) if start > 0 => &text[end + 1..],
        _ => &text[..],
    };
    let mut out = Vec::with_capacity(whole.len());
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        copy(line, stream, &mut out);
    }
    Ok(out)
}

/// `<time> <stream> <tag> <text>`: a line that goes on in the next has the tag `P`.
fn copy(line: &[u8], stream: Stream, out: &mut Vec<u8>) {
    let Some(line) = line.strip_suffix(b"\n") else { return };
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (Some(_), Some(source), Some(tag), Some(text)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return;
    };
    if source == stream.name().as_bytes() {
        out.extend_from_slice(text);
        if tag != b"P" {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(log: &str, stdout: &str, stderr: &str) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, log).expect("a log");
        let text = |stream| String::from_utf8(written(&path, stream).expect("it reads")).expect("text");
        assert_eq!((text(Stream::Stdout), text(Stream::Stderr)), (stdout.to_owned(), stderr.to_owned()));
    }

    #[test]
    fn lines_are_what_they_were() {
        check("", "", "");
        check("T stdout F one\nT stderr F  two \nT stdout F \nT stdout P thr\n", "one\n\nthr", " two \n");
        check("T stdout P a\nT stdout F b\nT stdout F not yet who", "ab\n", "");
        check("nonsense\nT stdout F a b\n", "a b\n", "");
    }

    #[test]
    fn of_much_the_end() {
        let line = format!("T stdout F {}\n", "x".repeat(100));
        let log = line.repeat(20_000) + "T stdout F last\n";
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, log).expect("a log");
        let found = written(&path, Stream::Stdout).expect("it reads");
        assert!(found.len() < 1 << 20 && found.ends_with(b"x\nlast\n"), "{}", found.len());
        assert!(found.starts_with(&line.as_bytes()["T stdout F ".len()..]), "no line is cut");
    }
}
