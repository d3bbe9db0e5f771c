//! Spans of time in which usage is kept: hours, days and months of UTC.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decide::gateway::exchange::usage::Hour;

/// Seconds of an hour.
pub(super) const HOUR: i64 = 3600;

/// Seconds of a day: UTC has no clock changes.
pub(super) const DAY: i64 = 24 * HOUR;

/// How long hours are kept at least: two days, for the forecast and for periods that do not start at midnight of UTC.
const HOURS_KEPT: i64 = 48 * HOUR;

/// How long days are kept at least: longer than any month, so that a monthly budget opens from days.
const DAYS_KEPT: i64 = 35 * DAY;

/// An hour, a day or a month of UTC, with its start in seconds since 1970. As text `2026-11-26T13`, `2026-11-26` or `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// An hour.
    Hour(i64),
    /// A day.
    Day(i64),
    /// A month.
    Month(i64),
}

/// A text that is no hour, day or month.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an hour such as 2026-11-26T13, nor a day such as 2026-11-26, nor a month such as 2026-11")]
pub struct ParseBucketError(pub String);

impl Bucket {
    /// The hour in which an instant is.
    pub fn hour_of(at: Timestamp) -> Self {
        Self::Hour(at.as_second().div_euclid(HOUR) * HOUR)
    }

    /// An hour as gateways report it. One that no calendar reaches is the last one that there is.
    pub fn of_reported(hour: Hour) -> Self {
        Self::hour_of(Timestamp::from_second(hour.start()).unwrap_or(Timestamp::MAX))
    }

    /// Its first second, in seconds since 1970.
    pub fn start(self) -> i64 {
        match self {
            Self::Hour(start) | Self::Day(start) | Self::Month(start) => start,
        }
    }

    /// The first second after it, in seconds since 1970.
    pub fn end(self) -> i64 {
        let length = match self {
            Self::Hour(_) => HOUR,
            Self::Day(_) => DAY,
            Self::Month(start) => i64::from(date(start).days_in_month()) * DAY,
        };
        self.start().saturating_add(length)
    }

    /// Whether it has a second in common with `[from, to)`.
    pub fn overlaps(self, from: i64, to: i64) -> bool {
        from < to && self.start() < to && from < self.end()
    }

    /// Whether all of it is within `[from, to)`.
    pub fn is_within(self, from: i64, to: i64) -> bool {
        from <= self.start() && self.end() <= to
    }

    /// The day in which it starts.
    #[must_use]
    pub fn day(self) -> Self {
        Self::Day(self.start().div_euclid(DAY).saturating_mul(DAY))
    }

    /// The month in which it starts.
    #[must_use]
    pub fn month(self) -> Self {
        let Self::Day(day) = self.day() else { return self };
        Self::Month(day.saturating_sub((i64::from(date(day).day()) - 1) * DAY))
    }

    /// The number of its month, counted from some month.
    pub(super) fn month_number(self) -> i64 {
        let date = date(self.start());
        i64::from(date.year()) * 12 + i64::from(date.month())
    }

    /// What its content is kept as at this time. It moves up only together with all others of the day or month, so that a day
    /// is always a whole day and a month a whole month, and no two buckets that are older than two days overlap.
    #[must_use]
    pub(super) fn kept_at(self, now: i64) -> Self {
        match self {
            Self::Hour(_) if self.day().end() <= now.saturating_sub(HOURS_KEPT) => self.day().kept_at(now),
            Self::Day(_) if self.month().end() <= now.saturating_sub(DAYS_KEPT) => self.month(),
            kept => kept,
        }
    }
}

/// The date of a second since 1970, or the nearest that there is.
fn date(second: i64) -> Date {
    let nearest = if second < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Offset::UTC.to_datetime(Timestamp::from_second(second).unwrap_or(nearest)).date()
}

impl fmt::Display for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = date(self.start());
        match self {
            Self::Hour(start) => write!(formatter, "{date}T{:02}", start.rem_euclid(DAY) / HOUR),
            Self::Day(_) => write!(formatter, "{date}"),
            Self::Month(_) => write!(formatter, "{:04}-{:02}", date.year(), date.month()),
        }
    }
}

impl FromStr for Bucket {
    type Err = ParseBucketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What is written in another way than it is shown here would be another key of the same bucket.
        let bucket = parse(text).filter(|bucket| bucket.to_string() == text);
        bucket.ok_or_else(|| ParseBucketError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Bucket> {
    let start = |date: &str| -> Option<i64> {
        let midnight = date.parse::<Date>().ok()?.to_datetime(Time::midnight());
        Offset::UTC.to_timestamp(midnight).ok().map(Timestamp::as_second)
    };
    if let Some((date, hour)) = text.split_once('T') {
        let hour = hour.parse::<i64>().ok().filter(|hour| (0..24).contains(hour))?;
        return Some(Bucket::Hour(start(date)? + hour * HOUR));
    }
    match text.matches('-').count() {
        1 => start(&format!("{text}-01")).map(Bucket::Month),
        _ => start(text).map(Bucket::Day),
    }
}

impl Serialize for Bucket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bucket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn hour(text: &str) -> Bucket {
        Bucket::hour_of(text.parse().unwrap())
    }

    #[test]
    fn a_bucket_knows_its_span_and_what_it_is_part_of() {
        let hour = hour("2028-02-29T13:59:59Z");
        assert_eq!((hour.start(), hour.end()), (second("2028-02-29T13:00:00Z"), second("2028-02-29T14:00:00Z")));
        assert_eq!(hour.day(), Bucket::Day(second("2028-02-29T00:00:00Z")));
        assert_eq!(hour.month(), Bucket::Month(second("2028-02-01T00:00:00Z")));
        assert_eq!(hour.month().end(), second("2028-03-01T00:00:00Z"), "a leap day");
        assert_eq!(hour.day().month(), hour.month());
        assert_eq!(hour.month().month(), hour.month());
        assert_eq!(Bucket::hour_of("2026-12-31T23:30:00Z".parse().unwrap()).month().end(), second("2027-01-01T00:00:00Z"));
    }

    #[test]
    fn a_bucket_is_read_as_it_is_written() {
        let hour = hour("2026-11-26T03:00:00Z");
        for (bucket, text) in [(hour, "2026-11-26T03"), (hour.day(), "2026-11-26"), (hour.month(), "2026-11")] {
            assert_eq!(bucket.to_string(), text);
            assert_eq!(text.parse(), Ok(bucket));
            assert_eq!(serde_json::to_string(&bucket).unwrap(), format!("\"{text}\""));
        }
        for text in [
            "",
            "T",
            "2026",
            "2026-13",
            "2026-11-31",
            "2026-11-26T24",
            "2026-11-26T3",
            "2026-11-26T-1",
            "2026-11-26T03:00",
            "20261126",
        ] {
            assert_eq!(text.parse::<Bucket>(), Err(ParseBucketError(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn hours_become_a_day_and_days_a_month_only_when_all_of_it_is_old_enough() {
        let early = hour("2026-10-31T00:00:00Z");
        let late = hour("2026-10-31T23:00:00Z");
        for (now, kept) in [
            ("2026-10-31T23:30:00Z", [early, late]),
            ("2026-11-02T23:59:59Z", [early, late]),
            ("2026-11-03T00:00:00Z", [early.day(), early.day()]),
            ("2026-12-05T23:59:59Z", [early.day(), early.day()]),
            ("2026-12-06T00:00:00Z", [early.month(), early.month()]),
            ("2030-01-01T00:00:00Z", [early.month(), early.month()]),
        ] {
            assert_eq!([early, late].map(|hour| hour.kept_at(second(now))), kept, "{now}");
        }
        // The first day of the month waits for its last one.
        let first = hour("2026-10-01T05:00:00Z");
        assert_eq!(first.kept_at(second("2026-12-05T23:59:59Z")), first.day());
        assert_eq!(first.kept_at(second("2026-12-06T00:00:00Z")), first.month());
    }

    #[test]
    fn times_that_no_calendar_reaches_do_no_harm() {
        let last = Bucket::of_reported(serde_json::from_str("4294967295").unwrap());
        assert_eq!(last, Bucket::hour_of(Timestamp::MAX));
        assert!(last.end() > last.start() && last.month().end() > last.start());
        assert_eq!(last.to_string().parse(), Ok(last));
        for bucket in [Bucket::Hour(i64::MAX), Bucket::Day(i64::MIN), Bucket::Month(i64::MAX)] {
            assert!(bucket.kept_at(0).end() >= bucket.kept_at(0).start());
        }
        assert!(Bucket::Hour(0).overlaps(i64::MIN, 1) && !Bucket::Hour(0).overlaps(3600, i64::MAX));
        assert!(!Bucket::Hour(0).overlaps(9, 9) && !Bucket::Hour(0).overlaps(9, 5), "nothing overlaps nothing");
        assert!(Bucket::Hour(0).is_within(0, 3600) && !Bucket::Hour(0).is_within(0, 3599));
    }
}
