//! The periods of a TokenBudget: from what its spec says of civil time, to instants.
//!
//! A period is `[start, end)`, and where one ends the next one starts. Local clocks skip and repeat times: a start that is
//! skipped moves forward by what was skipped, and of one that occurs twice the first counts. So 14 days are 335 to 337 hours, a
//! day that a zone leaves out altogether is no period, and no two periods of a budget start at the same instant.
//!
//! The rules of time zones are those that are built in, and never the system's: two replicas of the operator, the command line
//! and a recorded observation agree on them.

use jiff::civil::{Date, DateTime, Time, date};
use jiff::tz::{TimeZone, TimeZoneDatabase, TimeZoneTransition};
use jiff::{Span, Timestamp};

use crate::api::token_budget::{PeriodSpec, PeriodType, Weekday};
use crate::decide::account::PeriodId;

/// Seconds of an hour.
const HOUR: i64 = 3600;

/// The first instant that is asked about, at the start of the year 1. An earlier clock is taken for this.
const EARLIEST: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// The last instant that is asked about, at the start of the year 9000: every period that contains it ends at an instant that
/// exists. A later clock is taken for this.
const LATEST: Timestamp = Timestamp::constant(221_845_392_000, 0);

/// The first year in which a budget may start: ids count from it.
const FIRST_YEAR: i16 = 1970;

/// The last year in which a budget may start or end: the one before [`LATEST`].
const LAST_YEAR: i16 = 8999;

/// The longest Sprint, in days: a leap year.
const LONGEST_SPRINT: u32 = 366;

/// A checked [`PeriodSpec`]: which period an instant belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    zone: TimeZone,
    rule: Rule,
}

/// When periods start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// With each hour of the local clock.
    Hours,
    /// At local times that can be counted, without a first one.
    Recurring(Starts),
    /// At local times that can be counted, from that with the index 0 on.
    Sprints(Starts),
    /// A single time.
    Once(Period),
}

/// Local times at which periods start, by an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starts {
    /// Every so many days, at the same local time.
    Days {
        /// That with the index 0.
        origin: DateTime,
        /// Days from one to the next.
        length: i64,
    },
    /// At midnight of a day of each month, or of its last day where it has no such day. The first month of 1970 has the index
    /// 0.
    Months {
        /// The day, from 1 to 31.
        day: i8,
    },
}

/// What is wrong with a [`PeriodSpec`], in words that name the field and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// No time zone has that name.
    #[error(
        "spec.period.timeZone is `{zone}`, which is no time zone: write the name of the IANA database, for example Europe/Madrid"
    )]
    UnknownTimeZone {
        /// What was written.
        zone: String,
    },
    /// The start is no local time.
    #[error(
        "spec.period.start is `{start}`, which is no local time: write for example 2026-11-16T09:00, without a zone, which belongs into \
         timeZone"
    )]
    InvalidStart {
        /// What was written.
        start: String,
    },
    /// The end is no local time.
    #[error(
        "spec.period.end is `{end}`, which is no local time: write for example 2026-11-30T09:00, without a zone, which belongs into \
         timeZone"
    )]
    InvalidEnd {
        /// What was written.
        end: String,
    },
    /// The end is no later instant than the start, by the clocks of the zone.
    #[error("spec.period.end {end} is not after spec.period.start {start} by the clocks of the time zone: write a later end")]
    EndNotAfterStart {
        /// The start, as it was written.
        start: String,
        /// The end, as it was written.
        end: String,
    },
    /// A field is missing that the type of the period needs.
    #[error("spec.period.{field} is missing, and periods of this type need it: add it, or choose another spec.period.type")]
    Missing {
        /// The field of `spec.period`.
        field: &'static str,
    },
    /// A field is too small or too large.
    #[error("spec.period.{field} is {value}: write {allowed}")]
    OutOfRange {
        /// The field of `spec.period`.
        field: &'static str,
        /// What was written.
        value: String,
        /// What may be written, in words.
        allowed: &'static str,
    },
}

/// A period: `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its start, in seconds since 1970: of two periods of a calendar the later one has the larger id.
    pub id: PeriodId,
    /// The first instant that belongs to it, a whole second.
    pub start: Timestamp,
    /// The first instant that does not belong to it any more, a whole second; none: it never ends. Every period ends today.
    pub end: Option<Timestamp>,
}

impl Period {
    /// Both in seconds since 1970.
    fn between(start: i64, end: i64) -> Self {
        Self { id: PeriodId(start), start: instant(start), end: Some(instant(end)) }
    }

    /// Whether the instant belongs to it.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && self.end.is_none_or(|end| time < end)
    }
}

/// How an instant lies to the periods of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// No period has begun; this is the first one. Of Sprint and Once only.
    Before(Period),
    /// It belongs to this one.
    In(Period),
    /// All periods are over; this was the last one. Of Once only.
    After(Period),
}

impl When {
    /// The period, whether it is open or not.
    pub fn period(self) -> Period {
        match self {
            Self::Before(period) | Self::In(period) | Self::After(period) => period,
        }
    }
}

impl Calendar {
    /// The calendar of a spec. Fields that the type of the period does not use are not looked at.
    ///
    /// # Errors
    ///
    /// The first field that is missing or that cannot be what it is.
    pub fn new(spec: &PeriodSpec) -> Result<Self, PeriodError> {
        let zone = zone(spec.time_zone.as_deref())?;
        let rule = match spec.type_ {
            PeriodType::Hourly => Rule::Hours,
            PeriodType::Daily => Rule::Recurring(Starts::Days { origin: midnight(date(1970, 1, 1)), length: 1 }),
            PeriodType::Weekly => {
                let origin = midnight(a_day_of(spec.week_start.unwrap_or(Weekday::Monday)));
                Rule::Recurring(Starts::Days { origin, length: 7 })
            }
            PeriodType::Monthly => Rule::Recurring(Starts::Months { day: day_of_month(spec.day_of_month.unwrap_or(1))? }),
            PeriodType::Sprint => {
                let origin = start(spec)?;
                Rule::Sprints(Starts::Days { origin, length: length_days(spec)? })
            }
            PeriodType::Once => Rule::Once(once(spec, &zone)?),
        };
        Ok(Self { zone, rule })
    }

    /// Where an instant belongs. A clock before the year 1 or after the year 8999 is taken for the nearest instant within.
    pub fn at(&self, now: Timestamp) -> When {
        let now = now.clamp(EARLIEST, LATEST);
        match self.rule {
            Rule::Once(period) if now < period.start => When::Before(period),
            Rule::Once(period) if period.contains(now) => When::In(period),
            Rule::Once(period) => When::After(period),
            Rule::Hours => When::In(self.hour(now)),
            Rule::Recurring(starts) => When::In(self.counted(starts, now)),
            Rule::Sprints(starts) => {
                let first = instant(self.start_of(starts, 0));
                if now < first { When::Before(self.counted(starts, first)) } else { When::In(self.counted(starts, now)) }
            }
        }
    }

    /// When the first period starts. None: there is no first one.
    pub fn first_start(&self) -> Option<Timestamp> {
        match self.rule {
            Rule::Hours | Rule::Recurring(_) => None,
            Rule::Sprints(starts) => Some(instant(self.start_of(starts, 0))),
            Rule::Once(period) => Some(period.start),
        }
    }

    /// The period that follows: it starts where this one ends. None after Once.
    pub fn next(&self, period: &Period) -> Option<Period> {
        match self.at(period.end?) {
            When::In(next) => Some(next),
            When::Before(_) | When::After(_) => None,
        }
    }

    /// The period before: it ends where this one starts. None before the first of a Sprint, and before Once.
    pub fn previous(&self, period: &Period) -> Option<Period> {
        // Periods start with a whole second, so that the second before belongs to the one before.
        match self.at(instant(period.id.0.saturating_sub(1))) {
            When::In(previous) => Some(previous),
            When::Before(_) | When::After(_) => None,
        }
    }

    /// When the period ends, as a clock on the wall shows it, with the abbreviation of its time and without a year, such as
    /// `Nov 30 09:00 CET`. None if it never ends. A zone without abbreviations shows its offset, such as `-03`.
    pub fn resets(&self, period: &Period) -> Option<String> {
        let end = period.end?.to_zoned(self.zone.clone());
        Some(end.strftime("%b %d %H:%M %Z").to_string())
    }

    /// Where an instant belongs, and never before the period that is open: a clock that goes back re-opens no earlier one. Once
    /// that was over is open again on such a clock, with the same id and all that was used in it.
    ///
    /// `open` is to be a period of this calendar. After an edit of the spec it is the period of the new calendar in which the
    /// old one started, or the present one if that is later; its id can be the smaller one.
    pub fn never_back(&self, now: Timestamp, open: Option<PeriodId>) -> When {
        self.at(open.map_or(now, |open| now.max(instant(open.0))))
    }

    /// The period that contains the instant. Before the first Sprint it counts on backwards.
    fn counted(&self, starts: Starts, now: Timestamp) -> Period {
        let mut index = starts.index(self.zone.to_datetime(now));
        // The local date tells the index but for one or two: the period may start later on that day, and where the clock is
        // changed, the start of a day is not always an instant of that day. Starts never decrease with the index, because no
        // zone has ever skipped or repeated more than a day at once. Of several with the same start, which a skipped day makes,
        // the last one is taken.
        while instant(self.start_of(starts, index)) > now {
            index -= 1;
        }
        while instant(self.start_of(starts, index + 1)) <= now {
            index += 1;
        }
        Period::between(self.start_of(starts, index), self.start_of(starts, index + 1))
    }

    /// A start by its index, in seconds since 1970. What no date reaches is at the end of all times on that side.
    fn start_of(&self, starts: Starts, index: i64) -> i64 {
        let start = starts.local(index).and_then(|local| self.zone.to_timestamp(local).ok());
        start.unwrap_or(if index < 0 { Timestamp::MIN } else { Timestamp::MAX }).as_second()
    }

    /// The hour of the local clock. An hour that occurs twice is two. Where the clock is changed by a part of an hour, the hour
    /// is cut at the change, so that an hour is never longer than an hour; a change by whole hours cuts nothing, whenever it
    /// happens.
    fn hour(&self, now: Timestamp) -> Period {
        let second = whole_second(now);
        let offset = i64::from(self.zone.to_offset(now).seconds());
        let start = (second + offset).div_euclid(HOUR) * HOUR - offset;
        let end = start + HOUR;
        let seconds = |transition: TimeZoneTransition<'_>| transition.timestamp().as_second();
        let is_cut = |second: &i64| self.is_changed_by_a_part_of_an_hour(*second);
        // Of the changes up to now, those before the next second.
        let mut before = self.zone.preceding(instant(second + 1)).map(seconds).take_while(|second| *second > start);
        let mut after = self.zone.following(instant(second)).map(seconds).take_while(|second| *second < end);
        Period::between(before.find(is_cut).unwrap_or(start), after.find(is_cut).unwrap_or(end))
    }

    fn is_changed_by_a_part_of_an_hour(&self, second: i64) -> bool {
        let offset = |second: i64| i64::from(self.zone.to_offset(instant(second)).seconds());
        (offset(second) - offset(second - 1)) % HOUR != 0
    }
}

impl Starts {
    /// The index of the last start that is not after the local time, but for the time of the day and the day of the month.
    fn index(self, local: DateTime) -> i64 {
        match self {
            Self::Days { origin, length } => {
                let days = local.date().duration_since(origin.date()).as_hours() / 24;
                days.div_euclid(length)
            }
            Self::Months { .. } => (i64::from(local.year()) - i64::from(FIRST_YEAR)) * 12 + i64::from(local.month()) - 1,
        }
    }

    /// The start of that index; none if no date reaches it.
    fn local(self, index: i64) -> Option<DateTime> {
        match self {
            Self::Days { origin, length } => {
                let days = Span::new().try_days(index.checked_mul(length)?).ok()?;
                origin.checked_add(days).ok()
            }
            Self::Months { day } => {
                let year = i16::try_from(i64::from(FIRST_YEAR) + index.div_euclid(12)).ok()?;
                let month = i8::try_from(index.rem_euclid(12) + 1).ok()?;
                let first = Date::new(year, month, 1).ok()?;
                Some(midnight(Date::new(year, month, day.min(first.days_in_month())).ok()?))
            }
        }
    }
}

/// The instant of a second since 1970, or the nearest that exists.
fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// The second in which an instant is, also before 1970, where a fraction counts backwards.
fn whole_second(time: Timestamp) -> i64 {
    time.as_second() - i64::from(time.subsec_nanosecond() < 0)
}

fn midnight(date: Date) -> DateTime {
    date.to_datetime(Time::midnight())
}

/// A day of that name.
fn a_day_of(weekday: Weekday) -> Date {
    match weekday {
        Weekday::Monday => date(1970, 1, 5),
        Weekday::Tuesday => date(1970, 1, 6),
        Weekday::Wednesday => date(1970, 1, 7),
        Weekday::Thursday => date(1970, 1, 8),
        Weekday::Friday => date(1970, 1, 9),
        Weekday::Saturday => date(1970, 1, 10),
        Weekday::Sunday => date(1970, 1, 11),
    }
}

/// The zone of that name, from the rules that are built in. Default: UTC.
fn zone(name: Option<&str>) -> Result<TimeZone, PeriodError> {
    let Some(name) = name else { return Ok(TimeZone::UTC) };
    let zone = TimeZoneDatabase::bundled().get(name).ok();
    // `Etc/Unknown` says that nobody knows, and would be taken for UTC.
    zone.filter(|zone| !zone.is_unknown()).ok_or_else(|| PeriodError::UnknownTimeZone { zone: name.to_owned() })
}

fn day_of_month(day: u8) -> Result<i8, PeriodError> {
    let allowed = i8::try_from(day).ok().filter(|day| (1..=31).contains(day));
    allowed.ok_or_else(|| PeriodError::OutOfRange { field: "dayOfMonth", value: day.to_string(), allowed: "a day from 1 to 31" })
}

fn length_days(spec: &PeriodSpec) -> Result<i64, PeriodError> {
    let days = spec.length_days.ok_or(PeriodError::Missing { field: "lengthDays" })?;
    if !(1..=LONGEST_SPRINT).contains(&days) {
        return Err(PeriodError::OutOfRange {
            field: "lengthDays",
            value: days.to_string(),
            allowed: "a number of days from 1 to 366",
        });
    }
    Ok(i64::from(days))
}

fn start(spec: &PeriodSpec) -> Result<DateTime, PeriodError> {
    let text = spec.start.as_deref().ok_or(PeriodError::Missing { field: "start" })?;
    let local = local_time(text).ok_or_else(|| PeriodError::InvalidStart { start: text.to_owned() })?;
    within_years("start", text, local)
}

fn end(spec: &PeriodSpec) -> Result<DateTime, PeriodError> {
    let text = spec.end.as_deref().ok_or(PeriodError::Missing { field: "end" })?;
    let local = local_time(text).ok_or_else(|| PeriodError::InvalidEnd { end: text.to_owned() })?;
    within_years("end", text, local)
}

fn within_years(field: &'static str, text: &str, local: DateTime) -> Result<DateTime, PeriodError> {
    if (FIRST_YEAR..=LAST_YEAR).contains(&local.year()) {
        return Ok(local);
    }
    Err(PeriodError::OutOfRange { field, value: text.to_owned(), allowed: "a time of the years 1970 to 8999" })
}

/// The one period of Once.
fn once(spec: &PeriodSpec, zone: &TimeZone) -> Result<Period, PeriodError> {
    let second = |local: DateTime| zone.to_timestamp(local).unwrap_or(LATEST).as_second();
    let (from, to) = (second(start(spec)?), second(end(spec)?));
    if from >= to {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        return Err(PeriodError::EndNotAfterStart { start: text(&spec.start), end: text(&spec.end) });
    }
    Ok(Period::between(from, to))
}

/// A local time in the one form that the schema allows, `2026-11-16T09:00` with or without seconds. The parser also takes dates
/// alone, fractions, leap seconds and offsets, which it would leave out of account.
fn local_time(text: &str) -> Option<DateTime> {
    let local = text.parse::<DateTime>().ok().filter(|local| local.subsec_nanosecond() == 0)?;
    let canonical = local.to_string();
    (canonical == text || canonical.strip_suffix(":00") == Some(text)).then_some(local)
}

#[cfg(test)]
#[path = "period_spec_tests.rs"]
mod spec_tests;
#[cfg(test)]
#[path = "period_tests.rs"]
mod tests;
