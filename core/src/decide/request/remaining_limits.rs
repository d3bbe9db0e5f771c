//! What a provider says is left of a key's limits.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use super::retry_after::{LONGEST_WAIT, header, wait_of};

/// The limits that providers speak of: what remains, and when it is new. OpenAI, Groq and Azure name the first two, OpenRouter
/// and Mistral the third, Anthropic the others.
const LIMITS: [(&str, &str); 7] = [
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
];

/// How long the key of an answer, also of a good one, has to wait before its next call would meet a wall: until the last of the
/// limits is new of which nothing remains. `None`: something remains of each, or nothing is said. At most [`LONGEST_WAIT`].
pub fn wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    // Most answers say nothing of limits, which is seen faster than that none of the names is there.
    if !headers.keys().any(|name| name.as_str().contains("ratelimit")) {
        return None;
    }
    let spent = LIMITS.iter().filter(|(remaining, _)| header(headers, remaining) == Some("0"));
    // A reset of 0 is how Azure says that it does not know.
    let resets = spent.filter_map(|(_, reset)| wait_of(header(headers, reset)?, now)).filter(|wait| !wait.is_zero());
    resets.max().map(|wait| wait.min(LONGEST_WAIT))
}

#[cfg(test)]
#[path = "remaining_limits_tests.rs"]
mod tests;
