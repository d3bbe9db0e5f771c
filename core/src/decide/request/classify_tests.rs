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

// The source of each row is the provider's own documentation or SDK: platform.openai.com "Error codes", openai 3.57.0.
#[rstest]
#[case::wrong_key(401, r#"{"error":{"message":"Incorrect API key provided: sk-a***b.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#, KeyRejected)]
#[case::country(403, r#"{"error":{"message":"Country, region, or territory not supported","type":"request_forbidden","param":null,"code":"unsupported_country_region_territory"}}"#, KeyRejected)]
#[case::no_model(
    404,
    r#"{"error":{"message":"The model `x` does not exist","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
    NotFound
)]
#[case::model_of_another_project(403, r#"{"error":{"message":"Project has no access to model x","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#, NotFound)]
#[case::too_long(400, r#"{"error":{"message":"This model's maximum context length is 128000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#, ContextLengthExceeded)]
#[case::bad_field(400, r#"{"error":{"message":"Unsupported parameter: 'max_tokens'","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#, CallerFault)]
#[case::quota_by_type(429, r#"{"error":{"message":"You exceeded your current quota, please check your plan","type":"insufficient_quota","param":null,"code":null}}"#, QuotaExhausted)]
#[case::quota_by_code(
    429,
    r#"{"error":{"message":"x","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
    QuotaExhausted
)]
#[case::credit(429, r#"{"error":{"message":"x","type":"billing","code":"credit_balance_exhausted"}}"#, QuotaExhausted)]
#[case::organization(429, r#"{"error":{"message":"x","code":"organization_spend_limit_exceeded"}}"#, QuotaExhausted)]
#[case::project(429, r#"{"error":{"message":"x","code":"project_spend_limit_exceeded"}}"#, QuotaExhausted)]
#[case::usage(429, r#"{"error":{"message":"x","code":"organization_usage_limit_exceeded"}}"#, QuotaExhausted)]
#[case::rate(429, r#"{"error":{"message":"Rate limit reached for gpt-6-sol on tokens per min (TPM)","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#, RateLimited)]
#[case::slow_down(429, r#"{"error":{"message":"x","code":"slow_down"}}"#, RateLimited)]
#[case::overloaded(503, r#"{"error":{"message":"x","code":"server_is_overloaded"}}"#, Unavailable)]
#[case::slow_down_as_503(503, r#"{"error":{"message":"x","code":"slow_down"}}"#, Unavailable)]
#[case::internal(500, r#"{"error":{"message":"x","type":"server_error","param":null,"code":null}}"#, Unavailable)]
#[case::html(502, "<html><body>502 Bad Gateway</body></html>", Unavailable)]
fn openai(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(OPENAI, status, body), expected);
}

// platform.claude.com "Errors", anthropic 2.13.0 (types/shared), bug reports for the texts.
#[rstest]
#[case(401, "authentication_error", "invalid x-api-key", KeyRejected)]
#[case(402, "billing_error", "There is an issue with billing", QuotaExhausted)]
#[case(403, "permission_error", "Your API key may not use the resource", KeyRejected)]
#[case(404, "not_found_error", "model: claude-x", NotFound)]
#[case(413, "request_too_large", "Request exceeds the maximum size", CallerFault)]
#[case(429, "rate_limit_error", "This request would exceed your organization's rate limit", RateLimited)]
#[case(400, "invalid_request_error", "prompt is too long: 213000 tokens > 200000 maximum", ContextLengthExceeded)]
#[case(
    400,
    "invalid_request_error",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    ContextLengthExceeded
)]
#[case(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API.", QuotaExhausted)]
#[case(
    400,
    "invalid_request_error",
    "You have reached your specified API usage limits. You will regain access on 2026-12-01.",
    QuotaExhausted
)]
#[case(400, "invalid_request_error", "You have reached your specified workspace API usage limits.", QuotaExhausted)]
#[case(400, "invalid_request_error", "max_tokens: Field required", CallerFault)]
#[case(500, "api_error", "Internal server error", Unavailable)]
#[case(504, "timeout_error", "Timed out", Timeout)]
#[case(529, "overloaded_error", "Overloaded", Unavailable)]
fn anthropic(#[case] status: u16, #[case] type_: &str, #[case] message: &str, #[case] expected: FailureKind) {
    let body = serde_json::json!({ "type": "error", "error": { "type": type_, "message": message }, "request_id": "req_1" });
    assert_eq!(kind_said(ANTHROPIC, status, &body.to_string()), expected);
}

#[rstest]
#[case(429, "rate_limit_error", "enforced_spend_limit_reached", QuotaExhausted)]
#[case(429, "rate_limit_error", "contract_spend_limit_reached", QuotaExhausted)]
#[case(429, "rate_limit_error", "ramp_limit_exceeded", RateLimited)]
#[case(400, "invalid_request_error", "organization_on_hold", KeyRejected)]
fn anthropics_details_come_before_the_type(
    #[case] status: u16,
    #[case] type_: &str,
    #[case] code: &str,
    #[case] expected: FailureKind,
) {
    let error = serde_json::json!({ "type": type_, "message": "x", "details": { "error_code": code } });
    assert_eq!(kind_said(ANTHROPIC, status, &serde_json::json!({ "type": "error", "error": error }).to_string()), expected);
}

// ai.google.dev "Troubleshooting" and "Rate limits"; bug reports for the array and the texts.
#[rstest]
#[case::too_long(400, r#"[{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]"#, ContextLengthExceeded)]
#[case::wrong_key(400, r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]"#, KeyRejected)]
#[case::wrong_key_by_words(
    400,
    r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#,
    KeyRejected
)]
#[case::no_billing(
    400,
    r#"{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}"#,
    KeyRejected
)]
#[case::bad_field(
    400,
    r#"[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"store\"","status":"INVALID_ARGUMENT"}}]"#,
    CallerFault
)]
#[case::prepaid(402, r#"{"error":{"code":402,"message":"x"}}"#, QuotaExhausted)]
#[case::prepaid_older(
    429,
    r#"[{"error":{"code":429,"message":"Your prepayment credits are depleted.","status":"RESOURCE_EXHAUSTED"}}]"#,
    QuotaExhausted
)]
#[case::forbidden(403, r#"{"error":{"code":403,"message":"x","status":"PERMISSION_DENIED"}}"#, KeyRejected)]
#[case::no_model(404, r#"[{"error":{"code":404,"message":"models/x is not found","status":"NOT_FOUND"}}]"#, NotFound)]
#[case::minute(429, r#"[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}]}}]"#, RateLimited)]
#[case::day(429, r#"[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"36s"}]}}]"#, QuotaExhausted)]
#[case::internal(500, r#"[{"error":{"code":500,"message":"x","status":"INTERNAL"}}]"#, Unavailable)]
#[case::overloaded(503, r#"[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]"#, Unavailable)]
#[case::deadline(504, r#"[{"error":{"code":504,"message":"x","status":"DEADLINE_EXCEEDED"}}]"#, Timeout)]
fn gemini(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(GEMINI, status, body), expected);
}

#[rstest]
#[case::shared_capacity(
    429,
    r#"{"error":{"code":429,"message":"Resource exhausted. Please try again later.","status":"RESOURCE_EXHAUSTED"}}"#,
    RateLimited
)]
#[case::token_expired(401, r#"{"error":{"code":401,"message":"x","status":"UNAUTHENTICATED"}}"#, KeyRejected)]
fn vertex(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(VERTEX, status, body), expected);
}

// console.groq.com "API error codes", bug reports for the texts.
#[rstest]
#[case::minute(
    429,
    "rate_limit_exceeded",
    "tokens",
    "Rate limit reached for model `x` on tokens per minute (TPM): Limit 6000",
    RateLimited
)]
#[case::tokens_of_a_day(
    429,
    "rate_limit_exceeded",
    "tokens",
    "Rate limit reached for model `x` on tokens per day (TPD): Limit 100000",
    QuotaExhausted
)]
#[case::calls_of_a_day(
    429,
    "rate_limit_exceeded",
    "requests",
    "Rate limit reached for model `x` on requests per day (RPD): Limit 1000",
    QuotaExhausted
)]
#[case::one_call_above_a_minute(
    413,
    "rate_limit_exceeded",
    "tokens",
    "Request too large for model `x` on tokens per minute (TPM): Limit 6000",
    ContextLengthExceeded
)]
#[case::unprocessable(422, "", "invalid_request_error", "x", CallerFault)]
#[case::failed_dependency(424, "", "invalid_request_error", "x", CallerFault)]
#[case::flex(498, "capacity_exceeded", "", "x", Unavailable)]
#[case::internal(500, "", "internal_server_error", "x", Unavailable)]
#[case::gateway(502, "", "", "x", Unavailable)]
#[case::unavailable(503, "", "", "x", Unavailable)]
fn groq(#[case] status: u16, #[case] code: &str, #[case] type_: &str, #[case] message: &str, #[case] expected: FailureKind) {
    let body = serde_json::json!({ "error": { "message": message, "type": type_, "code": code } });
    assert_eq!(kind_said(GROQ, status, &body.to_string()), expected);
}

// openrouter.ai/docs "Errors and debugging", of OpenRouterTeam/docs.
#[rstest]
#[case(400, r#"{"error_type":"context_length_exceeded"}"#, ContextLengthExceeded)]
#[case(401, r#"{"error_type":"authentication"}"#, KeyRejected)]
#[case(403, r#"{"error_type":"permission_denied"}"#, KeyRejected)]
#[case(402, r#"{"error_type":"payment_required"}"#, QuotaExhausted)]
#[case(429, r#"{"error_type":"rate_limit_exceeded"}"#, RateLimited)]
#[case(503, r#"{"error_type":"provider_overloaded"}"#, Unavailable)]
#[case(502, r#"{"error_type":"provider_unavailable"}"#, Unavailable)]
#[case(500, r#"{"error_type":"server"}"#, Unavailable)]
#[case(500, r#"{"error_type":"unmapped"}"#, Unavailable)]
#[case(408, r#"{"error_type":"timeout"}"#, Timeout)]
#[case(404, r#"{"error_type":"not_found"}"#, NotFound)]
#[case(400, r#"{"error_type":"invalid_request"}"#, CallerFault)]
#[case::budget(403, r#"{"error_type":"permission_denied","limit_source":"workspace_budget"}"#, QuotaExhausted)]
#[case::limit_of_the_key(403, r#"{"error_type":"permission_denied","limit_source":"openrouter_key_limit"}"#, QuotaExhausted)]
#[case::moderation(403, r#"{"reasons":["violence"],"flagged_input":"...","provider_name":"OpenAI"}"#, CallerFault)]
fn openrouter(#[case] status: u16, #[case] metadata: &str, #[case] expected: FailureKind) {
    let body = format!(r#"{{"error":{{"code":{status},"message":"x","metadata":{metadata}}}}}"#);
    assert_eq!(kind_said(OPENROUTER, status, &body), expected);
    assert_eq!(classify_event(OPENROUTER, body.as_bytes(), now()).kind, expected, "the same with status 200");
}

#[test]
fn openrouters_missing_model_and_passing_payment_limits_are_told_apart() {
    let missing = r#"{"error":{"code":400,"message":"x is not available","availability":{"code":"model_not_found"}}}"#;
    assert_eq!(kind_said(OPENROUTER, 400, missing), NotFound);
    let payment = br#"{"error":{"code":402,"message":"x","metadata":{"error_type":"payment_required"}}}"#;
    let told = classify(OPENROUTER, 402, &headers(&[("retry-after", "7")]), payment, now());
    assert_eq!(told, Failure { kind: RateLimited, retry_after: Some(Duration::from_secs(7)) });
}

// learn.microsoft.com "Azure OpenAI", bug reports.
#[rstest]
#[case(401, r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key"}}"#, KeyRejected)]
#[case(403, r#"{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}"#, KeyRejected)]
#[case(
    404,
    r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
    NotFound
)]
#[case(
    429,
    r#"{"error":{"code":"429","message":"Requests have exceeded call rate limit of your current pricing tier."}}"#,
    RateLimited
)]
#[case(
    400,
    r#"{"error":{"code":"content_filter","message":"x","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
    CallerFault
)]
#[case(503, r#"{"error":{"code":"503","message":"x"}}"#, Unavailable)]
fn azure(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(AZURE, status, body), expected);
}

// docs.aws.amazon.com "InvokeModel" and "Converse": errors.
#[rstest]
#[case("ThrottlingException", 429, "Too many requests, please wait before trying again.", RateLimited)]
#[case("ThrottlingException", 429, "Too many tokens per day, please wait before trying again.", QuotaExhausted)]
#[case("ModelNotReadyException", 429, "The model is not ready", Unavailable)]
#[case("ServiceQuotaExceededException", 400, "x", RateLimited)]
#[case("ValidationException", 400, "Input is too long for requested model.", ContextLengthExceeded)]
#[case("ValidationException", 400, "Too many input tokens. Max input tokens: 8192", ContextLengthExceeded)]
#[case("ValidationException", 400, "The provided model identifier is invalid.", NotFound)]
#[case("ValidationException", 400, "Malformed input request", CallerFault)]
#[case("AccessDeniedException", 403, "You don't have access to the model", KeyRejected)]
#[case("ResourceNotFoundException", 404, "x", NotFound)]
#[case("ModelTimeoutException", 408, "x", Timeout)]
#[case("ModelErrorException", 424, "x", Unavailable)]
#[case("InternalServerException", 500, "x", Unavailable)]
#[case("ServiceUnavailableException", 503, "x", Unavailable)]
fn bedrock(#[case] type_: &str, #[case] status: u16, #[case] message: &str, #[case] expected: FailureKind) {
    let body = serde_json::json!({ "message": message }).to_string();
    let type_ = format!("{type_}:http://internal.amazon.com/coral/com.amazon.bedrock/");
    let failure = classify(BEDROCK, status, &headers(&[("x-amzn-errortype", &type_)]), body.as_bytes(), now());
    assert_eq!(failure.kind, expected);
}

#[test]
fn bedrocks_path_for_openai_clients_is_judged_by_status_and_words() {
    assert_eq!(kind_said(BEDROCK, 424, ""), Unavailable);
    assert_eq!(kind_said(BEDROCK, 403, r#"{"error":{"message":"x"}}"#), KeyRejected);
    assert_eq!(kind_said(BEDROCK, 429, ""), RateLimited);
}

// docs.mistral.ai "Error glossary" and its OpenAPI file; bug reports for the texts.
#[rstest]
#[case(400, r#"{"object":"error","message":"Prompt contains 66385 tokens, too large for model with 32768 maximum context length","type":"invalid_request_error","param":null,"code":"3051"}"#, ContextLengthExceeded)]
#[case(400, r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500"}"#, NotFound)]
#[case(401, r#"{"detail":"Unauthorized"}"#, KeyRejected)]
#[case(402, r#"{"object":"error","message":"x","type":"x","param":null,"code":null}"#, QuotaExhausted)]
#[case(
    403,
    r#"{"object":"error","message":"Your account does not have permission to use this model","type":"x","param":null,"code":null}"#,
    KeyRejected
)]
#[case(404, r#"{"object":"error","message":"x","type":"x","param":null,"code":null}"#, NotFound)]
#[case(422, r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted","input":1}]},"type":"invalid_request_error","param":null,"code":null}"#, CallerFault)]
#[case(429, r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}"#, RateLimited)]
#[case(500, r#"{"object":"error","message":"x","type":"x","param":null,"code":null}"#, Unavailable)]
#[case(502, "", Unavailable)]
#[case(503, "", Unavailable)]
#[case(504, "", Timeout)]
fn mistral(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(COMPATIBLE, status, body), expected);
}

// api-docs.deepseek.com "Error codes".
#[rstest]
#[case(400, r#"{"error":{"message":"This model's maximum context length is 131072 tokens.","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#, ContextLengthExceeded)]
#[case(
    400,
    r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
    NotFound
)]
#[case(
    400,
    r#"{"error":{"message":"Invalid format","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
    CallerFault
)]
#[case(
    401,
    r#"{"error":{"message":"Authentication Fails","type":"authentication_error","param":null,"code":"invalid_request_error"}}"#,
    KeyRejected
)]
#[case(
    402,
    r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#,
    QuotaExhausted
)]
#[case(422, r#"{"error":{"message":"Invalid parameters","type":"invalid_request_error"}}"#, CallerFault)]
#[case(429, r#"{"error":{"message":"Concurrency limit reached"}}"#, RateLimited)]
#[case(500, "", Unavailable)]
#[case(503, "", Unavailable)]
fn deepseek(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(COMPATIBLE, status, body), expected);
}

// vllm 0.33.0: renderers/params.py, entrypoints/serve/exception_handling, entrypoints/anthropic.
#[rstest]
#[case(
    400,
    r#"{"error":{"message":"You passed 5000 input tokens","type":"BadRequestError","param":"input_tokens","code":400}}"#,
    ContextLengthExceeded
)]
#[case(400, r#"{"error":{"message":"x","type":"BadRequestError","param":"input_text","code":400}}"#, ContextLengthExceeded)]
#[case(400, r#"{"error":{"message":"This model's maximum context length is 4096 tokens.","type":"BadRequestError","param":null,"code":400}}"#, ContextLengthExceeded)]
#[case(
    400,
    r#"{"error":{"message":"temperature must be non-negative","type":"BadRequestError","param":"temperature","code":400}}"#,
    CallerFault
)]
#[case(422, r#"{"error":{"message":"x","type":"UnprocessableEntityError","param":null,"code":422}}"#, CallerFault)]
#[case(501, r#"{"error":{"message":"x","type":"Not Implemented","param":null,"code":501}}"#, CallerFault)]
#[case(404, r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#, NotFound)]
#[case(401, r#"{"error":"Unauthorized"}"#, KeyRejected)]
#[case(401, r#""Unauthorized""#, KeyRejected)]
#[case(503, r#"{"error":{"message":"x","type":"Service Unavailable","param":null,"code":503}}"#, Unavailable)]
#[case(
    500,
    r#"{"error":{"message":"EngineCore encountered an issue","type":"InternalServerError","param":null,"code":500}}"#,
    Unavailable
)]
#[case(503, r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#, Unavailable)]
fn vllm(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(Server::Vllm, status, body), expected);
    assert_eq!(kind_said(COMPATIBLE, status, body), expected);
}

// ollama/ollama: openai/openai.go, server/routes.go, llm/llama_server.go.
#[rstest]
#[case(
    404,
    r#"{"error":{"message":"model \"x\" not found, try pulling it first","type":"not_found_error","param":null,"code":null}}"#,
    NotFound
)]
#[case(503, r#"{"error":{"message":"server busy, please try again. maximum pending requests exceeded","type":"api_error","param":null,"code":null}}"#, Unavailable)]
#[case(429, r#"{"error":{"message":"x","type":"api_error","param":null,"code":null}}"#, RateLimited)]
#[case(502, r#"{"error":{"message":"x","type":"api_error","param":null,"code":null}}"#, Unavailable)]
#[case(499, r#"{"error":{"message":"x","type":"api_error","param":null,"code":null}}"#, Unavailable)]
#[case(400, r#"{"error":{"message":"the prompt is longer than the context length","type":"invalid_request_error","param":null,"code":null}}"#, ContextLengthExceeded)]
#[case(400, r#"{"error":{"message":"invalid options","type":"invalid_request_error","param":null,"code":null}}"#, CallerFault)]
fn ollama(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(Server::Ollama, status, body), expected);
}

// Bug reports of both servers.
#[rstest]
#[case(LMSTUDIO, r#"{"error":"Trying to keep the first 6269 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}"#)]
#[case(LMSTUDIO, r#"{"error":"The number of tokens to keep from the initial prompt is greater than the context length."}"#)]
#[case(COMPATIBLE, r#"{"error":{"code":400,"message":"request (9412 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":9412,"n_ctx":8192}}"#)]
fn local_servers_name_a_prompt_that_is_too_long(#[case] server: Server, #[case] body: &str) {
    assert_eq!(kind_said(server, 400, body), ContextLengthExceeded);
}

// LiteLLM 1.106.2, run before scripted providers: the status that it answers, the class, what it wraps.
#[rstest]
#[case(
    500,
    "InternalServerError: AnthropicException - ",
    r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
    Unavailable
)]
#[case(
    500,
    "InternalServerError: VertexAIException InternalServerError - ",
    r#"[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]"#,
    Unavailable
)]
#[case(
    400,
    "BadRequestError: AnthropicException - ",
    r#"{"type":"error","error":{"type":"request_too_large","message":"x"}}"#,
    CallerFault
)]
#[case(400, "BadRequestError: AnthropicException - ", r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#, QuotaExhausted)]
#[case(503, "ServiceUnavailableError: BedrockException - ", r#"{"message":"x"}"#, Unavailable)]
#[case(
    401,
    "AuthenticationError: GeminiException - ",
    r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
    KeyRejected
)]
#[case(
    400,
    "ContextWindowExceededError: AnthropicException - ",
    r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}"#,
    ContextLengthExceeded
)]
#[case(400, "ContextWindowExceededError: OpenAIException - ", "too long", ContextLengthExceeded)]
#[case(402, "PaymentRequiredError: DeepseekException - ", r#"{"error":{"message":"Insufficient Balance"}}"#, QuotaExhausted)]
#[case(
    429,
    "RateLimitError: RateLimitError: OpenAIException - ",
    "You exceeded your current quota, please check your plan and billing details.",
    QuotaExhausted
)]
#[case(
    429,
    "RateLimitError: RateLimitError: OpenAIException - ",
    "Rate limit reached for gpt-6-sol on tokens per min (TPM)",
    RateLimited
)]
#[case(429, "RateLimitError: GeminiException - ", r#"{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"RequestsPerMinute"}]}]}}"#, RateLimited)]
#[case(408, "Timeout: AnthropicException - ", "timed out", Timeout)]
#[case(500, "APIConnectionError: OpenAIException - ", "Connection error.", Unavailable)]
fn litellm_wraps_and_changes_the_status(
    #[case] status: u16,
    #[case] class: &str,
    #[case] inner: &str,
    #[case] expected: FailureKind,
) {
    let message = format!("litellm.{class}{inner}\n\nLiteLLM: model group a, no fallbacks");
    let body = serde_json::json!({ "error": { "message": message, "type": null, "param": null, "code": status.to_string() } });
    assert_eq!(kind_said(COMPATIBLE, status, &body.to_string()), expected);
    let literal = format!("litellm.{class}b'{}'", inner.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"));
    let body = serde_json::json!({ "error": { "message": literal, "type": null, "param": null, "code": status.to_string() } });
    if inner.starts_with(['{', '[']) {
        assert_eq!(classify_event(COMPATIBLE, body.to_string().as_bytes(), now()).kind, expected, "{literal}");
    }
}

// LiteLLM 1.106.2 without a database: about its own keys and models.
#[rstest]
#[case(400, r#"{"error":{"message":"/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models","type":"invalid_request_error","param":null,"code":"400"}}"#, NotFound)]
#[case(400, r#"{"error":{"message":"No connected db.","type":"no_db_connection","param":null,"code":"400"}}"#, KeyRejected)]
#[case(400, r#"{"error":{"message":"Authentication Error, Invalid proxy server token passed.","type":"auth_error","param":"None","code":"400"}}"#, KeyRejected)]
#[case(
    422,
    r#"{"error":{"message":"Budget has been exceeded!","type":"budget_exceeded","param":null,"code":"422"}}"#,
    QuotaExhausted
)]
#[case(429, r#"{"error":{"message":"x","type":"throttling_error","param":null,"code":"429"}}"#, RateLimited)]
fn litellms_proxy_has_errors_of_its_own(#[case] status: u16, #[case] body: &str, #[case] expected: FailureKind) {
    assert_eq!(kind_said(COMPATIBLE, status, body), expected);
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
