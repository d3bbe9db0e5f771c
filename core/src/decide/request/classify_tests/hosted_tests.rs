//! What hosted providers say.

use rstest::rstest;

use super::*;

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
