//! What self-hosted servers and proxies say.

use rstest::rstest;

use super::*;

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
