use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

pub(super) fn spec(spec: &Value) -> PeriodSpec {
    serde_json::from_value(spec.clone()).unwrap_or_else(|error| panic!("{error}: {spec}"))
}

pub(super) fn calendar(of: &Value) -> Calendar {
    Calendar::new(&spec(of)).unwrap_or_else(|error| panic!("{error}: {of}"))
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn period(start: &str, end: &str) -> Period {
    let (start, end) = (time(start), time(end));
    Period { id: PeriodId(start.as_second()), start, end: Some(end) }
}

fn hours(period: &Period) -> f64 {
    period.end.unwrap().duration_since(period.start).as_secs_f64() / 3600.0
}

/// Holds a calendar to a table: at each instant it is in the period from the second to the third.
fn check(of: &Value, table: &[(&str, &str, &str)]) {
    let calendar = calendar(of);
    for (now, start, end) in table {
        assert_eq!(calendar.at(time(now)), When::In(period(start, end)), "{now} {of}");
    }
}

#[test]
fn a_day_is_from_local_midnight_to_local_midnight() {
    check(
        &json!({"type": "Daily"}),
        &[
            ("2026-05-05T00:00:00Z", "2026-05-05T00:00Z", "2026-05-06T00:00Z"),
            ("2026-05-05T23:59:59.999999999Z", "2026-05-05T00:00Z", "2026-05-06T00:00Z"),
            ("2028-02-29T12:00Z", "2028-02-29T00:00Z", "2028-03-01T00:00Z"),
            ("2026-12-31T12:00Z", "2026-12-31T00:00Z", "2027-01-01T00:00Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T00:00Z", "1970-01-01T00:00Z"),
        ],
    );
    check(
        &json!({"type": "Daily", "timeZone": "Asia/Kolkata"}),
        &[
            ("2026-06-15T18:29:59Z", "2026-06-14T18:30Z", "2026-06-15T18:30Z"),
            ("2026-06-15T18:30Z", "2026-06-15T18:30Z", "2026-06-16T18:30Z"),
        ],
    );
}

#[test]
fn a_day_of_a_clock_change_is_shorter_or_longer() {
    for (zone, now, start, end, length) in [
        ("America/New_York", "2026-03-08T12:00Z", "2026-03-08T05:00Z", "2026-03-09T04:00Z", 23.0),
        ("America/New_York", "2026-11-01T05:30Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z", 25.0),
        ("America/New_York", "2026-11-01T06:30Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z", 25.0),
        ("Europe/London", "2026-03-29T12:00Z", "2026-03-29T00:00Z", "2026-03-29T23:00Z", 23.0),
        ("Europe/London", "2026-10-25T12:00Z", "2026-10-24T23:00Z", "2026-10-26T00:00Z", 25.0),
        ("Australia/Lord_Howe", "2026-04-05T00:00Z", "2026-04-04T13:00Z", "2026-04-05T13:30Z", 24.5),
        ("Australia/Lord_Howe", "2026-10-04T00:00Z", "2026-10-03T13:30Z", "2026-10-04T13:00Z", 23.5),
    ] {
        let day = calendar(&json!({"type": "Daily", "timeZone": zone})).at(time(now));
        assert_eq!(day, When::In(period(start, end)), "{zone} {now}");
        assert_eq!(hours(&day.period()), length, "{zone} {now}");
    }
}

#[test]
fn a_midnight_that_is_skipped_moves_forward_and_of_two_the_earlier_counts() {
    for (zone, now, start, end) in [
        // 00:00 is 01:00.
        ("America/Havana", "2024-03-10T05:00Z", "2024-03-10T05:00Z", "2024-03-11T04:00Z"),
        ("America/Havana", "2024-03-10T04:59:59Z", "2024-03-09T05:00Z", "2024-03-10T05:00Z"),
        ("Asia/Beirut", "2022-03-27T12:00Z", "2022-03-26T22:00Z", "2022-03-27T21:00Z"),
        ("America/Asuncion", "2023-10-01T12:00Z", "2023-10-01T04:00Z", "2023-10-02T03:00Z"),
        // 01:00 is 00:00 again: midnight comes twice, and the second is within the day.
        ("America/Havana", "2024-11-03T03:59:59Z", "2024-11-02T04:00Z", "2024-11-03T04:00Z"),
        ("America/Havana", "2024-11-03T04:00Z", "2024-11-03T04:00Z", "2024-11-04T05:00Z"),
        ("America/Havana", "2024-11-03T05:00Z", "2024-11-03T04:00Z", "2024-11-04T05:00Z"),
        // 24:00 is 23:00 again: midnight comes once, an hour later.
        ("Asia/Beirut", "2022-10-29T20:30Z", "2022-10-28T21:00Z", "2022-10-29T22:00Z"),
        ("Asia/Beirut", "2022-10-29T21:30Z", "2022-10-28T21:00Z", "2022-10-29T22:00Z"),
        ("Asia/Beirut", "2022-10-29T22:00Z", "2022-10-29T22:00Z", "2022-10-30T22:00Z"),
    ] {
        let day = calendar(&json!({"type": "Daily", "timeZone": zone})).at(time(now));
        assert_eq!(day, When::In(period(start, end)), "{zone} {now}");
    }
}

#[test]
fn a_day_that_a_zone_leaves_out_is_no_period() {
    // Samoa went from the 29th to the 31st.
    let of = json!({"type": "Daily", "timeZone": "Pacific/Apia"});
    let calendar = calendar(&of);
    let before = period("2011-12-29T10:00Z", "2011-12-30T10:00Z");
    let after = period("2011-12-30T10:00Z", "2011-12-31T10:00Z");
    assert_eq!(calendar.at(time("2011-12-30T09:59:59Z")), When::In(before));
    assert_eq!(calendar.at(time("2011-12-30T10:00Z")), When::In(after));
    assert_eq!(calendar.next(&before), Some(after));
    assert_eq!(calendar.previous(&after), Some(before));
    // A Sprint that was to start on that day starts with the next.
    let of = json!({"type": "Sprint", "timeZone": "Pacific/Apia", "start": "2011-12-30T00:00", "lengthDays": 1});
    assert_eq!(self::calendar(&of).at(time("2011-12-01T00:00Z")), When::Before(after));
}

#[test]
fn a_week_starts_on_the_day_that_is_said_else_on_monday() {
    for (start, from, to) in [
        (None, "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        (Some("Monday"), "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        (Some("Tuesday"), "2026-11-24T00:00Z", "2026-12-01T00:00Z"),
        (Some("Wednesday"), "2026-11-25T00:00Z", "2026-12-02T00:00Z"),
        (Some("Thursday"), "2026-11-26T00:00Z", "2026-12-03T00:00Z"),
        (Some("Friday"), "2026-11-20T00:00Z", "2026-11-27T00:00Z"),
        (Some("Saturday"), "2026-11-21T00:00Z", "2026-11-28T00:00Z"),
        (Some("Sunday"), "2026-11-22T00:00Z", "2026-11-29T00:00Z"),
    ] {
        let of = start.map_or(json!({"type": "Weekly"}), |start| json!({"type": "Weekly", "weekStart": start}));
        // A Thursday.
        assert_eq!(calendar(&of).at(time("2026-11-26T12:00Z")), When::In(period(from, to)), "{start:?}");
    }
    check(
        &json!({"type": "Weekly", "timeZone": "Europe/Madrid"}),
        &[("2026-10-25T22:59:59Z", "2026-10-18T22:00Z", "2026-10-25T23:00Z")],
    );
}

#[test]
fn a_month_starts_on_the_day_that_is_said_or_on_its_last() {
    for (day, now, start, end) in [
        (None, "2026-11-26T12:00Z", "2026-11-01T00:00Z", "2026-12-01T00:00Z"),
        (None, "2026-12-31T23:59:59Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        (None, "2028-02-10T00:00Z", "2028-02-01T00:00Z", "2028-03-01T00:00Z"),
        (Some(15), "2026-01-14T12:00Z", "2025-12-15T00:00Z", "2026-01-15T00:00Z"),
        (Some(28), "2028-02-29T00:00Z", "2028-02-28T00:00Z", "2028-03-28T00:00Z"),
        (Some(29), "2026-02-28T00:00Z", "2026-02-28T00:00Z", "2026-03-29T00:00Z"),
        (Some(29), "2028-02-28T23:59:59Z", "2028-01-29T00:00Z", "2028-02-29T00:00Z"),
        (Some(30), "2028-02-29T00:00Z", "2028-02-29T00:00Z", "2028-03-30T00:00Z"),
        (Some(31), "2026-02-15T00:00Z", "2026-01-31T00:00Z", "2026-02-28T00:00Z"),
        (Some(31), "2026-02-28T00:00Z", "2026-02-28T00:00Z", "2026-03-31T00:00Z"),
        (Some(31), "2026-04-29T23:59:59Z", "2026-03-31T00:00Z", "2026-04-30T00:00Z"),
        (Some(31), "2026-04-30T00:00Z", "2026-04-30T00:00Z", "2026-05-31T00:00Z"),
        (Some(31), "1969-12-31T12:00Z", "1969-12-31T00:00Z", "1970-01-31T00:00Z"),
    ] {
        let of = day.map_or(json!({"type": "Monthly"}), |day: u8| json!({"type": "Monthly", "dayOfMonth": day}));
        assert_eq!(calendar(&of).at(time(now)), When::In(period(start, end)), "{day:?} {now}");
    }
    check(
        &json!({"type": "Monthly", "dayOfMonth": 8, "timeZone": "America/New_York"}),
        &[("2026-03-08T12:00Z", "2026-03-08T05:00Z", "2026-04-08T04:00Z")],
    );
}

#[test]
fn an_hour_is_one_of_the_local_clock() {
    for (zone, now, start, end) in [
        ("UTC", "2026-06-15T12:34:56.7Z", "2026-06-15T12:00Z", "2026-06-15T13:00Z"),
        ("Asia/Kolkata", "2026-06-15T12:34Z", "2026-06-15T12:30Z", "2026-06-15T13:30Z"),
        ("Asia/Kathmandu", "2026-06-15T12:34Z", "2026-06-15T12:15Z", "2026-06-15T13:15Z"),
        // 02:00 is 03:00.
        ("America/New_York", "2026-03-08T06:59:59Z", "2026-03-08T06:00Z", "2026-03-08T07:00Z"),
        ("America/New_York", "2026-03-08T07:00Z", "2026-03-08T07:00Z", "2026-03-08T08:00Z"),
        // 02:00 is 01:00 again: two hours.
        ("America/New_York", "2026-11-01T05:30Z", "2026-11-01T05:00Z", "2026-11-01T06:00Z"),
        ("America/New_York", "2026-11-01T06:30Z", "2026-11-01T06:00Z", "2026-11-01T07:00Z"),
        // 00:01 is 23:01 again: an hour of the clock, though its number changes within.
        ("America/St_Johns", "2006-10-29T02:30:30Z", "2006-10-29T02:30Z", "2006-10-29T03:30Z"),
        ("America/St_Johns", "2006-10-29T02:45Z", "2006-10-29T02:30Z", "2006-10-29T03:30Z"),
        ("UTC", "1969-12-31T23:59:59.5Z", "1969-12-31T23:00Z", "1970-01-01T00:00Z"),
    ] {
        let hour = calendar(&json!({"type": "Hourly", "timeZone": zone})).at(time(now));
        assert_eq!(hour, When::In(period(start, end)), "{zone} {now}");
    }
}

#[test]
fn an_hour_is_cut_where_the_clock_is_changed_by_a_part_of_an_hour() {
    check(
        &json!({"type": "Hourly", "timeZone": "Australia/Lord_Howe"}),
        &[
            // 02:00 is 01:30 again.
            ("2026-04-04T14:30Z", "2026-04-04T14:00Z", "2026-04-04T15:00Z"),
            ("2026-04-04T15:00Z", "2026-04-04T15:00Z", "2026-04-04T15:30Z"),
            ("2026-04-04T15:29:59.9Z", "2026-04-04T15:00Z", "2026-04-04T15:30Z"),
            ("2026-04-04T15:30Z", "2026-04-04T15:30Z", "2026-04-04T16:30Z"),
            // 02:00 is 02:30.
            ("2026-10-03T15:29:59.9Z", "2026-10-03T14:30Z", "2026-10-03T15:30Z"),
            ("2026-10-03T15:30Z", "2026-10-03T15:30Z", "2026-10-03T16:00Z"),
            ("2026-10-03T16:00Z", "2026-10-03T16:00Z", "2026-10-03T17:00Z"),
        ],
    );
    check(
        &json!({"type": "Hourly", "timeZone": "America/Caracas"}),
        &[
            // 03:00 is 02:30 again.
            ("2007-12-09T06:59:59Z", "2007-12-09T06:00Z", "2007-12-09T07:00Z"),
            ("2007-12-09T07:10Z", "2007-12-09T07:00Z", "2007-12-09T07:30Z"),
            ("2007-12-09T07:30Z", "2007-12-09T07:30Z", "2007-12-09T08:30Z"),
            // 02:30 is 03:00.
            ("2016-05-01T06:45Z", "2016-05-01T06:30Z", "2016-05-01T07:00Z"),
            ("2016-05-01T07:00Z", "2016-05-01T07:00Z", "2016-05-01T08:00Z"),
        ],
    );
}

pub(super) fn sprint(start: &str, days: u32, zone: &str) -> Value {
    json!({"type": "Sprint", "start": start, "lengthDays": days, "timeZone": zone})
}

#[test]
fn a_sprint_recurs_from_its_start_at_the_same_local_time() {
    let of = sprint("2026-11-16T09:00", 14, "Europe/Madrid");
    check(
        &of,
        &[
            ("2026-11-16T08:00Z", "2026-11-16T08:00Z", "2026-11-30T08:00Z"),
            ("2026-11-30T07:59:59Z", "2026-11-16T08:00Z", "2026-11-30T08:00Z"),
            ("2026-11-30T08:00Z", "2026-11-30T08:00Z", "2026-12-14T08:00Z"),
            ("2027-06-01T00:00Z", "2027-05-31T07:00Z", "2027-06-14T07:00Z"),
        ],
    );
    let calendar = calendar(&of);
    let first = period("2026-11-16T08:00Z", "2026-11-30T08:00Z");
    for before in ["2026-11-16T07:59:59.999999999Z", "2026-11-01T00:00Z", "1970-01-01T00:00Z"] {
        assert_eq!(calendar.at(time(before)), When::Before(first), "{before}");
    }
    assert_eq!(calendar.previous(&first), None);
    assert_eq!(calendar.next(&first), Some(period("2026-11-30T08:00Z", "2026-12-14T08:00Z")));
}

#[test]
fn fourteen_days_over_a_clock_change_are_335_or_337_hours() {
    for (start, now, length) in [
        ("2026-03-16T09:00", "2026-03-20T00:00Z", 335.0),
        ("2026-03-16T09:00", "2026-04-01T00:00Z", 336.0),
        ("2026-10-19T09:00", "2026-10-20T00:00Z", 337.0),
    ] {
        let sprint = calendar(&sprint(start, 14, "Europe/Madrid")).at(time(now)).period();
        assert_eq!(hours(&sprint), length, "{start} {now}");
    }
}

#[test]
fn a_start_that_is_skipped_moves_forward_and_of_two_the_earlier_counts() {
    check(
        &sprint("2026-03-08T02:30", 1, "America/New_York"),
        &[
            ("2026-03-08T07:30Z", "2026-03-08T07:30Z", "2026-03-09T06:30Z"),
            ("2026-03-09T06:30Z", "2026-03-09T06:30Z", "2026-03-10T06:30Z"),
        ],
    );
    check(
        &sprint("2026-11-01T01:30:00", 1, "America/New_York"),
        &[
            ("2026-11-01T05:30Z", "2026-11-01T05:30Z", "2026-11-02T06:30Z"),
            ("2026-11-01T06:30Z", "2026-11-01T05:30Z", "2026-11-02T06:30Z"),
        ],
    );
}

pub(super) fn once(start: &str, end: &str, zone: &str) -> Value {
    json!({"type": "Once", "start": start, "end": end, "timeZone": zone})
}

#[test]
fn once_is_before_within_or_over() {
    let calendar = calendar(&once("2026-12-24T18:00", "2026-12-26T06:00:30", "Europe/London"));
    let only = period("2026-12-24T18:00Z", "2026-12-26T06:00:30Z");
    for (now, when) in [
        ("2026-12-24T17:59:59Z", When::Before(only)),
        ("2026-12-24T18:00Z", When::In(only)),
        ("2026-12-26T06:00:29.999Z", When::In(only)),
        ("2026-12-26T06:00:30Z", When::After(only)),
        ("2099-01-01T00:00Z", When::After(only)),
    ] {
        assert_eq!(calendar.at(time(now)), when, "{now}");
    }
    assert_eq!(calendar.next(&only), None);
    assert_eq!(calendar.previous(&only), None);
}

#[test]
fn when_a_period_ends_is_told_as_a_clock_on_the_wall_shows_it() {
    for (of, now, resets) in [
        (sprint("2026-11-16T09:00", 14, "Europe/Madrid"), "2026-11-20T00:00Z", "Nov 30 09:00 CET"),
        (sprint("2026-11-16T09:00", 14, "Europe/Madrid"), "2026-01-01T00:00Z", "Nov 30 09:00 CET"),
        (sprint("2026-06-01T09:00", 14, "Europe/Madrid"), "2026-06-20T00:00Z", "Jun 29 09:00 CEST"),
        (json!({"type": "Monthly"}), "2026-11-26T00:00Z", "Dec 01 00:00 UTC"),
        (json!({"type": "Daily", "timeZone": "Asia/Kolkata"}), "2026-11-26T00:00Z", "Nov 27 00:00 IST"),
        (json!({"type": "Daily", "timeZone": "America/Sao_Paulo"}), "2026-11-26T12:00Z", "Nov 27 00:00 -03"),
        // The two hours between 01:00 and 02:00.
        (json!({"type": "Hourly", "timeZone": "America/New_York"}), "2026-11-01T04:30Z", "Nov 01 01:00 EDT"),
        (json!({"type": "Hourly", "timeZone": "America/New_York"}), "2026-11-01T05:30Z", "Nov 01 01:00 EST"),
        (once("2026-12-24T18:00", "2026-12-26T06:00", "Europe/London"), "2027-01-01T00:00Z", "Dec 26 06:00 GMT"),
    ] {
        let calendar = calendar(&of);
        assert_eq!(calendar.resets(&calendar.at(time(now)).period()).as_deref(), Some(resets), "{of}");
    }
    let endless = Period { end: None, ..period("2026-01-01T00:00Z", "2026-01-02T00:00Z") };
    assert_eq!(calendar(&json!({"type": "Daily"})).resets(&endless), None);
}

#[test]
fn a_clock_that_goes_back_opens_no_earlier_period() {
    let daily = calendar(&json!({"type": "Daily"}));
    let today = period("2026-05-05T00:00Z", "2026-05-06T00:00Z");
    for (now, open, when) in [
        ("2026-05-05T12:00Z", None, today),
        ("2026-05-05T12:00Z", Some(today.id), today),
        ("2026-05-04T23:59:59Z", Some(today.id), today),
        ("2020-01-01T00:00Z", Some(today.id), today),
        ("2026-05-06T00:00Z", Some(today.id), period("2026-05-06T00:00Z", "2026-05-07T00:00Z")),
    ] {
        assert_eq!(daily.never_back(time(now), open), When::In(when), "{now} {open:?}");
    }
    let first = period("2026-11-16T08:00Z", "2026-11-30T08:00Z");
    let sprint = calendar(&sprint("2026-11-16T09:00", 14, "Europe/Madrid"));
    assert_eq!(sprint.never_back(time("2026-11-01T00:00Z"), None), When::Before(first));
    assert_eq!(sprint.never_back(time("2026-11-01T00:00Z"), Some(first.id)), When::In(first));
    let only = period("2026-12-24T18:00Z", "2026-12-26T06:00Z");
    let once = calendar(&once("2026-12-24T18:00", "2026-12-26T06:00", "UTC"));
    assert_eq!(once.never_back(time("2026-12-01T00:00Z"), Some(only.id)), When::In(only));
    assert_eq!(once.never_back(time("2026-12-27T00:00Z"), Some(only.id)), When::After(only));
}

#[test]
fn a_clock_beyond_all_years_has_a_period_too() {
    for of in [
        json!({"type": "Hourly", "timeZone": "Australia/Lord_Howe"}),
        json!({"type": "Daily", "timeZone": "America/New_York"}),
        json!({"type": "Weekly", "timeZone": "Pacific/Apia"}),
        json!({"type": "Monthly", "dayOfMonth": 31}),
        sprint("8999-12-31T23:59", 366, "Pacific/Apia"),
        once("1970-01-01T00:00", "8999-12-31T23:59", "America/New_York"),
    ] {
        let calendar = calendar(&of);
        for (beyond, nearest) in [(Timestamp::MIN, EARLIEST), (Timestamp::MAX, LATEST)] {
            let when = calendar.at(beyond);
            assert_eq!(when, calendar.at(nearest), "{of}");
            assert!(when.period().start < when.period().end.unwrap(), "{of}");
            assert_eq!(matches!(when, When::In(_)), when.period().contains(nearest), "{of}");
        }
    }
}

#[test]
fn a_year_of_days_is_contiguous_and_complete_in_two_zones() {
    for (zone, lengths) in [("America/New_York", [23.0, 25.0]), ("Australia/Lord_Howe", [23.5, 24.5])] {
        let calendar = calendar(&json!({"type": "Daily", "timeZone": zone}));
        let local = |time: Timestamp| calendar.zone.to_datetime(time);
        let first = calendar.at(calendar.zone.to_timestamp(date(2027, 1, 1).at(0, 0, 0, 0)).unwrap()).period();
        let mut day = first;
        let mut unusual = Vec::new();
        for expected in date(2027, 1, 1).series(Span::new().days(1)).take(365) {
            assert_eq!(local(day.start), expected.at(0, 0, 0, 0), "{zone}");
            if hours(&day) != 24.0 {
                unusual.push(hours(&day));
            }
            // Every instant is in this one, and so in no other.
            let mut instant = day.start;
            while instant < day.end.unwrap() {
                assert_eq!(calendar.at(instant), When::In(day), "{zone} {instant}");
                instant += SignedDuration::from_mins(15);
            }
            let next = calendar.next(&day).unwrap();
            assert_eq!(Some(next.start), day.end, "{zone}");
            assert!(next.id > day.id, "{zone}");
            assert_eq!(calendar.previous(&next), Some(day), "{zone}");
            day = next;
        }
        assert_eq!(local(day.start), date(2028, 1, 1).at(0, 0, 0, 0), "{zone}");
        unusual.sort_by(f64::total_cmp);
        assert_eq!(unusual, lengths, "{zone}");
    }
}

/// Zones whose clocks do everything that clocks have done.
const ZONES: &[&str] = &[
    "UTC",
    "America/New_York",
    "Europe/London",
    "Europe/Dublin",
    "Europe/Amsterdam",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Beirut",
    "Africa/Monrovia",
    "Africa/Casablanca",
    "America/Havana",
    "America/Asuncion",
    "America/Caracas",
    "America/St_Johns",
    "Antarctica/Troll",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Pacific/Chatham",
];

const WEEKDAYS: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Specs of all types but Once.
fn recurring() -> impl Strategy<Value = Value> {
    let weekdays = prop::sample::select(WEEKDAYS);
    let start = (1970_i16..2060, 1_i8..=12, 1_i8..=28, 0_i8..24, 0_i8..60)
        .prop_map(|(year, month, day, hour, minute)| date(year, month, day).at(hour, minute, 0, 0).to_string());
    let of = prop_oneof![
        Just(json!({"type": "Hourly"})),
        Just(json!({"type": "Daily"})),
        weekdays.prop_map(|day| json!({"type": "Weekly", "weekStart": day})),
        (1_u8..=31).prop_map(|day| json!({"type": "Monthly", "dayOfMonth": day})),
        (start, 1_u32..=366).prop_map(|(start, days)| json!({"type": "Sprint", "start": start, "lengthDays": days})),
    ];
    (of, prop::sample::select(ZONES)).prop_map(|(mut of, zone)| {
        of["timeZone"] = json!(zone);
        of
    })
}

/// Instants from 1900 to 2100, and as many near a change of some clock as far from all.
fn instants() -> impl Strategy<Value = Timestamp> {
    // A fraction has the sign of the seconds.
    let any = (-2_208_988_800_i64..4_102_444_800, 0_i32..1_000_000_000)
        .prop_map(|(second, fraction)| Timestamp::new(second, if second < 0 { -fraction } else { fraction }).unwrap());
    let near = (any.clone(), prop::sample::select(ZONES), -90_000_i64..90_000).prop_map(|(time, zone, seconds)| {
        let zone = super::zone(Some(zone)).unwrap();
        let change = zone.following(time).next().map(|transition| transition.timestamp());
        change.map_or(time, |change| instant(change.as_second() + seconds))
    });
    prop_oneof![any, near]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn periods_are_contiguous_and_every_instant_is_in_one(of in recurring(), now in instants()) {
        let calendar = calendar(&of);
        let when = calendar.at(now);
        let period = when.period();
        match when {
            When::In(_) => prop_assert!(period.contains(now)),
            When::Before(_) => prop_assert!(now < period.start && of["type"] == "Sprint"),
            When::After(_) => return Err(TestCaseError::fail("only Once is ever over")),
        }
        let end = period.end.unwrap();
        prop_assert!(period.start < end);
        prop_assert_eq!(Timestamp::from_second(period.id.0).unwrap(), period.start);
        prop_assert_eq!(calendar.at(period.start), When::In(period));
        prop_assert_eq!(calendar.at(end - SignedDuration::from_nanos(1)), When::In(period));
        let next = calendar.next(&period).unwrap();
        prop_assert_eq!(next.start, end);
        prop_assert!(next.id > period.id);
        prop_assert_eq!(calendar.previous(&next), Some(period));
        match calendar.previous(&period) {
            Some(previous) => prop_assert_eq!(previous.end, Some(period.start)),
            None => prop_assert!(of["type"] == "Sprint"),
        }
    }

    #[test]
    fn an_hour_is_at_most_an_hour(zone in prop::sample::select(ZONES), now in instants()) {
        let hour = calendar(&json!({"type": "Hourly", "timeZone": zone})).at(now).period();
        prop_assert!(hours(&hour) <= 1.0);
    }

    #[test]
    fn whatever_the_clock_does_ids_only_grow(of in recurring(), clock in prop::collection::vec(instants(), 1..20)) {
        let calendar = calendar(&of);
        let mut open = None;
        for now in clock {
            if let When::In(period) = calendar.never_back(now, open) {
                prop_assert!(open <= Some(period.id));
                prop_assert!(period.end.unwrap() > now);
                open = Some(period.id);
            } else {
                prop_assert_eq!(open, None);
            }
        }
    }
}
