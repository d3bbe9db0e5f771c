#[path = "classify_tests/hosted_tests.rs"]
mod hosted;
#[path = "classify_tests/self_hosted_tests.rs"]
mod self_hosted;

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use rstest::rstest;

use super::*;

const OPENAI: Server = Server::Provider(Provider::OpenAI);
const ANTHROPIC: Server = Server::Provider(Provider::Anthropic);
const GEMINI: Server = Server::Provider(Provider::Gemini);
const VERTEX: Server = Server::Provider(Provider::VertexAI);
const GROQ: Server = Server::Provider(Provider::Groq);
const OPENROUTER: Server = Server::Provider(Provider::OpenRouter);
const AZURE: Server = Server::Provider(Provider::AzureOpenAI);
const BEDROCK: Server = Server::Provider(Provider::Bedrock);
const LMSTUDIO: Server = Server::Provider(Provider::LMStudio);
/// Mistral, DeepSeek, llama.cpp's server and LiteLLM's proxy.
const COMPATIBLE: Server = Server::Provider(Provider::OpenAICompatible);

const SERVERS: [Server; 12] =
    [OPENAI, ANTHROPIC, GEMINI, VERTEX, GROQ, OPENROUTER, AZURE, BEDROCK, LMSTUDIO, COMPATIBLE, Server::Vllm, Server::Ollama];

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn kind_said(server: Server, status: u16, body: &str) -> FailureKind {
    classify(server, status, &HeaderMap::new(), body.as_bytes(), now()).kind
}

#[rstest]
#[case::openai_responses(
    OPENAI,
    r#"{"type":"response.failed","response":{"id":"r","error":{"code":"server_error","message":"x"}}}"#,
    Unavailable
)]
#[case::responses_rate(
    OPENAI,
    r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"Rate limit reached"}}}"#,
    RateLimited
)]
#[case::responses_prompt(
    OPENAI,
    r#"{"type":"response.failed","response":{"error":{"code":"invalid_prompt","message":"x"}}}"#,
    CallerFault
)]
#[case::responses_error(
    OPENAI,
    r#"{"type":"error","code":"context_length_exceeded","message":"x","param":null,"sequence_number":2}"#,
    ContextLengthExceeded
)]
#[case::anthropic(ANTHROPIC, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Unavailable)]
#[case::anthropic_fault(ANTHROPIC, r#"{"type":"error","error":{"type":"invalid_request_error","message":"x"}}"#, CallerFault)]
#[case::anthropic_long(
    ANTHROPIC,
    r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}"#,
    ContextLengthExceeded
)]
#[case::anthropic_api_error(ANTHROPIC, r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#, Unavailable)]
#[case::vllm(Server::Vllm, r#"{"error":{"message":"x","type":"BadRequestError","param":null,"code":400}}"#, CallerFault)]
#[case::vllm_engine(Server::Vllm, r#"{"error":{"message":"x","type":"InternalServerError","param":null,"code":500}}"#, Unavailable)]
#[case::groq(GROQ, r#"{"id":"x","choices":[],"x_groq":{"error":"over capacity"}}"#, Unavailable)]
#[case::openrouter(
    OPENROUTER,
    r#"{"id":"x","choices":[{"finish_reason":"error"}],"error":{"code":429,"message":"x"}}"#,
    RateLimited
)]
#[case::unknown(COMPATIBLE, r#"{"error":{"message":"something"}}"#, Unavailable)]
#[case::a_text(COMPATIBLE, r#"{"error":"something"}"#, Unavailable)]
#[case::garbage(COMPATIBLE, "garbage", Unavailable)]
#[case::empty(COMPATIBLE, "", Unavailable)]
fn an_error_in_an_answer_of_status_200_is_what_it_says(#[case] server: Server, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(classify_event(server, body.as_bytes(), now()).kind, expected);
    assert_eq!(kind_said(server, 200, body), expected);
}

#[rstest]
#[case(302, Unavailable)]
#[case(400, CallerFault)]
#[case(401, KeyRejected)]
#[case(402, QuotaExhausted)]
#[case(403, CallerFault)]
#[case(404, NotFound)]
#[case(405, NotFound)]
#[case(407, Unavailable)]
#[case(408, Timeout)]
#[case(409, CallerFault)]
#[case(410, NotFound)]
#[case(413, CallerFault)]
#[case(422, CallerFault)]
#[case(429, RateLimited)]
#[case(500, Unavailable)]
#[case(501, CallerFault)]
#[case(502, Unavailable)]
#[case(503, Unavailable)]
#[case(504, Timeout)]
#[case(520, Unavailable)]
#[case(524, Timeout)]
#[case(529, Unavailable)]
fn without_a_word_the_status_decides_the_same_for_every_server(#[case] status: u16, #[case] expected: FailureKind) {
    let page = "<!DOCTYPE html><title>API key not valid, maximum context length, tokens per day</title>";
    for server in SERVERS {
        for body in ["", "{}", "[]", "null", page] {
            assert_eq!(kind_said(server, status, body), expected, "{server:?} {body}");
        }
    }
}

#[rstest]
#[case(400, r#"{"error":{"message":"messages[0]: 'your credit balance is too low' is not valid","type":"invalid_request_error"}}"#)]
#[case(400, r#"{"error":{"message":"unknown role 'API key not valid'","type":"invalid_request_error"}}"#)]
#[case(
    400,
    r#"{"error":{"message":"Invalid value: 'insufficient_quota, tokens per day, rate limit'","type":"invalid_request_error"}}"#
)]
#[case(422, r#"{"detail":[{"msg":"Extra inputs","input":"You have reached your specified API usage limits"}]}"#)]
#[case(403, r#"{"error":{"message":"refused by policy: the prompt contains an API key","type":"policy"}}"#)]
#[case(403, r#"{"message":"Forbidden"}"#)]
#[case(
    400,
    r#"{"error":{"message":"litellm.BadRequestError: OpenAIException - bad value {\"error\":{\"code\":\"insufficient_quota\"}}"}}"#
)]
fn what_an_error_repeats_of_a_prompt_takes_no_key_out_of_service(#[case] status: u16, #[case] body: &str) {
    for server in [COMPATIBLE, Server::Vllm, Server::Ollama, LMSTUDIO, OPENROUTER] {
        assert_eq!(kind_said(server, status, body), CallerFault, "{server:?}");
    }
}

#[test]
fn a_body_of_many_mebibytes_is_judged_by_its_beginning_and_status() {
    let prompt = "lorem ipsum ".repeat(1 << 18);
    let long = format!(r#"{{"error":{{"message":"This model's maximum context length is 8. You sent: {prompt}"}}}}"#);
    assert_eq!(kind_said(Server::Vllm, 400, &long), ContextLengthExceeded);
    let repeats = format!(r#"{{"error":{{"message":"bad request: {prompt} API key not valid"}}}}"#);
    assert_eq!(kind_said(Server::Vllm, 400, &repeats), CallerFault);
    assert_eq!(kind_said(Server::Vllm, 503, &"[".repeat(1 << 22)), Unavailable);
    assert_eq!(kind_said(Server::Vllm, 503, &"[".repeat(1 << 10)), Unavailable);
}

#[test]
fn a_wait_goes_with_the_kinds_that_pass_by_waiting() {
    let headers = headers(&[("retry-after", "9")]);
    let of = |status| classify(OPENAI, status, &headers, b"", now());
    for status in [429, 503, 504] {
        assert_eq!(of(status).retry_after, Some(Duration::from_secs(9)), "{status}");
    }
    for status in [400, 401, 404] {
        assert_eq!(of(status).retry_after, None, "{status}");
    }
}

#[test]
fn googles_hint_is_followed_for_a_minute_and_not_for_a_day() {
    let body = |quota: &str| {
        format!(
            r#"[{{"error":{{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{{"violations":[{{"quotaId":"{quota}"}}]}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"36s"}}]}}}}]"#
        )
    };
    let of = |quota| classify(GEMINI, 429, &HeaderMap::new(), body(quota).as_bytes(), now());
    assert_eq!(of("RequestsPerMinute"), Failure { kind: RateLimited, retry_after: Some(Duration::from_secs(36)) });
    assert_eq!(of("RequestsPerDay"), Failure { kind: QuotaExhausted, retry_after: None });
}

/// JSON of any form, with the members that errors have.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-zA-Z_ .{}'b-]{0,40}".prop_map(|text| serde_json::Value::from(text).to_string()),
        Just(r#""litellm.RateLimitError: XException - {\"error\":{\"message\":\"litellm.A: - b'{}'\"}}""#.to_owned()),
        Just(r#""litellm.RateLimitError: XException - b'\\xff\\x4""#.to_owned()),
    ];
    let name = prop::sample::select(vec![
        "error",
        "message",
        "code",
        "type",
        "status",
        "details",
        "metadata",
        "error_type",
        "limit_source",
        "violations",
        "quotaId",
        "retryDelay",
        "availability",
        "retry_after",
        "resets_at",
        "param",
        "response",
        "x_groq",
        "detail",
        "object",
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<String> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let name = prop::sample::select(vec![
        "retry-after",
        "retry-after-ms",
        "llm_provider-retry-after",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
        "x-amzn-errortype",
    ]);
    let value = prop_oneof![
        prop::collection::vec((32u8..=255).prop_filter("no delete", |byte| *byte != 127), 0..24),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        any::<f64>().prop_map(|number| number.to_string().into_bytes()),
        Just(b"0".to_vec()),
        "[0-9]{1,3}(h|m|s|ms|d)[0-9]{0,3}".prop_map(String::into_bytes),
    ];
    prop::collection::vec((name, value), 0..6).prop_map(|pairs| {
        pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(&value).unwrap())).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_answer_is_some_kind_of_failure_with_a_bounded_wait(
        server in prop::sample::select(SERVERS.to_vec()),
        status in 100u16..=999,
        headers in any_headers(),
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), any_json().prop_map(String::into_bytes)],
        cut in 0usize..=200,
    ) {
        let cut = body.get(..cut).unwrap_or(&body);
        for body in [cut, &body] {
            for failure in [classify(server, status, &headers, body, now()), classify_event(server, body, now())] {
                prop_assert!(failure.retry_after.is_none_or(|wait| wait <= super::super::retry_after::LONGEST_WAIT));
            }
        }
    }

    #[test]
    fn every_401_is_the_keys_or_more_special(server in prop::sample::select(SERVERS.to_vec()), body in any_json()) {
        prop_assert_ne!(kind_said(server, 401, &body), CallerFault);
    }
}

#[rstest]
#[case::as_it_is("{ \"error\": {} }", Some("{ \"error\": {} }"))]
#[case::without_a_member_error("{\"detail\":[]}", Some("{\"detail\":[]}"))]
#[case::in_a_list("[ {\"error\":{\"code\":400}} ]", Some("{\"error\":{\"code\":400}}"))]
#[case::page("<html>", None)]
#[case::nothing("", None)]
#[case::cut("{\"error\":{\"message\":\"", None)]
#[case::text("\"no\"", None)]
#[case::list("[]", None)]
fn a_client_gets_the_errors_of_apis_alone(#[case] body: &'static str, #[case] expected: Option<&'static str>) {
    assert_eq!(for_client(Bytes::from_static(body.as_bytes())), expected.map(|text| Bytes::from_static(text.as_bytes())));
}
