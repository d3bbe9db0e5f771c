//! Which headers pass: from a client to a backend, and from a backend to a client. Both are lists of what passes, for nobody can
//! list what carries a credential or steers a server.

/// Headers of a client that reach the backend, with the reason. The gateway sets beside these what belongs to the connection and
/// the body, the key, and the headers of the InferenceBackend.
///
/// What does not pass, among others: `authorization`, `x-api-key`, `api-key`, `x-goog-api-key`, `cookie` (the caller's own
/// credentials); `connection` and what it names, `te`, `upgrade` (of this connection alone); `forwarded`, `x-forwarded-*`,
/// `x-real-ip` (addresses of the cluster); `x-litellm-*`, `x-portkey-*`, `helicone-*` (they steer an adapter behind us);
/// `openai-organization`, `openai-project`, `anthropic-workspace-id`, `x-goog-user-project` (they choose who pays, and belong to
/// the caller's account, not to that of our key); `idempotency-key` and `x-request-id` (servers tell calls apart by them, and two
/// callers could choose the same); `accept-encoding` (the gateway has to read the answer); `x-quartermaster-*`;
/// `traceparent`, `baggage` and `x-stainless-*` (about the caller's machine).
const TO_BACKEND: [(&str, &str); 6] = [
    ("accept", "whether the client reads a stream or JSON"),
    ("anthropic-beta", "the features of Anthropic's API that the client's request uses"),
    ("anthropic-version", "the version of Anthropic's API that the client speaks"),
    ("content-type", "the form of the body, which is passed on as it is"),
    ("openai-beta", "the features of OpenAI's API that the client's request uses"),
    ("user-agent", "providers refuse calls without one, and look for broken clients by it"),
];

/// Headers of a backend that reach the client, with the reason. The gateway sets beside these what belongs to the connection and
/// the encoding of the body, and its own.
///
/// What does not pass, among others: `x-ratelimit-*` and `anthropic-ratelimit-*`, for they are about a key that all callers share
/// and that the next call may not use: a client that paces itself by them would wait for nothing, and they tell what others
/// spend; `retry-after`, which the gateway knows for all backends of the route; `set-cookie`; `location`; `server`, `via`;
/// `x-litellm-*` and `llm_provider-*`, which name the backend's address and cost; `openai-organization` and
/// `anthropic-organization-id`, which name the account.
const TO_CLIENT: [(&str, &str); 8] = [
    ("apim-request-id", "Azure's name of the call"),
    ("cache-control", "a stream is not to be stored on the way"),
    ("content-type", "the form of the body, which is passed on as it is"),
    ("openai-processing-ms", "how long the provider took"),
    ("request-id", "Anthropic's name of the call, which its SDKs show and its support asks for"),
    ("x-amzn-requestid", "the name of the call at AWS"),
    ("x-request-id", "OpenAI's name of the call, which its SDKs show and its support asks for"),
    ("x-should-retry", "whether the SDKs may repeat a call that was refused as the caller's own fault"),
];

/// Whether a header of a client is passed on to the backend. The name is in lower case, as in a `HeaderName`.
pub fn passes_to_backend(name: &str) -> bool {
    TO_BACKEND.iter().any(|(passed, _)| *passed == name)
}

/// Whether a header of a backend's answer is passed on to the client. The name is in lower case, as in a `HeaderName`.
pub fn passes_to_client(name: &str) -> bool {
    TO_CLIENT.iter().any(|(passed, _)| *passed == name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("anthropic-version")]
    #[case("anthropic-beta")]
    #[case("openai-beta")]
    #[case("accept")]
    #[case("content-type")]
    #[case("user-agent")]
    fn what_a_request_means_reaches_the_backend(#[case] name: &str) {
        assert!(passes_to_backend(name));
    }

    #[rstest]
    #[case::credentials(&["authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization", "x-amz-security-token"])]
    #[case::of_the_connection(&["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect"])]
    #[case::addresses(&["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"])]
    #[case::steers_an_adapter(&["x-litellm-tags", "x-litellm-timeout", "x-portkey-config", "helicone-fallbacks", "x-quartermaster-label-tier"])]
    #[case::who_pays(&["openai-organization", "openai-project", "anthropic-workspace-id", "x-goog-user-project"])]
    #[case::shared_by_callers(&["idempotency-key", "x-request-id"])]
    #[case::unknown(&["x-new-secret", ""])]
    fn credentials_and_what_steers_a_server_do_not(#[case] names: &[&str]) {
        for name in names {
            assert!(!passes_to_backend(name), "{name}");
        }
    }

    #[rstest]
    #[case("content-type")]
    #[case("x-request-id")]
    #[case("request-id")]
    #[case("openai-processing-ms")]
    fn the_form_and_the_name_of_an_answer_reach_the_client(#[case] name: &str) {
        assert!(passes_to_client(name));
    }

    #[rstest]
    #[case::of_an_adapter(&["x-litellm-model-api-base", "x-litellm-response-cost", "llm_provider-x-request-id", "llm_provider-retry-after"])]
    #[case::limits_of_the_key(&["x-ratelimit-remaining-tokens", "anthropic-ratelimit-requests-remaining", "retry-after", "retry-after-ms"])]
    #[case::of_the_connection(&["connection", "transfer-encoding", "content-length", "content-encoding", "upgrade", "keep-alive"])]
    #[case::of_the_account(&["openai-organization", "anthropic-organization-id", "set-cookie", "location", "server"])]
    #[case::ours(&["x-quartermaster-backend", "x-quartermaster-budget-remaining"])]
    fn keys_accounts_and_connections_of_a_backend_do_not(#[case] names: &[&str]) {
        for name in names {
            assert!(!passes_to_client(name), "{name}");
        }
    }

    #[test]
    fn every_name_is_in_lower_case_stands_once_and_has_a_reason() {
        for table in [TO_BACKEND.as_slice(), TO_CLIENT.as_slice()] {
            assert!(table.is_sorted_by(|(one, _), (next, _)| one < next), "{table:?}");
            assert!(table.iter().all(|(name, reason)| *name == name.to_lowercase() && !reason.is_empty()), "{table:?}");
        }
    }
}
