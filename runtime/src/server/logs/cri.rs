//! One line of a log file: `<time> <stream> <P|F> <text>`. Pure.
//!
//! Source: <https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>.

use jiff::Timestamp;

/// A line, without its line feed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// As written: RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The text goes on in the next line of the file.
    pub partial: bool,
    /// What the container wrote.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line apart; `None` if it is not in the format, such as one cut off by a full disk.
    pub fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let mut word = || std::str::from_utf8(parts.next()?).ok();
        let (time, stream, tags) = (word()?, word()?, word()?);
        let partial = match tags.split(':').next()? {
            "P" => true,
            "F" => false,
            _ => return None,
        };
        Some(Line { time, stream, partial, text: parts.next()? })
    }

    /// When it was written.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = Line::parse(b"2026-01-01T00:00:00.000000001Z stdout F a b  c").unwrap();
        assert_eq!((line.stream, line.partial, line.text), ("stdout", false, &b"a b  c"[..]));
        assert_eq!(line.timestamp().unwrap().subsec_nanosecond(), 1);
        let line = Line::parse(b"2026-01-01T00:00:00Z stderr P ").unwrap();
        assert_eq!((line.stream, line.partial, line.text), ("stderr", true, &b""[..]));
        for bad in ["", "x", "t stdout", "t stdout X y", "t stdout F"] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
