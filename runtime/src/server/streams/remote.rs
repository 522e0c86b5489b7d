//! `exec` and `attach`: a client's streams joined with those of a command or a container.
//!
//! The sandbox has handed over the descriptors, so bytes move here and nowhere else. When the
//! client goes everything is dropped, which is how the sandbox knows that it must end a command.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proa_sandbox::protocol::{self, Reply, Request};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::channel::{Input, Output, Streams};
use super::pipe::Pipe;
use super::status::End;
use crate::engine::{OpenError, Running, Sandbox};

/// Bytes that are read at a time.
const READ: usize = 32 << 10;
/// What a command can have left in a pipe when it ended: all that a pipe holds, twice over.
const LEFT: usize = 128 << 10;
/// A terminal's last words come through the kernel's queues, not at once.
const TERMINAL_QUIET: Duration = Duration::from_millis(300);
/// Sizes of a terminal are small; what is longer is not one.
const MAX_SIZE_TEXT: usize = 1024;

/// What is talked to.
pub enum Talk {
    /// A command, which is started.
    Exec(Vec<String>),
    /// A container's own process.
    Attach,
}

/// Opens what is asked for, joins it with the client, and tells the client how it ended.
/// `version` is that of the client's protocol.
pub async fn run(sandbox: &Sandbox, request: Request, talk: Talk, streams: Streams, version: u8) {
    let Streams { stdin, stdout, stderr, error, resize, closed } = streams;
    let talked = async {
        let end = match sandbox.open(request).await {
            Ok(running) => join(running, &talk, Ends { stdin, stdout, stderr, resize }).await,
            Err(why) => {
                for output in [stdout, stderr].into_iter().flatten() {
                    output.end().await;
                }
                refusal(&talk, why)
            }
        };
        // The client has all the output by now, so that the end is the last it hears.
        let _ = error.send(end.encode(version)).await;
        error.end().await;
    };
    tokio::select! {
        () = closed.cancelled() => {}
        () = talked => {}
    }
}

struct Ends {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    resize: Option<Input>,
}

fn refusal(talk: &Talk, why: OpenError) -> End {
    let message = match why {
        OpenError::Refused { reason, message } if reason == "ExecNotSupported" => {
            return End::Refused(format!("cannot exec: {message}"));
        }
        other => other.to_string(),
    };
    End::Failed(match talk {
        Talk::Exec(_) => format!("error executing command in container: {message}"),
        Talk::Attach => format!("error attaching to container: {message}"),
    })
}

/// The descriptors by what they are.
#[derive(Default)]
struct Pipes {
    stdin: Option<Pipe>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    terminal: Option<Pipe>,
    keyboard: Option<Pipe>,
}

impl Pipes {
    fn of(running: &mut Running) -> std::io::Result<Self> {
        let mut pipes = Pipes::default();
        for (stream, fd) in running.streams.drain(..) {
            let place = match stream {
                protocol::Stream::Stdin => &mut pipes.stdin,
                protocol::Stream::Stdout => &mut pipes.stdout,
                protocol::Stream::Stderr => &mut pipes.stderr,
                protocol::Stream::Terminal => &mut pipes.terminal,
                protocol::Stream::Keyboard => &mut pipes.keyboard,
                protocol::Stream::Socket => continue,
            };
            *place = Some(Pipe::new(fd)?);
        }
        Ok(pipes)
    }
}

async fn join(mut running: Running, talk: &Talk, ends: Ends) -> End {
    let Ends { stdin, stdout, stderr, resize } = ends;
    let pipes = match Pipes::of(&mut running) {
        Ok(pipes) => pipes,
        Err(error) => return refusal(talk, OpenError::Io(error)),
    };
    let tty = pipes.terminal.is_some();
    let typed = std::sync::Arc::new(pipes.terminal.or(pipes.keyboard));
    let screen = std::sync::Arc::clone(&typed);
    // Whoever writes to something that takes no more has nothing to wait for: none of these holds
    // up the end.
    let sizes = std::sync::Arc::clone(&typed);
    let _typing = AbortOnDropHandle::new(tokio::spawn(async move {
        let Some(input) = stdin else { return };
        match (pipes.stdin, typed.as_ref()) {
            (Some(pipe), _) => copy_in(input, &pipe).await,
            (None, Some(terminal)) => copy_in(input, terminal).await,
            (None, None) => throw_away(input).await,
        }
    }));
    let _resizing = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(resize) = resize {
            copy_sizes(resize, sizes.as_ref().as_ref()).await;
        }
    }));
    let ended = CancellationToken::new();
    let shown = async {
        let terminal = if tty { screen.as_ref().as_ref() } else { None };
        let source = pipes.stdout.as_ref().or(terminal);
        let quiet = tty.then_some(TERMINAL_QUIET);
        tokio::join!(
            copy_out(source, stdout, &ended, quiet),
            copy_out(pipes.stderr.as_ref(), stderr, &ended, None)
        )
    };
    let ending = async {
        let reply = running.ended().await;
        // A container's pipes end by themselves, when all of it has come.
        if matches!(talk, Talk::Exec(_)) || reply.is_err() {
            ended.cancel();
        }
        reply
    };
    let (_, reply) = tokio::join!(shown, ending);
    match (reply, talk) {
        (Ok(Reply::Executed { exit_code: 0, .. } | Reply::Done), _) => End::Success,
        (Ok(Reply::Executed { exit_code, .. }), Talk::Exec(command)) => {
            End::ExitCode(command.clone(), exit_code)
        }
        (Ok(Reply::Failed { reason, message }), _) => refusal(talk, OpenError::Refused { reason, message }),
        (Ok(other), _) => End::Failed(format!("unexpected answer of the sandbox: {other:?}")),
        // The sandbox goes when its last container has ended: what that wrote has come.
        (Err(OpenError::Ended), Talk::Attach) => End::Success,
        (Err(error), _) => refusal(talk, error),
    }
}

/// Until the client ends it, or nobody reads it any more. The pipe ends with this.
async fn copy_in(mut input: Input, pipe: &Pipe) {
    while let Some(bytes) = input.recv().await {
        if pipe.write_all(&bytes).await.is_err() {
            return throw_away(input).await;
        }
    }
}

async fn throw_away(mut input: Input) {
    while input.recv().await.is_some() {}
}

/// Until the other side ends it. A command may leave others behind that keep its output open: what
/// it has written itself is there when it has ended, and that is all that is waited for.
async fn copy_out(
    pipe: Option<&Pipe>,
    output: Option<Output>,
    ended: &CancellationToken,
    quiet: Option<Duration>,
) {
    let Some(output) = output else { return };
    if let Some(pipe) = pipe {
        let mut buffer = BytesMut::zeroed(READ);
        let open = loop {
            let read = tokio::select! {
                biased;
                () = ended.cancelled() => break true,
                read = pipe.read(&mut buffer) => read,
            };
            match read {
                Ok(n) if n > 0 => {
                    if output.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                        break false;
                    }
                }
                _ => break false,
            }
        };
        let mut left = LEFT;
        while open && left > 0 {
            let read = match quiet {
                Some(quiet) => tokio::time::timeout(quiet, pipe.read(&mut buffer)).await.unwrap_or(Ok(0)),
                None => pipe.read_now(&mut buffer),
            };
            match read {
                Ok(n) if n > 0 => {
                    left = left.saturating_sub(n);
                    if output.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
    }
    output.end().await;
}

/// A size, as clients write it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

async fn copy_sizes(mut input: Input, terminal: Option<&Pipe>) {
    let mut text = BytesMut::new();
    while let Some(bytes) = input.recv().await {
        text.extend_from_slice(&bytes);
        for size in sizes(&mut text) {
            if let Some(terminal) = terminal {
                terminal.resize(size.width, size.height);
            }
        }
    }
}

/// Takes whole sizes from the front of what has come.
fn sizes(text: &mut BytesMut) -> Vec<Size> {
    let mut found = Vec::new();
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let broken = loop {
        match values.next() {
            Some(Ok(size)) => found.push(size),
            Some(Err(error)) => break !error.is_eof(),
            None => break false,
        }
    };
    let used = values.byte_offset();
    let _ = text.split_to(used.min(text.len()));
    if broken || text.len() > MAX_SIZE_TEXT {
        text.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_cut_anywhere() {
        let mut text = BytesMut::from("{\"Width\":80,\"Height\":24}\n{\"Width\":1");
        let found = sizes(&mut text);
        assert_eq!(found.iter().map(|s| (s.width, s.height)).collect::<Vec<_>>(), [(80, 24)]);
        text.extend_from_slice(b"00,\"Height\":30}\n");
        let found = sizes(&mut text);
        assert_eq!(found.iter().map(|s| (s.width, s.height)).collect::<Vec<_>>(), [(100, 30)]);
        let mut text = BytesMut::from("nonsense");
        assert!(sizes(&mut text).is_empty() && text.is_empty());
    }
}
