use http::{HeaderName, HeaderValue};
use rstest::rstest;

use super::*;

fn told(pairs: &[(&str, &str)]) -> Option<Duration> {
    let headers =
        pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())).collect();
    wait(&headers, "2026-11-25T12:00:00Z".parse().unwrap())
}

#[rstest]
#[case::openai(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")], Some(360_000))]
#[case::openai_tokens(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "12ms")], Some(12))]
#[case::groq(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "2m59.56s")], Some(179_560))]
#[case::azure(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "42")], Some(42_000))]
#[case::openrouter(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795608030000")], Some(30_000))]
#[case::anthropic(
    &[("anthropic-ratelimit-input-tokens-remaining", "0"), ("anthropic-ratelimit-input-tokens-reset", "2026-11-25T12:00:30Z")],
    Some(30_000)
)]
#[case::behind_litellm(
    &[("llm_provider-x-ratelimit-remaining-tokens", "0"), ("llm_provider-x-ratelimit-reset-tokens", "5s")],
    Some(5_000)
)]
#[case::the_last_of_several(
    &[
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "9s"),
    ],
    Some(9_000)
)]
#[case::only_what_is_spent(
    &[
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "59s"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "9s"),
    ],
    Some(9_000)
)]
#[case::cut_to_an_hour(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "23h0m0s")], Some(3_600_000))]
fn a_key_with_nothing_left_waits_until_its_limit_is_new(#[case] pairs: &[(&str, &str)], #[case] milliseconds: Option<u64>) {
    assert_eq!(told(pairs), milliseconds.map(Duration::from_millis));
}

#[rstest]
#[case::something_left(&[("x-ratelimit-remaining-requests", "1"), ("x-ratelimit-reset-requests", "6m0s")])]
#[case::reset_unknown_at_azure(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "0")])]
#[case::remaining_unknown_at_azure(&[("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "42")])]
#[case::no_reset(&[("x-ratelimit-remaining-tokens", "0")])]
#[case::passed(&[
    ("anthropic-ratelimit-requests-remaining", "0"),
    ("anthropic-ratelimit-requests-reset", "2026-11-25T11:00:00Z"),
])]
#[case::unreadable(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "soon")])]
#[case::nothing(&[])]
fn what_is_not_known_makes_no_key_wait(#[case] pairs: &[(&str, &str)]) {
    assert_eq!(told(pairs), None);
}
