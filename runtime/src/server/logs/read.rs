//! Streams a log: the part that was asked for, and what is added while somebody follows.
//!
//! Files are read on threads that nobody else waits for; one who follows waits on none.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::cri::Line;
use super::files::{self, Place};
use super::notice::Notice;
use crate::away::away;

/// What is written within this time is read together.
const TOGETHER: Duration = Duration::from_millis(10);

/// Which part of a log, and in which form: the fields of `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines written at this time or later.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// How somebody follows a log until the run that writes it has ended.
pub struct Following<F> {
    /// Of the log's directory.
    pub notice: Notice,
    /// Tells whether the run has not ended …
    pub is_running: F,
    /// … which may have changed when this has.
    pub shown: watch::Receiver<()>,
}

/// Reads a log.
pub async fn read(
    log: PathBuf,
    options: Options,
    following: Option<Following<impl Fn() -> bool + Send + 'static>>,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    // What is written after the last lines were looked for is none of them.
    let lines_left = options.tail_lines.filter(|_| following.is_none());
    let reader = away(move || {
        let place = files::open(&log, options.tail_lines)?;
        Ok::<_, io::Error>(Reader {
            log,
            place,
            pending: Vec::new(),
            formatter: Formatter::new(options, lines_left),
        })
    });
    let reader = reader.await?;
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(error) = copy(reader, following, &send).await {
            let _ = send.send(Err(error)).await;
        }
    });
    Ok(futures::stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) }))
}

async fn copy(
    mut reader: Reader,
    mut following: Option<Following<impl Fn() -> bool>>,
    send: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    loop {
        let read;
        (reader, read) = away(move || reader.read().map(|read| (reader, read))).await?;
        if let Some(piece) = read {
            if !piece.is_empty() && send.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
            if reader.formatter.is_done() {
                return Ok(());
            }
            continue;
        }
        let Some(Following { notice, is_running, shown }) = &mut following else { return Ok(()) };
        if !is_running() {
            // What was written before the end is seen by the read after this answer.
            following = None;
            continue;
        }
        tokio::select! {
            () = notice.changed() => tokio::time::sleep(TOGETHER).await,
            Ok(()) = shown.changed() => {}
            () = send.closed() => return Ok(()),
        }
    }
}

struct Reader {
    log: PathBuf,
    place: Place,
    /// What was read and is no whole line yet.
    pending: Vec<u8>,
    formatter: Formatter,
}

impl Reader {
    /// Reads on and gives what the client is to see of that; `None` at the log's present end.
    fn read(&mut self) -> io::Result<Option<Bytes>> {
        while self.place.read(&mut self.pending)? == 0 {
            // The file has no more now. Rotation happens after its last line was written, so one
            // more read after a successor has shown up gets all of it.
            let Some(next) = self.place.next(&self.log)? else { return Ok(None) };
            if self.place.read(&mut self.pending)? > 0 {
                break;
            }
            self.place = next;
        }
        let mut out = Vec::new();
        let used = self.formatter.format(&self.pending, &mut out);
        self.pending.drain(..used);
        Ok(Some(out.into()))
    }
}

/// Turns lines of the file into what the client sees.
struct Formatter {
    options: Options,
    /// Bytes that may still be sent.
    left: Option<u64>,
    /// Lines of the file that may still be read.
    lines_left: Option<u64>,
    /// The next text begins a line of the container.
    at_line_start: bool,
    /// The line that is being continued is shown.
    shown: bool,
}

impl Formatter {
    fn new(options: Options, lines_left: Option<u64>) -> Self {
        Formatter { left: options.limit_bytes, lines_left, at_line_start: true, shown: true, options }
    }

    /// The client has got all that it wants.
    fn is_done(&self) -> bool {
        self.left == Some(0) || self.lines_left == Some(0)
    }

    /// Formats whole lines; returns how many bytes of `input` they were.
    fn format(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut used = 0;
        while self.lines_left != Some(0)
            && let Some(end) = input[used..].iter().position(|byte| *byte == b'\n')
        {
            self.lines_left = self.lines_left.map(|lines| lines - 1);
            self.line(&input[used..used + end], out);
            used += end + 1;
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        used
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(line) else { return };
        if self.at_line_start {
            let since = self.options.since;
            self.shown = since.is_none_or(|since| line.timestamp().is_some_and(|time| time >= since));
            if self.shown && self.options.timestamps {
                out.extend_from_slice(line.time.as_bytes());
                out.push(b' ');
            }
        }
        if self.shown {
            out.extend_from_slice(line.text);
            if !line.partial {
                out.push(b'\n');
            }
        }
        self.at_line_start = !line.partial;
    }
}

#[cfg(test)]
mod tests {
    use super::super::notice::Notices;
    use super::*;
    use futures::TryStreamExt;
    use std::fmt::Write as _;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn lines(range: std::ops::Range<u32>) -> String {
        range.fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "2026-01-01T00:00:{n:02}.000000000Z stdout F line {n}");
            text
        })
    }

    fn log(dir: &Path) -> PathBuf {
        let log = dir.join("0.log");
        std::fs::write(dir.join("0.log.2"), lines(0..2)).unwrap();
        std::fs::write(dir.join("0.log.1"), lines(2..4)).unwrap();
        std::fs::write(&log, lines(4..6)).unwrap();
        log
    }

    const NOBODY: Option<Following<fn() -> bool>> = None;

    async fn text(log: &Path, options: Options) -> String {
        let stream = read(log.to_owned(), options, NOBODY).await.unwrap();
        let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
        String::from_utf8(parts.concat()).unwrap()
    }

    fn numbers(range: std::ops::Range<u32>) -> String {
        range.map(|n| format!("line {n}\n")).collect()
    }

    #[tokio::test]
    async fn what_comes_meanwhile_is_none_of_the_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        std::fs::write(&log, lines(0..3)).unwrap();
        let place = files::open(&log, Some(1)).unwrap();
        std::fs::write(&log, lines(0..5)).unwrap();
        let (send, mut receive) = mpsc::channel(4);
        let options = Options { tail_lines: Some(1), ..Options::default() };
        let formatter = Formatter::new(options, Some(1));
        copy(Reader { log, place, pending: Vec::new(), formatter }, NOBODY, &send).await.unwrap();
        assert_eq!(receive.recv().await.unwrap().unwrap(), "line 2\n");
    }

    #[tokio::test]
    async fn parts_of_a_rotated_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        assert_eq!(text(&log, Options::default()).await, numbers(0..6));
        for (tail, first) in [(0, 6), (1, 5), (2, 4), (3, 3), (6, 0), (9, 0)] {
            let options = Options { tail_lines: Some(tail), ..Options::default() };
            assert_eq!(text(&log, options).await, numbers(first..6), "tail {tail}");
        }
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(text(&log, Options { since, ..Options::default() }).await, numbers(3..6));
        let options = Options { limit_bytes: Some(10), ..Options::default() };
        assert_eq!(text(&log, options).await, "line 0\nlin");
        let options = Options { timestamps: true, tail_lines: Some(1), ..Options::default() };
        assert_eq!(text(&log, options).await, "2026-01-01T00:00:05.000000000Z line 5\n");
    }

    #[tokio::test]
    async fn long_lines_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let time = "2026-01-01T00:00:00.000000000Z";
        std::fs::write(&log, format!("{time} stdout P ab\n{time} stdout F c\nnonsense\n{time} stderr F d\n"))
            .unwrap();
        let options = Options { timestamps: true, ..Options::default() };
        assert_eq!(text(&log, options).await, format!("{time} abc\n{time} d\n"));
    }

    #[tokio::test]
    async fn following_goes_on_over_rotations_until_the_run_ends() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let running = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&running);
        let (notices, show) = (Notices::start().unwrap(), watch::Sender::new(()));
        let following = Following {
            notice: notices.of(dir.path()).unwrap(),
            is_running: move || asked.load(Ordering::SeqCst),
            shown: show.subscribe(),
        };
        let options = Options { tail_lines: Some(1), ..Options::default() };
        let stream = read(log.clone(), options, Some(following)).await.unwrap();
        let mut stream = std::pin::pin!(stream);
        assert_eq!(&stream.try_next().await.unwrap().unwrap()[..], numbers(5..6).as_bytes());
        // Two rotations between two looks.
        for n in [6, 7] {
            let name = |k: u32| dir.path().join(format!("0.log.{k}"));
            for k in (1..9).rev() {
                let _ = std::fs::rename(name(k), name(k + 1));
            }
            std::fs::rename(&log, name(1)).unwrap();
            std::fs::write(&log, lines(n..n + 1)).unwrap();
        }
        for n in [6, 7] {
            assert_eq!(&stream.try_next().await.unwrap().unwrap()[..], numbers(n..n + 1).as_bytes());
        }
        running.store(false, Ordering::SeqCst);
        show.send_replace(());
        let rest: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(rest.is_empty());
    }
}
