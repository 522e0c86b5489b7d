//! Children of this program that work on what strangers sent: limited in what they may use, and
//! read with a limit, as what led them astray speaks with their voice.

use std::io;
use std::process::Stdio;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// So much of what a child says about its end is kept.
const LAST_WORDS_BYTES: usize = 4 << 10;

/// What a child may use.
pub struct Limits {
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// Bytes of address space.
    pub address_space_bytes: u64,
}

impl Limits {
    /// Holds this process to them. Limits are only ever lowered, which anyone may.
    pub fn apply(&self) {
        for (resource, wanted) in
            [(Resource::RLIMIT_CPU, self.cpu_seconds), (Resource::RLIMIT_AS, self.address_space_bytes)]
        {
            if let Ok((_, hard)) = getrlimit(resource) {
                let value = wanted.min(hard);
                // Without the limit, the time limit of whoever waits still holds.
                let _ = setrlimit(resource, value, value);
            }
        }
        // Should memory end, then this process before any pod; it needs no right to say so.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        // Pods that run come before one that starts.
        // SAFETY: takes and gives numbers only.
        unsafe { libc::nice(10) };
    }
}

/// A child of this program in this role, killed when it is dropped. Nothing of the environment
/// reaches it.
pub fn command(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(role)
        .env_clear()
        // Address space that is only reserved would count against the limit.
        .env("MIMALLOC_ARENA_RESERVE", "16MiB")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Ends this process, a child, with its parent: the standard input closes then, from where nothing
/// comes any more. `last` is done before.
pub fn end_with_parent(last: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        last();
        // At once: what it was at is not to be finished.
        // SAFETY: ends the process.
        unsafe { libc::_exit(1) }
    });
}

/// The next line of at most so many bytes, without its end; `None` at the end.
pub async fn line(from: &mut (impl AsyncBufRead + Unpin), limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let got = from.take(limit_bytes).read_until(b'\n', &mut line).await?;
    if got == 0 {
        return Ok(None);
    }
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        _ => Err(io::Error::other("a line is cut off, or too long")),
    }
}

/// Reads to the end and keeps the last line, or as much of it as is worth showing.
pub async fn last_words(mut from: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..got]);
        kept.drain(..kept.len().saturating_sub(LAST_WORDS_BYTES));
    }
    let text = String::from_utf8_lossy(&kept);
    text.trim().lines().last().unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_have_a_limit() {
        let mut from = &b"one\ntwo2\nthree"[..];
        assert_eq!(line(&mut from, 5).await.unwrap().unwrap(), b"one");
        assert_eq!(line(&mut from, 5).await.unwrap().unwrap(), b"two2");
        assert!(line(&mut from, 5).await.is_err(), "too long");
        assert_eq!(line(&mut &b""[..], 5).await.unwrap(), None);
        assert!(line(&mut &b"cut"[..], 5).await.is_err());
    }

    #[tokio::test]
    async fn only_the_last_words_are_kept() {
        let long = "a".repeat(10_000);
        assert_eq!(last_words(format!("{long}\nlast\n").as_bytes()).await, "last");
        assert_eq!(last_words(long.as_bytes()).await.len(), LAST_WORDS_BYTES);
        assert_eq!(last_words(&b""[..]).await, "no reason given");
    }
}
