//! What a spec may say of periods.

use serde_json::json;

use super::tests::{calendar, once, spec, sprint};
use super::*;

#[test]
fn what_cannot_be_a_period_is_refused_with_the_field_and_the_fix() {
    let madrid = "Europe/Madrid";
    for (of, field, fix) in [
        (json!({"type": "Daily", "timeZone": "Mars/Base"}), "spec.period.timeZone is `Mars/Base`", "Europe/Madrid"),
        (json!({"type": "Daily", "timeZone": ""}), "spec.period.timeZone is ``", "Europe/Madrid"),
        (json!({"type": "Daily", "timeZone": "Etc/Unknown"}), "spec.period.timeZone is `Etc/Unknown`", "Europe/Madrid"),
        (json!({"type": "Daily", "timeZone": "CET-1CEST,M3.5.0,M10.5.0/3"}), "spec.period.timeZone", "Europe/Madrid"),
        (sprint("2026-11-16T09:00", 14, "Mars/Base"), "spec.period.timeZone is `Mars/Base`", "Europe/Madrid"),
        (sprint("2026-11-16T09:00", 0, madrid), "spec.period.lengthDays is 0", "from 1 to 366"),
        (sprint("2026-11-16T09:00", 367, madrid), "spec.period.lengthDays is 367", "from 1 to 366"),
        (json!({"type": "Sprint", "start": "2026-11-16T09:00"}), "spec.period.lengthDays is missing", "add it"),
        (json!({"type": "Sprint", "lengthDays": 14}), "spec.period.start is missing", "add it"),
        (json!({"type": "Once", "end": "2026-11-16T09:00"}), "spec.period.start is missing", "add it"),
        (json!({"type": "Once", "start": "2026-11-16T09:00"}), "spec.period.end is missing", "add it"),
        (json!({"type": "Monthly", "dayOfMonth": 0}), "spec.period.dayOfMonth is 0", "from 1 to 31"),
        (json!({"type": "Monthly", "dayOfMonth": 32}), "spec.period.dayOfMonth is 32", "from 1 to 31"),
        (json!({"type": "Monthly", "dayOfMonth": 255}), "spec.period.dayOfMonth is 255", "from 1 to 31"),
        (sprint("1969-12-31T23:59", 1, madrid), "spec.period.start is 1969-12-31T23:59", "the years 1970 to 8999"),
        (sprint("9999-12-31T23:59", 1, madrid), "spec.period.start is 9999-12-31T23:59", "the years 1970 to 8999"),
        (once("2026-01-01T00:00", "9999-12-31T23:59", madrid), "spec.period.end is 9999-12-31T23:59", "the years 1970 to 8999"),
        (once("2026-01-02T00:00", "2026-01-01T00:00", madrid), "spec.period.end 2026-01-01T00:00 is not after", "a later end"),
        (once("2026-01-01T00:00", "2026-01-01T00:00", madrid), "spec.period.end 2026-01-01T00:00 is not after", "a later end"),
        (once("2026-01-01T00:00", "soon", madrid), "spec.period.end is `soon`", "2026-11-30T09:00"),
        // The start is skipped, and the hour by which it moves leads beyond the end.
        (once("2026-03-08T02:45", "2026-03-08T03:15", "America/New_York"), "spec.period.end", "a later end"),
    ] {
        let message = Calendar::new(&spec(&of)).unwrap_err().to_string();
        assert!(message.starts_with(field) && message.contains(fix), "{of}: {message}");
    }
}

#[test]
fn a_local_time_has_one_form() {
    for text in [
        "",
        "soon",
        "2026-11-16",
        "2026-11-16 09:00",
        "2026-11-16t09:00",
        "2026-11-16T09",
        "2026-11-16T0900",
        "2026-11-16T09:00Z",
        "2026-11-16T09:00+05:00",
        "2026-11-16T09:00[Europe/Madrid]",
        "2026-11-16T09:00:00.5",
        "2026-11-16T09:00:00.0",
        "2026-11-16T09:00:60",
        "2026-11-16T24:00",
        "2026-02-29T09:00",
        "2026-13-01T09:00",
        " 2026-11-16T09:00",
    ] {
        let refused = Err(PeriodError::InvalidStart { start: text.to_owned() });
        assert_eq!(Calendar::new(&spec(&sprint(text, 14, "UTC"))), refused, "{text}");
    }
    for text in ["2026-11-16T09:00", "2026-11-16T09:00:00", "2028-02-29T23:59:59"] {
        assert!(Calendar::new(&spec(&sprint(text, 14, "UTC"))).is_ok(), "{text}");
    }
}

#[test]
fn names_of_zones_are_found_in_any_case() {
    let upper = calendar(&json!({"type": "Daily", "timeZone": "EUROPE/MADRID"}));
    assert_eq!(upper, calendar(&json!({"type": "Daily", "timeZone": "Europe/Madrid"})));
    assert_eq!(calendar(&json!({"type": "Daily"})), calendar(&json!({"type": "Daily", "timeZone": "UTC"})));
}
