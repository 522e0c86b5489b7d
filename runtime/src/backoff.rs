//! Pauses between restarts and between image pulls, as the kubelet keeps them.
//!
//! Source: <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy>:
//! 10 s, doubled up to 5 min, and forgotten after 10 min without trouble. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

/// The pause that the next failure starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// How long.
    pub delay: Duration,
    /// When it last grew.
    pub updated: Timestamp,
}

impl Backoff {
    /// The pause after one more failure at `failed_at`.
    pub fn next(old: Option<Backoff>, failed_at: Timestamp, now: Timestamp) -> Backoff {
        let delay = match old {
            Some(old) if !old.is_over(failed_at) => (old.delay * 2).min(LONGEST),
            _ => FIRST,
        };
        Backoff { delay, updated: now }
    }

    /// When the pause after a failure at `failed_at` ends.
    pub fn until(&self, failed_at: Timestamp) -> Timestamp {
        if self.is_over(failed_at) { failed_at } else { later(failed_at, self.delay) }
    }

    fn is_over(&self, failed_at: Timestamp) -> bool {
        failed_at > later(self.updated, LONGEST * 2)
    }
}

/// `time` plus `by`, at most the last time there is.
pub fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// From `earlier` to `time`; nothing if that is negative.
pub fn since(time: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(earlier)).unwrap_or_default()
}

/// A duration as Go prints it: `350ms`, `1.2s`, `1m20s`, `5m0s`. Precise to milliseconds.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let mut fraction = if rest == 0 { String::new() } else { format!(".{rest:03}") };
    while fraction.ends_with('0') {
        fraction.pop();
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let tail = format!("{}{fraction}s", seconds % 60);
    match (hours, minutes) {
        (0, 0) => tail,
        (0, m) => format!("{m}m{tail}"),
        (h, m) => format!("{h}h{m}m{tail}"),
    }
}

/// A duration as Go reads it: numbers with units, as `1h30m`, `1.5s` or `0`. `None` for what is not
/// one, and for negative ones.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let in_seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += value.parse::<f64>().ok()? * in_seconds;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (350, "350ms"),
            (1200, "1.2s"),
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_661_050, "1h1m1.05s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut backoff = None;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(backoff, now, now);
            delays.push(next.delay.as_secs());
            now = next.until(now);
            backoff = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        now = later(now, Duration::from_secs(601));
        assert_eq!(Backoff::next(backoff, now, now).delay.as_secs(), 10);
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1m0.5s", Some(60_500)),
            (".5s", Some(500)),
            ("350ms", Some(350)),
            ("2000us", Some(2)),
            ("", None),
            ("30", None),
            ("s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("1 s", None),
            ("1d", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse_go_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
