//! A container's log file, in the CRI format: `<time> <stream> <P|F> <text>` per line
//! (<https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>).
//!
//! A line over 16 KiB is written in parts tagged `P`, the last of them `F`; so is what follows the last
//! line feed of all, without an `F`. When the file has
//! grown over its limit it becomes `<log>.1`, what was `.1` becomes `.2`, and so on. A disk that
//! takes nothing costs log lines, never a container: they are counted, and the count is written
//! when the disk takes something again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Bytes of text in one line at most.
const MAX_LINE: usize = 16 << 10;

/// Where a container's line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; everything, for a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What of a stream's last line has been read.
#[derive(Default)]
pub struct Partial(Vec<u8>);

impl Partial {
    /// What the log does not have yet.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An open log file.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    lost_lines: u64,
}

impl Log {
    /// Opens the file for appending, with the directories on the way.
    pub fn open(path: &str, max_bytes: u64, max_files: u32) -> io::Result<Self> {
        let path = PathBuf::from(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file: Some(file), size, max_bytes, max_files, lost_lines: 0 })
    }

    /// Writes the lines that end in `bytes`, and keeps the rest in `partial`.
    pub fn append(&mut self, stream: Stream, partial: &mut Partial, bytes: &[u8], now: Timestamp) {
        let mut out = Lines::new(stream, now);
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            out.parts(&mut partial.0, line);
            out.push('F', &partial.0);
            partial.0.clear();
            rest = &after[1..];
        }
        out.parts(&mut partial.0, rest);
        self.write(out);
    }

    /// Writes what is left of a stream that has ended. Its tag says that no line feed followed.
    pub fn finish(&mut self, stream: Stream, partial: &mut Partial, now: Timestamp) {
        if partial.0.is_empty() {
            return;
        }
        let mut out = Lines::new(stream, now);
        out.push('P', &partial.0);
        partial.0 = Vec::new();
        self.write(out);
    }

    fn write(&mut self, lines: Lines) {
        if lines.count == 0 {
            return;
        }
        if self.max_bytes > 0 && self.size >= self.max_bytes {
            self.rotate();
        }
        if self.lost_lines > 0 {
            let note = format!("proa: {} log lines were lost because the disk took none", self.lost_lines);
            let mut told = Lines::new(Stream::Stderr, lines.now);
            told.push('F', note.as_bytes());
            if self.put(&told.bytes) {
                self.lost_lines = 0;
            }
        }
        if !self.put(&lines.bytes) {
            self.lost_lines += lines.count;
        }
    }

    fn put(&mut self, bytes: &[u8]) -> bool {
        if self.file.is_none() {
            self.file = append(&self.path).ok();
        }
        let written = self.file.as_mut().is_some_and(|file| file.write_all(bytes).is_ok());
        if written {
            self.size += bytes.len() as u64;
        }
        written
    }

    /// A rename that fails leaves the file growing: losing the log would be worse.
    fn rotate(&mut self) {
        let name = |n: u32| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..self.max_files).rev() {
            let _ = fs::rename(name(n), name(n + 1));
        }
        let moved =
            if self.max_files == 0 { fs::remove_file(&self.path) } else { fs::rename(&self.path, name(1)) };
        if moved.is_ok() {
            self.file = None;
            self.size = 0;
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Formatted lines of one stream, for one write.
struct Lines {
    now: Timestamp,
    prefix: String,
    bytes: Vec<u8>,
    count: u64,
}

impl Lines {
    fn new(stream: Stream, now: Timestamp) -> Self {
        Self { now, prefix: format!("{now:.9} {} ", stream.name()), bytes: Vec::new(), count: 0 }
    }

    /// Adds text to a line that has not ended, writing out whatever is over the limit.
    fn parts(&mut self, partial: &mut Vec<u8>, mut text: &[u8]) {
        while partial.len() + text.len() > MAX_LINE {
            let (part, rest) = text.split_at(MAX_LINE - partial.len());
            partial.extend_from_slice(part);
            self.push('P', partial);
            partial.clear();
            text = rest;
        }
        partial.extend_from_slice(text);
    }

    fn push(&mut self, tag: char, text: &[u8]) {
        self.bytes.extend_from_slice(self.prefix.as_bytes());
        self.bytes.push(tag as u8);
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(text);
        self.bytes.push(b'\n');
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_midnight() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn open(max_bytes: u64, max_files: u32) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pods/web/0.log");
        let log = Log::open(&path.display().to_string(), max_bytes, max_files).expect("a log");
        (dir, log)
    }

    #[test]
    fn lines_are_in_the_cri_format() {
        let (_dir, mut log) = open(0, 0);
        let mut partial = Partial::default();
        log.append(Stream::Stdout, &mut partial, b"hello\nwor", at_midnight());
        log.append(Stream::Stderr, &mut Partial::default(), b"\n", at_midnight());
        log.append(Stream::Stdout, &mut partial, b"ld\nend", at_midnight());
        log.finish(Stream::Stdout, &mut partial, at_midnight());
        let want = "2026-01-01T00:00:00.000000000Z stdout F hello\n\
                    2026-01-01T00:00:00.000000000Z stderr F \n\
                    2026-01-01T00:00:00.000000000Z stdout F world\n\
                    2026-01-01T00:00:00.000000000Z stdout P end\n";
        assert_eq!(fs::read_to_string(&log.path).expect("the log"), want);
    }

    #[test]
    fn long_lines_come_in_parts() {
        let (_dir, mut log) = open(0, 0);
        let mut partial = Partial::default();
        log.append(Stream::Stdout, &mut partial, &vec![b'x'; 2 * MAX_LINE + 3], at_midnight());
        log.append(Stream::Stdout, &mut partial, b"\n", at_midnight());
        let text = fs::read_to_string(&log.path).expect("the log");
        let parts: Vec<_> = text.lines().map(|line| (&line[38..39], line.len() - 40)).collect();
        assert_eq!(parts, [("P", MAX_LINE), ("P", MAX_LINE), ("F", 3)]);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let (_dir, mut log) = open(60, 2);
        for n in 0..10 {
            log.append(
                Stream::Stdout,
                &mut Partial::default(),
                format!("line {n}\n").as_bytes(),
                at_midnight(),
            );
        }
        let read =
            |suffix: &str| fs::read_to_string(format!("{}{suffix}", log.path.display())).unwrap_or_default();
        assert!(read("").ends_with("line 9\n"));
        assert!(read(".1").ends_with("line 7\n"), "{}", read(".1"));
        assert!(read(".2").ends_with("line 5\n"));
        assert_eq!(read(".3"), "");
    }
}
