//! How long a backend asks to be left alone.

use std::time::Duration;

use http::HeaderMap;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

use super::error_body::ErrorBody;
use super::remaining_limits;

/// The longest wait that is believed: as long as a key with a spent quota is left alone at most (gateway.md). A longer one is
/// cut to it, and one real call tries the key again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How long a backend asks to be left alone: `retry-after-ms`, `retry-after` (a number of seconds or an HTTP date), what the
/// error itself says, or until the limit is new of which nothing remains. The first that can be read counts; never more than
/// [`LONGEST_WAIT`], and nothing for a time that has passed.
pub(crate) fn retry_after(headers: &HeaderMap, error: &ErrorBody, now: Timestamp) -> Option<Duration> {
    let milliseconds = header(headers, "retry-after-ms").and_then(seconds).map(|thousands| thousands / 1000);
    let seconds_or_date =
        || header(headers, "retry-after").and_then(|value| seconds(value).or_else(|| Some(until(http_date(value)?, now))));
    let body = || error.waits.iter().find_map(|wait| wait_of(wait, now));
    let wait = milliseconds.or_else(seconds_or_date).or_else(body);
    wait.map(|wait| wait.min(LONGEST_WAIT)).or_else(|| remaining_limits::wait(headers, now))
}

/// A header as text, also as LiteLLM passes on those of its provider.
pub(super) fn header<'headers>(headers: &'headers HeaderMap, name: &str) -> Option<&'headers str> {
    let value = headers.get(name).or_else(|| headers.get(format!("llm_provider-{name}")))?;
    Some(value.to_str().ok()?.trim())
}

/// A wait in any form in which providers say it: seconds, a duration such as `6m0s` or `12ms`, an RFC 3339 time, or seconds or
/// milliseconds since 1970, which no wait is as long as.
pub(super) fn wait_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return match number {
            100_000_000_000.. => Some(until(Timestamp::from_millisecond(number).ok()?, now)),
            1_000_000_000.. => Some(until(Timestamp::from_second(number).ok()?, now)),
            _ => Some(Duration::from_secs(u64::try_from(number).ok()?)),
        };
    }
    if let Some(seconds) = seconds(text) {
        return Some(seconds);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(until(time, now));
    }
    Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()
}

/// A number of seconds, which may have a fraction; none if it is negative or no number.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = is_number.then(|| text.parse().ok()).flatten()?;
    // More than fits is more than is believed.
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// The time until then; nothing for a time that has passed.
fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
#[path = "retry_after_tests.rs"]
mod tests;
