use http::{HeaderName, HeaderValue};
use rstest::rstest;

use super::*;

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

fn told(pairs: &[(&str, &str)], body: &str) -> Option<f64> {
    retry_after(&headers(pairs), &ErrorBody::read(body.as_bytes()), now()).map(|wait| wait.as_secs_f64())
}

const NO_BODY: &str = "";

#[rstest]
#[case::seconds(&[("retry-after", "30")], Some(30.0))]
#[case::fraction(&[("retry-after", "1.5")], Some(1.5))]
#[case::spaces(&[("retry-after", " 30 ")], Some(30.0))]
#[case::at_once(&[("retry-after", "0")], Some(0.0))]
#[case::milliseconds(&[("retry-after-ms", "1500"), ("retry-after", "30")], Some(1.5))]
#[case::milliseconds_unread(&[("retry-after-ms", "soon"), ("retry-after", "30")], Some(30.0))]
#[case::http_date(&[("retry-after", "Wed, 25 Nov 2026 12:01:00 GMT")], Some(60.0))]
#[case::passed_date(&[("retry-after", "Wed, 25 Nov 2026 11:00:00 GMT")], Some(0.0))]
#[case::of_a_provider_behind_litellm(&[("llm_provider-retry-after", "12")], Some(12.0))]
#[case::the_proxys_own_first(&[("llm_provider-retry-after", "12"), ("retry-after", "3")], Some(3.0))]
#[case::negative(&[("retry-after", "-5")], None)]
#[case::word(&[("retry-after", "soon")], None)]
#[case::not_a_number(&[("retry-after", "NaN")], None)]
#[case::infinite(&[("retry-after", "inf")], None)]
#[case::dot(&[("retry-after", ".")], None)]
#[case::empty(&[("retry-after", "")], None)]
#[case::cut_to_an_hour(&[("retry-after", "86400")], Some(3600.0))]
#[case::more_than_fits(&[("retry-after", "99999999999999999999999999")], Some(3600.0))]
#[case::far_date(&[("retry-after", "Fri, 25 Nov 2033 12:00:00 GMT")], Some(3600.0))]
#[case::nothing(&[], None)]
fn headers_say_how_long_to_wait(#[case] pairs: &[(&str, &str)], #[case] expected: Option<f64>) {
    assert_eq!(told(pairs, NO_BODY), expected);
}

#[rstest]
#[case::gemini(
    r#"[{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"36s"}]}}]"#,
    Some(36.0)
)]
#[case::gemini_fraction(r#"{"error":{"details":[{"retryDelay":"36.5s"}]}}"#, Some(36.5))]
#[case::openrouter(r#"{"error":{"code":429,"availability":{"retry_after":7}}}"#, Some(7.0))]
#[case::openrouter_reset_in_milliseconds(r#"{"error":{"metadata":{"resets_at":1795608030000}}}"#, Some(30.0))]
#[case::openrouter_reset_in_seconds(r#"{"error":{"metadata":{"resets_at":1795608030}}}"#, Some(30.0))]
#[case::openrouter_reset_as_time(r#"{"error":{"metadata":{"resets_at":"2026-11-25T12:00:30Z"}}}"#, Some(30.0))]
#[case::null(r#"{"error":{"metadata":{"resets_at":null}}}"#, None)]
#[case::word(r#"{"error":{"details":[{"retryDelay":"soon"}]}}"#, None)]
fn bodies_say_how_long_to_wait(#[case] body: &str, #[case] expected: Option<f64>) {
    assert_eq!(told(&[], body), expected);
}

#[test]
fn a_header_comes_before_the_body_and_the_body_before_a_reset() {
    let spent = [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "50s")];
    let body = r#"{"error":{"details":[{"retryDelay":"36s"}]}}"#;
    assert_eq!(told(&[spent[0], spent[1], ("retry-after", "5")], body), Some(5.0));
    assert_eq!(told(&spent, body), Some(36.0));
    assert_eq!(told(&spent, NO_BODY), Some(50.0));
}

#[rstest]
#[case::openai("6m0s", 360.0)]
#[case::openai_short("12ms", 0.012)]
#[case::openai_long("1h2m3s", 3723.0)]
#[case::groq("2m59.56s", 179.56)]
#[case::groq_short("7.66s", 7.66)]
#[case::azure("42", 42.0)]
#[case::anthropic("2026-11-25T12:00:30Z", 30.0)]
#[case::anthropic_passed("2026-11-25T11:00:30Z", 0.0)]
#[case::offset("2026-11-25T13:00:30+01:00", 30.0)]
fn waits_are_read_in_the_form_of_each_provider(#[case] text: &str, #[case] seconds: f64) {
    assert_eq!(wait_of(text, now()), Some(Duration::try_from_secs_f64(seconds).unwrap()));
}

#[rstest]
#[case("-1")]
#[case("-5s")]
#[case("")]
#[case("x")]
#[case("1e300")]
fn what_is_no_wait_is_none(#[case] text: &str) {
    assert_eq!(wait_of(text, now()), None);
}
